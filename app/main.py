"""The service: `create_app(settings)`, or `uvicorn app.main:app` with settings from the environment."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from threadpoolctl import threadpool_limits

import migrations
from app import __version__
from app.api_keys.api import router as keys_router
from app.api_keys.guard import Guard, declare_keys
from app.api_keys.keyring import Keyring
from app.dashboard.api import router as dashboard_router
from app.db.engine import Database, open_database
from app.engine.precompile import precompile_serving_kernels
from app.errors import answer_problems
from app.health.api import probes_router, status_router
from app.health.figures import SharedFigures, keep_noting
from app.http.body_limits import BodyLimits, declare_limits
from app.http.openapi import declare_problems
from app.items.api import router as items_router
from app.logs import set_up_logs
from app.metrics.api import router as metrics_router
from app.metrics.observer import Observer
from app.metrics.tracing import NoExporter, exports_traces
from app.ratings.api import items_router as rated_items_router
from app.ratings.api import router as ratings_router
from app.ratings.api import users_router
from app.ratings.group_commit import GroupCommitWriter
from app.recommendations.api import lists_router, similar_router
from app.recommendations.api import router as recommendations_router
from app.recommendations.dispatch import Recommender
from app.registry.api import router as models_router
from app.registry.live import LiveModel
from app.settings import Settings, UnusableSettings, read_settings
from app.training.api import router as training_router
from app.training.supervisor import EmbeddedTrainer
from app.tuning.api import router as searches_router

log = logging.getLogger(__name__)

THREADS = 8  # for database work; more only queue behind each other (SQLite) or behind the GIL

ANY_LENGTH = {"/v1/ratings/import"}  # read in blocks, never held as a whole

DESCRIPTION = """\
Palate learns from ratings and answers with predicted ratings and recommendations.

POST ratings; a background trainer refits the model; every answer names the `model_version` that made it and
`trained_through`, the last rating revision that version saw. A rating counts in the very next answer of its user,
trained or not. Every error is one `application/problem+json` shape.
"""

TAGS = [
    {"name": "ratings", "description": "Record, import, export and read ratings."},
    {"name": "users", "description": "One user's ratings, and erasure."},
    {"name": "items", "description": "Titles, categories, attributes and visibility of what is rated."},
    {"name": "recommendations", "description": "Predicted ratings, top-N lists, similar and popular items."},
    {"name": "training", "description": "Training runs and their progress."},
    {"name": "searches", "description": "Searches of hyperparameters and their trials."},
    {"name": "models", "description": "Published model versions: history, activation, rollback."},
    {"name": "keys", "description": "API keys: who may ask for what."},
    {"name": "service", "description": "Liveness, readiness and counts."},
]


def create_app(settings: Settings | None = None) -> FastAPI:
    """The whole service; `settings` default to the environment's."""
    settings = settings or Settings()
    app = FastAPIOffline(
        title="Palate",
        version=__version__,
        summary="Recommendations from rating values.",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        generate_unique_id_function=_operation_id,
        separate_input_output_schemas=False,
        lifespan=_lifespan,
        telemetry={"auto_configure": True, "metrics": False, "logs": False, "tracing": exports_traces()},
    )
    app.state.settings = settings
    answer_problems(app)
    _mount(app)
    declare_problems(app)
    app.add_middleware(BodyLimits, limits=settings.limits, any_length=ANY_LENGTH)
    declare_limits(app, ANY_LENGTH)
    app.add_middleware(Guard, settings=settings)  # before all of the above: what was added last comes first
    app.add_middleware(Observer, is_logging=settings.log_requests)  # sees what the guard refuses, too
    declare_keys(app, settings)
    return app


def _mount(app: FastAPI) -> None:
    app.router.routes[:0] = lists_router.routes  # asked the most: the first is found the fastest
    for router in (
        recommendations_router,
        similar_router,  # before items: /items/popular must not be taken for an item
        ratings_router,
        users_router,
        items_router,
        rated_items_router,
        training_router,
        searches_router,
        models_router,
        keys_router,
        status_router,
    ):
        app.include_router(router, prefix="/v1")
    app.include_router(probes_router)
    app.include_router(metrics_router)
    app.include_router(dashboard_router)


def _operation_id(route: APIRoute) -> str:
    return route.name


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    set_up_logs(settings, "service")
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    database = await anyio.to_thread.run_sync(_open, settings)
    live = LiveModel(database, settings)
    trainer = EmbeddedTrainer(settings) if settings.trainer == "embedded" else None
    app.state.database, app.state.live = database, live
    app.state.keyring = keyring = Keyring(database)
    app.state.rating_writer = rating_writer = GroupCommitWriter(database)
    app.state.recommender = recommender = Recommender(database, live, settings)
    app.state.collectors = (SharedFigures(database),)
    app.state.is_stopping = False
    app.state.n_long_requests = Counter[str]()  # in progress, by kind
    _on_sigterm(app)
    with threadpool_limits(1):  # a solve of a few dozen numbers is slower on several threads than on one
        await anyio.to_thread.run_sync(_warm, live)
        await anyio.to_thread.run_sync(keyring.start)
        if trainer:
            trainer.start()
        database.watch()
        noting = asyncio.create_task(keep_noting(database, live))
        _spare_the_lasting()
        try:
            yield
        finally:
            gc.unfreeze()
            noting.cancel()
            if trainer:
                await anyio.to_thread.run_sync(trainer.stop)
            await anyio.to_thread.run_sync(keyring.stop)
            live.stop()
            await anyio.to_thread.run_sync(rating_writer.close)
            recommender.close()
            database.dispose()


def _on_sigterm(app: FastAPI) -> None:
    """Tell open event streams to end at once: the server waits for them before it begins to shut down."""
    if threading.current_thread() is not threading.main_thread():
        return  # signals belong to the main thread; whoever runs the service elsewhere stops it otherwise
    for number in (signal.SIGTERM, signal.SIGINT):
        servers_own = signal.getsignal(number)

        def stop(number: int, frame: FrameType | None, servers_own: Any = servers_own) -> None:
            app.state.is_stopping = True
            if callable(servers_own):
                servers_own(number, frame)

        signal.signal(number, stop)


def _open(settings: Settings) -> Database:
    """The database at its newest schema: an SQLite file is migrated here, a server only by `palate migrate`."""
    database = open_database(settings, settings.database_statement_timeout)
    if database.is_sqlite:
        migrations.upgrade(database, settings)
    elif not migrations.is_usable(database):
        database.dispose()
        raise SystemExit("the database schema is not current: run `palate migrate` first")
    return database


def _warm(live: LiveModel) -> None:
    """Compile or load the serving kernels before the first request: Numba compiles under the GIL."""
    precompile_serving_kernels()
    live.start()


def _spare_the_lasting() -> None:
    """A full collection walks all objects, 0.1 s in which nobody is answered; what is there by now stays anyway."""
    gc.collect()
    gc.freeze()


def __getattr__(name: str) -> Any:
    """`app.main:app` is made when it is asked for, so that importing this module reads no settings."""
    if name == "app":
        try:
            return create_app(read_settings())
        except (UnusableSettings, NoExporter) as unusable:
            raise SystemExit(str(unusable)) from unusable
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
