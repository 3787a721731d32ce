"""What `palate evaluate` prints of manifests."""

from types import SimpleNamespace
from typing import Any

from rich.console import Console

from app.training.evaluation.tables import tables


def _bucket(first: int, last: int | None, rmse: float) -> dict[str, Any]:
    return {"from": first, "to": last, "n": 1234, "rmse": rmse, "mae": 0.5, "coverage": 0.81, "width": 1.9}


METRICS = {
    "holdout_rmse": 0.8,
    "holdout_mae": 0.6,
    "ndcg_at_10": 0.1,
    "report": {
        "baselines": {"biases": {"rmse": 0.87, "mae": 0.67}, "overall_mean": {"rmse": 1.04, "mae": 0.8}},
        "by_ratings_of_user": [_bucket(0, 0, 1.0), _bucket(300, None, 0.5)],
        "by_ratings_of_item": [_bucket(1, 2, 0.9)],
    },
}


def _version(number: int, metrics: dict[str, Any], *, is_active: bool = False) -> Any:
    return SimpleNamespace(version=number, is_active=is_active, manifest={"metrics": metrics})


def _printed(shown: Any, active: Any, width: int = 160) -> list[str]:
    console = Console(width=width)
    with console.capture() as captured:
        for part in tables(shown, active):
            console.print(part)
    return captured.get().splitlines()


def _line(lines: list[str], start: str) -> str:
    [found] = [line for line in lines if line.startswith(f"│ {start} ")]
    return found


def test_a_version_is_shown_beside_the_baselines_with_bars_as_long_as_its_errors() -> None:
    active = _version(3, METRICS, is_active=True)
    lines = _printed(active, active)
    assert "0.8000" in _line(lines, "RMSE, as served")
    assert "0.8700" in _line(lines, "RMSE, biases")
    assert _line(lines, "300 and more").count("█") * 2 == _line(lines, "0").count("█") == 30
    assert "81.0%" in _line(lines, "1 to 2")
    assert "1,234" in _line(lines, "1 to 2")


def test_no_number_is_cut_off_in_a_narrow_terminal() -> None:
    active = _version(3, METRICS, is_active=True)
    line = _line(_printed(active, active, width=80), "300 and more")
    assert all(number in line for number in ("1,234", "0.5000", "81.0%", "1.90", "█"))
    both = _printed(_version(2, METRICS), active, width=80)
    assert all(number in _line(both, "300 and more") for number in ("1,234", "0.5000", "81.0%", "1.90"))


def test_a_measure_that_no_version_has_is_left_out() -> None:
    active = _version(3, METRICS)
    assert not any("popularity" in line for line in _printed(active, active))


def test_an_active_version_other_than_the_shown_one_is_shown_next_to_it() -> None:
    old = METRICS | {"holdout_rmse": 0.7, "report": METRICS["report"] | {"by_ratings_of_user": [_bucket(0, 0, 0.77)]}}
    lines = _printed(_version(3, METRICS), _version(2, old, is_active=True))
    served = _line(lines, "RMSE, as served")
    assert served.index("0.8000") < served.index("0.7000")
    assert "0.7700" in _line(lines, "0")
    assert _line(lines, "300 and more").split("│")[-2].strip() == "-"
    assert any("version 2 (active)" in line for line in lines)


def test_the_comparison_of_the_gate_is_shown() -> None:
    gate = {"active_version": 2, "n_ratings": 5042, "rmse": 0.8, "active_rmse": 0.9}
    shown = _version(3, METRICS | {"gate": gate})
    assert any("5,042 held-out ratings" in line and "0.9000" in line for line in _printed(shown, shown))
    nothing = gate | {"n_ratings": 0, "rmse": None, "active_rmse": None}
    assert not any("when it was published" in line for line in _printed(_version(3, METRICS | {"gate": nothing}), None))


def test_a_version_of_an_older_release_shows_what_it_has() -> None:
    older = {name: value for name, value in METRICS.items() if name != "report"}
    lines = _printed(_version(3, older), _version(4, METRICS, is_active=True))
    assert "0.8000" in _line(lines, "RMSE, as served")
    assert any("has no report" in line for line in lines)
    lines = _printed(_version(4, METRICS), _version(3, older, is_active=True))
    assert _line(lines, "RMSE, biases").split("│")[-2].strip() == "-"


def test_a_version_without_a_hold_out_says_why_it_shows_nothing() -> None:
    [line] = _printed(_version(3, {"seconds": {}}), None)
    assert "too few ratings" in line
