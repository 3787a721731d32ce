"""Logging: one line per event on standard error, as text or as JSON."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from opentelemetry import trace

from app.settings import Settings

_TRACEPARENT = re.compile(r"^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:$|-)")
"""W3C Trace Context, level 2: version, trace, the caller's span, flags; later versions may append more."""


@dataclass(slots=True)
class CurrentRequest:
    """The request that log lines refer to; `scope` is its ASGI scope."""

    request_id: str
    traceparent: str | None
    scope: MutableMapping[str, Any]

    def facts(self) -> dict[str, Any]:
        """Request id, method, route (once known), name of the API key, and trace."""
        facts = {
            "request_id": self.request_id,
            "method": self.scope.get("method"),
            "route": route_of(self.scope),
            "key_name": getattr(self.scope.get("api_key"), "name", None),  # set by the guard
        }
        return {name: fact for name, fact in facts.items() if fact is not None} | self._trace()

    def _trace(self) -> dict[str, str]:
        span = trace.get_current_span().get_span_context()
        if span.is_valid:  # OpenTelemetry is on and has parsed the header
            return {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
        match = _TRACEPARENT.match(self.traceparent or "")
        return {"trace_id": match[1], "parent_span_id": match[2]} if match else {}


current_request: ContextVar[CurrentRequest | None] = ContextVar("current_request", default=None)


def route_of(scope: Mapping[str, Any]) -> str | None:
    """The path template, such as /v1/users/{user_id}/ratings; None if no route has matched (yet)."""
    included = scope.get("fastapi", {}).get("effective_route_context")  # has the prefix, unlike the route
    path: str | None = getattr(included or scope.get("route"), "path", None)
    return path


class TextLines(logging.Formatter):
    """For people: time, level, process, logger, message and request id."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (the library's name)
        request = current_request.get()
        return super().formatMessage(record) + (f" [{request.request_id}]" if request else "")


class JsonLines(logging.Formatter):
    """For machines: a JSON object per line, with the fields of `extra={"facts": {...}}`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := current_request.get():
            line |= request.facts()
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up_logs(settings: Settings, process: str) -> None:
    """Log to standard error, unless logging is already set up. `process` is `service` or `trainer`.

    The level of the settings applies to our loggers and to the web server; other libraries log from `warning` on.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(process) if settings.log_format == "json" else TextLines(process))
    root.addHandler(handler)
    logging.getLogger("app").setLevel(settings.log_level.upper())
    logging.getLogger("uvicorn").setLevel(settings.log_level.upper())
