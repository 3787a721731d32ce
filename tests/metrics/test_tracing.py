"""Spans, sent to a collector that listens on a port of this test."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.demo.service_process import running_service
from app.metrics.tracing import NoExporter, exports_traces
from tests.conftest import KERNELS

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Where spans can be sent, and what was sent."""
    received: list[ExportTraceServiceRequest] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_request_becomes_a_span_of_its_callers_trace_and_so_do_its_lines_in_the_log(tmp_path: Path) -> None:
    with collector() as (endpoint, received):
        environment = {
            "PALATE_KERNEL_CACHE_DIR": str(KERNELS),
            "PALATE_TRAINER": "external",
            "PALATE_LOG_FORMAT": "json",
            "PALATE_LOG_REQUESTS": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        }
        with running_service(tmp_path, environment=environment) as service:
            headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
            httpx.get(f"{service.url}/v1/users/ann/recommendations", headers=headers).raise_for_status()
        deadline = time.monotonic() + 10
        while not received and time.monotonic() < deadline:
            time.sleep(0.05)
    spans = [
        (resource.resource, span)
        for request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if span.trace_id.hex() == TRACE and span.parent_span_id.hex() == CALLER
    ]
    [(resource, span)] = spans
    assert span.name == "GET /v1/users/{user_id}/recommendations"
    assert "palate" in {each.value.string_value for each in resource.attributes if each.key == "service.name"}
    lines = [line for line in service.log.read_text().splitlines() if TRACE in line]
    assert len(lines) == 1
    assert f'"span_id": "{span.span_id.hex()}"' in lines[0]


def test_without_an_endpoint_nothing_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    assert not exports_traces()


def test_an_endpoint_without_the_exporter_stops_the_start_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)  # as where it is not installed
    with pytest.raises(NoExporter, match=r"pip install 'palate\[otel\]'"):
        exports_traces()
