"""Reading what /metrics says."""

import httpx
from prometheus_client.parser import text_string_to_metric_families


def figures(client: httpx.Client) -> dict[str, float]:
    """Every sample by its name and labels, as `name{label="value"}`."""
    answer = client.get("/metrics")
    answer.raise_for_status()
    return read(answer.text)


def read(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def grown(before: dict[str, float], after: dict[str, float], name: str) -> float:
    """By how much a figure has grown: all apps of a test process count in the same figures."""
    return after.get(name, 0.0) - before.get(name, 0.0)
