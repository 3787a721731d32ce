"""OpenTelemetry: spans are exported if the environment names an endpoint; needs `pip install palate[otel]`.

The web framework creates the spans and configures the exporter from the standard variables
(OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER ...). Without an endpoint a request costs nothing
more.
"""

from __future__ import annotations

import importlib.util
import os

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


class NoExporter(Exception):
    """The environment names an endpoint for spans, but the exporter is not installed."""

    def __init__(self, variable: str) -> None:
        super().__init__(f"{variable} is set, but the exporter is not installed: pip install 'palate[otel]'")
        self.variable = variable


def exports_traces() -> bool:
    """Whether spans are exported; raises NoExporter if the exporter is missing."""
    variable = next((name for name in _ENDPOINTS if os.environ.get(name)), None)
    if variable is None:
        return False
    try:
        is_installed = all(importlib.util.find_spec(package) for package in _PACKAGES)
    except ModuleNotFoundError:  # a package above one of them is missing
        is_installed = False
    if not is_installed:
        raise NoExporter(variable)
    os.environ.setdefault("OTEL_SERVICE_NAME", "palate")
    return True
