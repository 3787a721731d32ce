import shlex

from app.cli.recipe_options import options_of, read_recipe
from app.settings import Settings

SETTINGS = Settings(trainer="external")


def test_the_options_of_a_recipe_are_read_back_as_the_same_recipe() -> None:
    loss_parameters = ["delta=1.5", "l1_share=0.2"]
    recipe = read_recipe(SETTINGS, ["n_factors=8", "posterior=off"], "huber", "elastic_net", None, loss_parameters)
    words = shlex.split(options_of(recipe, SETTINGS.recipe))
    values: dict[str, list[str]] = {}
    for option, value in zip(words[::2], words[1::2], strict=True):
        values.setdefault(option, []).append(value)
    [name], [penalty] = values["--loss"], values["--penalty"]
    assert read_recipe(SETTINGS, values["--set"], name, penalty, None, values["--loss-parameter"]) == recipe


def test_the_default_recipe_needs_no_options() -> None:
    assert options_of(SETTINGS.recipe, SETTINGS.recipe) == ""
    assert read_recipe(SETTINGS) == SETTINGS.recipe
