"""Liveness, readiness and status."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app import __version__
from app.db.engine import DatabaseDep
from app.db.revisions import revision
from app.health.schemas import Liveness, RatingScaleOut, Readiness, StatusOut
from app.ratings import store as ratings
from app.registry.live_model import LiveModel
from app.settings import Settings
from app.training import queue

probes_router = APIRouter(tags=["service"])
status_router = APIRouter(tags=["service"])


@probes_router.get("/healthz")
async def check_liveness() -> Liveness:
    """The process is alive; restart it if this fails."""
    return Liveness()


@probes_router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready"}})
def check_readiness(database: DatabaseDep, response: Response) -> Readiness:
    """The database answers and the compiled code is loaded; send no requests while this fails."""
    try:
        with database.read() as connection:
            is_ready = connection.scalar(text("SELECT 1")) == 1
    except SQLAlchemyError:
        is_ready = False
        response.status_code = 503
    return Readiness(is_ready=is_ready, database=is_ready, kernels=True)  # kernels load before the server listens


@status_router.get("/status")
def get_status(database: DatabaseDep, request: Request) -> StatusOut:
    """Counts, the served model version and the running training run."""
    settings: Settings = request.app.state.settings
    live: LiveModel = request.app.state.live
    current = live.current
    with database.read() as connection:
        totals = ratings.totals(connection)
        newest = revision(connection, "ratings")
        changes = ratings.count_changes_since(connection, current.trained_through if current else 0)
        run = queue.running(connection)
    return StatusOut(
        service_version=__version__,
        database=database.engine.dialect.name,
        rating_scale=RatingScaleOut(**settings.rating.model_dump()),
        **totals._asdict(),
        revision=newest,
        model_version=current.version if current else None,
        trained_through=current.trained_through if current else None,
        changes_since_training=changes,
        training_run=run.id if run else None,
        problem=live.problem,
    )
