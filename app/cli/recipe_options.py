"""Options that say how and on which loss to train, read from and written as words of a command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from app.cli.terminal import USAGE_ERROR, CommandFailed

if TYPE_CHECKING:
    from app.engine.hyperparameters import Hyperparameters
    from app.engine.losses.base import Loss
    from app.engine.recipe import Recipe
    from app.settings import Settings

LossOption = Annotated[
    str | None, typer.Option(help='Loss to minimise: a name or an expression such as "log(cosh(r - r_hat))".')
]
PenaltyOption = Annotated[str | None, typer.Option(help="l2, elastic_net, none, or an expression in theta.")]
LinkOption = Annotated[str | None, typer.Option(help="identity, sigmoid or exp; the loss's own by default.")]
LossParameterOption = Annotated[
    list[str] | None, typer.Option(help="A parameter of the loss, such as delta=1.5; repeat for several.")
]


class LossOptions(NamedTuple):
    """The values of the four options above."""

    loss: str | None
    penalty: str | None
    link: str | None
    parameters: list[str]


def read_hyperparameters(settings: Settings, assignments: list[str]) -> Hyperparameters:
    """The hyperparameters of the settings, with those of `--set NAME=VALUE` in place."""
    from app.engine.hyperparameters import Hyperparameters, InvalidHyperparameter

    try:
        return Hyperparameters.from_dict(settings.hyperparameters | _assignments(assignments, "--set"))
    except InvalidHyperparameter as invalid:
        raise CommandFailed(str(invalid), USAGE_ERROR) from invalid


def read_loss(settings: Settings, options: LossOptions) -> Loss:
    """The loss of the settings if no option is set; otherwise unset options have the defaults of the catalog."""
    from app.engine.losses.declare import declare
    from app.engine.losses.grammar import InvalidLoss

    error, penalty, link, numbers = options
    parameters = _assignments(numbers, "--loss-parameter")
    if error is None and penalty is None and link is None and not parameters:
        return settings.loss
    default = settings.training
    if error is None:
        link, parameters = link or default.link, {**default.loss_parameters, **parameters}
    rating_range = (settings.rating.min, settings.rating.max)
    try:
        return declare(
            error or default.loss, penalty=penalty or "l2", link=link, parameters=parameters, rating_range=rating_range
        )
    except InvalidLoss as invalid:
        raise CommandFailed(f"invalid loss: {invalid}", USAGE_ERROR) from invalid


def _assignments(texts: list[str], option: str) -> dict[str, Any]:
    """`n_factors=32` as {"n_factors": 32}; what is not JSON stays text."""
    import json

    values: dict[str, Any] = {}
    for text in texts:
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
    import shlex

    default_values = defaults.hyperparameters.to_dict()
    values = recipe.hyperparameters.to_dict().items()
    words = [
        word for name, value in values if value != default_values[name] for word in ("--set", f"{name}={_text(value)}")
    ]
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


def _text(value: Any) -> str:
    """As `--set` reads it."""
    import json

    return value if isinstance(value, str) else json.dumps(value)
