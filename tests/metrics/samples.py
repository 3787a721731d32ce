"""The samples of /metrics."""

import httpx
from prometheus_client.parser import text_string_to_metric_families


def samples(client: httpx.Client) -> dict[str, float]:
    """Every sample by its name and labels, as `name{label="value"}`."""
    answer = client.get("/metrics")
    answer.raise_for_status()
    return parse(answer.text)


def parse(text: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return values


def growth(before: dict[str, float], after: dict[str, float], name: str) -> float:
    """Growth of a counter: all apps of a test process share the same counters."""
    return after.get(name, 0.0) - before.get(name, 0.0)
