from app.engine.search.space import DEFAULT_SPACE
from app.settings import Settings
from app.training.schemas import HyperparametersIn
from app.tuning.schemas import NewSearch


def test_an_empty_body_is_a_search_of_the_default_space_around_the_settings(settings: Settings) -> None:
    spec = NewSearch().spec(settings)
    assert (spec.space, spec.base, spec.defaults) == (DEFAULT_SPACE, settings.recipe, settings.recipe)


def test_the_hyperparameters_of_the_body_come_before_those_of_the_settings(settings: Settings) -> None:
    spec = NewSearch(hyperparameters=HyperparametersIn(n_epochs=3)).spec(settings)
    assert spec.base.hyperparameters.n_epochs == 3
    assert spec.defaults == settings.recipe
