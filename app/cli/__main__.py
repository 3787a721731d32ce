"""The `palate` script, and `python -m app.cli`: the list of all commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from app.cli import data, keys, models, serve, train, tune
from app.cli.terminal import Commands

app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, help="Palate: recommendations from rating values."
)

app.command("import")(data.import_ratings)
COMMANDS: tuple[Callable[..., None], ...] = (
    *(serve.serve, serve.worker, serve.demo, serve.migrate, serve.doctor, serve.precompile),
    *(data.import_items, data.export, data.recommend, data.digest, data.backup, data.restore),
    *(train.train, tune.tune, train.evaluate),
)
for command in COMMANDS:
    app.command()(command)

models_app = typer.Typer(no_args_is_help=True, help="Published model versions.")
models_app.command("list")(models.list_models)
models_app.command("activate")(models.activate_model)
models_app.command("delete")(models.delete_model)
app.add_typer(models_app, name="models")

keys_app = typer.Typer(no_args_is_help=True, help="API keys and their scopes.")
keys_app.command("create")(keys.create_key)
keys_app.command("list")(keys.list_keys)
keys_app.command("revoke")(keys.revoke_key)
app.add_typer(keys_app, name="keys")


@app.callback()
def set_data_dir(
    data_dir: Annotated[
        Path | None, typer.Option(help="Data folder; the same as PALATE_DATA_DIR.", show_default=False)
    ] = None,
) -> None:
    """Settings come from the environment (PALATE_...); docs/settings.md lists them."""
    if data_dir is not None:
        os.environ["PALATE_DATA_DIR"] = str(data_dir)


def main() -> None:
    """Entry point of the `palate` script."""
    app(prog_name="palate")


if __name__ == "__main__":
    main()
