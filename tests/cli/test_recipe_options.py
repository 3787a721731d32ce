import shlex

from app.cli.recipe_options import LossOptions, options_of, read_hyperparameters, read_loss
from app.engine.recipe import Recipe
from app.settings import Settings

SETTINGS = Settings(trainer="external")


def test_the_options_of_a_recipe_are_read_back_as_the_same_recipe() -> None:
    hyperparameters = read_hyperparameters(SETTINGS, ["n_factors=8", "posterior=off"])
    loss = read_loss(SETTINGS, LossOptions("huber", "elastic_net", None, ["delta=1.5", "l1_share=0.2"]))
    recipe = Recipe(hyperparameters, loss, SETTINGS.recipe.rating_range)
    words = shlex.split(options_of(recipe, SETTINGS.recipe))
    values: dict[str, list[str]] = {}
    for option, value in zip(words[::2], words[1::2], strict=True):
        values.setdefault(option, []).append(value)
    assert read_hyperparameters(SETTINGS, values["--set"]) == hyperparameters
    [name], [penalty] = values["--loss"], values["--penalty"]
    assert read_loss(SETTINGS, LossOptions(name, penalty, None, values["--loss-parameter"])) == loss


def test_the_default_recipe_needs_no_options() -> None:
    assert options_of(SETTINGS.recipe, SETTINGS.recipe) == ""
    assert read_loss(SETTINGS, LossOptions(None, None, None, [])) == SETTINGS.loss
