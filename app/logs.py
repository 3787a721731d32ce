"""What a process says of itself: one line per event on standard error, as text or as JSON."""

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
    """What every line that is logged during a request says of it. `scope` is the request's, as ASGI describes it."""

    request_id: str
    traceparent: str | None
    scope: MutableMapping[str, Any]

    def facts(self) -> dict[str, Any]:
        """Its id, its route once that is known, the name of the key it came with, and the trace it belongs to."""
        told = {
            "request_id": self.request_id,
            "method": self.scope.get("method"),
            "route": route_of(self.scope),
            "key_name": getattr(self.scope.get("api_key"), "name", None),  # put there by the guard
        }
        return {name: fact for name, fact in told.items() if fact is not None} | self._trace()

    def _trace(self) -> dict[str, str]:
        span = trace.get_current_span().get_span_context()
        if span.is_valid:  # OpenTelemetry is on, and has understood the header itself
            return {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
        found = _TRACEPARENT.match(self.traceparent or "")
        return {"trace_id": found[1], "parent_span_id": found[2]} if found else {}


current_request: ContextVar[CurrentRequest | None] = ContextVar("current_request", default=None)


def route_of(scope: Mapping[str, Any]) -> str | None:
    """The template of the path, as /v1/users/{user_id}/ratings; None where no route was found (yet)."""
    included = scope.get("fastapi", {}).get("effective_route_context")  # knows the prefix, which the route does not
    path: str | None = getattr(included or scope.get("route"), "path", None)
    return path


class TextLines(logging.Formatter):
    """For people: time, level, process, place, message, and the request that it was about."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (the library's name)
        request = current_request.get()
        return super().formatMessage(record) + (f" [{request.request_id}]" if request else "")


class JsonLines(logging.Formatter):
    """For machines: one object a line; what was given as `extra={"facts": {...}}` stands beside the rest."""

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
    """Lines with time, level, process (`service`, `trainer`) and place; nothing where logs are set up already.

    The level of the settings is ours; libraries speak up from `warning` on, and the web server from `info` on.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(process) if settings.log_format == "json" else TextLines(process))
    root.addHandler(handler)
    logging.getLogger("app").setLevel(settings.log_level.upper())
    logging.getLogger("uvicorn").setLevel(settings.log_level.upper())
