import xml.etree.ElementTree as ElementTree

from app.engine.search.space import parse_space
from app.engine.search.trials import Trial
from app.tuning.plot import plot

SPACE = parse_space(
    {
        "learning_rate": {"low": 0.01, "high": 0.1, "log": True},
        "n_epochs": {"low": 5, "high": 25},
        "schedule": {"choices": ["linear", "constant"]},
    }
)
DRAWN = "{http://www.w3.org/2000/svg}"


def trial(number: int, status: str, value: float | None, rate: float = 0.05) -> Trial:
    parameters = {"learning_rate": rate, "n_epochs": 10, "schedule": "constant"}
    return Trial(number, parameters, status, value, 0.5 + number, (), None)  # type: ignore[arg-type]


def test_each_panel_shows_every_trial_that_has_an_error_and_marks_the_best() -> None:
    trials = [trial(0, "complete", 0.9), trial(1, "failed", None), trial(2, "pruned", 1.4), trial(3, "complete", 0.8)]
    image = ElementTree.fromstring(plot(SPACE, trials))
    panels = image.findall(f"{DRAWN}g")
    assert len(panels) == 2 + len(SPACE)
    for panel in panels:
        kinds = [circle.get("class") for circle in panel.findall(f"{DRAWN}circle")]
        assert sorted(filter(None, kinds)) == ["best", "complete", "pruned"]


def test_a_lower_error_is_further_down_and_a_logarithmic_middle_is_in_the_middle() -> None:
    middle = (0.01 * 0.1) ** 0.5
    image = ElementTree.fromstring(plot(SPACE, [trial(0, "complete", 0.9, middle), trial(1, "complete", 0.8, 0.1)]))
    first, best = image.findall(f"{DRAWN}g")[2].findall(f"{DRAWN}circle")
    assert float(first.get("cy", 0)) < float(best.get("cy", 0))
    marks = [float(text.get("x", 0)) for text in image.findall(f"{DRAWN}g")[2].findall(f"{DRAWN}text")][-3:]
    assert float(first.get("cx", 0)) == marks[1]
    assert float(best.get("cx", 0)) == marks[2]


def test_a_search_without_trials_has_a_plot_too() -> None:
    assert "no trial yet" in plot(SPACE, [])
    assert "no trial yet" in plot(SPACE, [trial(0, "failed", None)])


def test_names_and_choices_cannot_be_markup() -> None:
    assert "&lt;" not in plot(SPACE, [])
    ElementTree.fromstring(plot(SPACE, [trial(0, "complete", 1.0)]))
