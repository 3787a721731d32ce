"""OpenTelemetry: spans are exported if the environment names an endpoint; needs `pip install palate[otel]`.

The web framework creates the spans and configures the exporter from the standard variables
(OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER ...). Without an endpoint a request costs nothing
more.
"""

from __future__ import annotations

import importlib.util
import os

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


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
    for package in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
        if not _is_installed(package):
            raise NoExporter(variable)
    os.environ.setdefault("OTEL_SERVICE_NAME", "palate")
    return True


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False
