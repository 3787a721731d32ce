"""/metrics, in the format of Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from app.metrics.multiprocess import merged_registry

router = APIRouter(tags=["service"])

_EXAMPLE = "# HELP palate_ratings Ratings stored.\n# TYPE palate_ratings gauge\npalate_ratings 100836.0\n"
_CONTENT = {"text/plain": {"schema": {"type": "string"}, "example": _EXAMPLE}}


@router.get("/metrics", response_class=Response, responses={200: {"content": _CONTENT, "description": "The metrics."}})
def get_metrics(request: Request) -> Response:
    """Metrics for Prometheus: of all processes of this host, and of the database that all hosts share."""
    shared = CollectorRegistry()
    for collector in request.app.state.collectors:
        shared.register(collector)
    return Response(generate_latest(merged_registry()) + generate_latest(shared), media_type=CONTENT_TYPE_LATEST)
