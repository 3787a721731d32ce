from prometheus_client import REGISTRY

from app.metrics.instruments import count_ratings


def test_ratings_are_counted_by_outcome() -> None:
    def count(outcome: str) -> float:
        return REGISTRY.get_sample_value("palate_ratings_written_total", {"outcome": outcome}) or 0.0

    before = {outcome: count(outcome) for outcome in ("created", "updated", "unchanged", "removed")}
    count_ratings(created=3, removed=1)
    growth = {outcome: count(outcome) - value for outcome, value in before.items()}
    assert growth == {"created": 3, "updated": 0, "unchanged": 0, "removed": 1}
