"""Runs `palate` commands in this process."""

from pathlib import Path

from typer.testing import CliRunner, Result

from app.cli.__main__ import app

RATINGS = "ann,dune,4\nann,heat,3\nbob,dune,1\n"
QUICK = ("--set", "n_factors=4", "--set", "n_epochs=3")


def palate(*arguments: str | Path, stdin: str = "") -> Result:
    """The result of a command run in this process; an exception that it does not handle fails the test."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(each) for each in arguments], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def refusal(result: Result, code: int = 1) -> str:
    """The line that says why a command was refused."""
    assert result.exit_code == code, result.output
    [line] = result.stderr.splitlines()
    return line
