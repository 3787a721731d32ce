"""OpenTelemetry: spans go out where the environment says where to, with what `pip install palate[otel]` brings.

The web framework makes the spans and sets the exporter up by the standard variables (OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER ...); without an endpoint none of it costs a request anything.
"""

from __future__ import annotations

import importlib.util
import os

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class NoExporter(Exception):
    """The environment names a place to send spans to, and what sends them is not installed."""

    def __init__(self, variable: str) -> None:
        super().__init__(f"{variable} is set, but the exporter is not installed: pip install 'palate[otel]'")
        self.variable = variable


def exports_traces() -> bool:
    """Whether spans are exported; raises NoExporter where they should be and cannot."""
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
