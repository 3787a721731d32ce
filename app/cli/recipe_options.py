"""Options that say how and on which loss to train, read from and written as words of a command line."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.terminal import USAGE_ERROR, CommandFailed

if TYPE_CHECKING:
    from app.engine.recipe import Recipe
    from app.settings import Settings

LossOption = Annotated[
    str | None, typer.Option(help='Loss to minimize: a name or an expression such as "log(cosh(r - r_hat))".')
]
PenaltyOption = Annotated[str | None, typer.Option(help="l2, elastic_net, none, or an expression in theta.")]
LinkOption = Annotated[str | None, typer.Option(help="identity, sigmoid or exp; the loss's own by default.")]
LossParameterOption = Annotated[
    list[str] | None, typer.Option(help="A parameter of the loss, such as delta=1.5; repeat for several.")
]


def read_recipe(
    settings: Settings,
    hyperparameters: list[str] | None = None,
    error: str | None = None,
    penalty: str | None = None,
    link: str | None = None,
    loss_parameters: list[str] | None = None,
) -> Recipe:
    """The recipe of the settings with the options that are set; raises InvalidHyperparameter and InvalidLoss.

    If any option of the loss is set, the unset ones have the defaults of the catalog.
    """
    from app.engine.hyperparameters import Hyperparameters
    from app.engine.losses.declare import declare
    from app.engine.recipe import Recipe

    values = settings.hyperparameters | _assignments(hyperparameters, "--set")
    parameters = _assignments(loss_parameters, "--loss-parameter")
    loss, default = settings.loss, settings.training
    rating_range = (settings.rating.min, settings.rating.max)
    if error or penalty or link or parameters:
        if error is None:
            error, link, parameters = default.loss, link or default.link, {**default.loss_parameters, **parameters}
        loss = declare(error, penalty=penalty or "l2", link=link, parameters=parameters, rating_range=rating_range)
    return Recipe(Hyperparameters.from_dict(values), loss, rating_range)


def _assignments(texts: list[str] | None, option: str) -> dict[str, Any]:
    """`n_factors=32` as {"n_factors": 32}; what is not JSON stays text."""
    values: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise CommandFailed(f"{option} {text}: write NAME=VALUE", USAGE_ERROR)
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def options_of(recipe: Recipe, defaults: Recipe) -> str:
    """The options of `palate train` that make this recipe of the default one."""
    default_values = defaults.hyperparameters.to_dict()
    words = []
    for name, value in recipe.hyperparameters.to_dict().items():
        if value != default_values[name]:
            words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    if recipe.loss != defaults.loss:
        words += _loss_words(recipe)
    return "".join(f" {shlex.quote(word)}" for word in words)


def _loss_words(recipe: Recipe) -> list[str]:
    from app.engine.losses.base import L2
    from app.engine.losses.catalog import BY_NAME

    loss, name_or_expression = recipe.loss, recipe.loss_text
    default_link = BY_NAME[name_or_expression].link if name_or_expression in BY_NAME else "identity"
    words = ["--loss", name_or_expression]
    words += ["--penalty", loss.penalty] if loss.penalty != L2 else []
    words += ["--link", loss.link] if loss.link != default_link else []
    for name, value in loss.parameters:
        words += ["--loss-parameter", f"{name}={value!r}"]
    return words
