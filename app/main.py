"""The service: `create_app(settings)`, or `uvicorn app.main:app` with settings from the environment."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import FrameType
from typing import Any

import anyio.to_thread
from anyio.to_thread import run_sync
from fastapi import FastAPI
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
from app.health.collector import DatabaseCollector, keep_gauges_updated
from app.http.body_limits import BodyLimits, declare_limits
from app.http.openapi import declare_problems
from app.items.api import router as items_router
from app.logs import set_up_logs
from app.metrics.api import router as metrics_router
from app.metrics.observer import Observer
from app.metrics.tracing import NoExporter, exports_traces
from app.ratings import group_commit
from app.ratings.api import items_router as rated_items_router
from app.ratings.api import router as ratings_router
from app.ratings.api import users_router
from app.recommendations.api import lists_router, similar_router
from app.recommendations.api import router as recommendations_router
from app.recommendations.dispatch import Recommender
from app.registry.api import router as models_router
from app.registry.live_model import LiveModel
from app.settings import Settings, UnusableSettings, read_settings
from app.training.api import router as training_router
from app.training.supervisor import EmbeddedTrainer
from app.tuning.api import router as searches_router

WORKER_THREADS = 8  # for database work; more would only wait for each other (SQLite) or for the GIL

UNLIMITED_BODIES = {"/v1/ratings/import"}  # read in blocks, never held in memory as a whole

DESCRIPTION = """\
Palate learns from ratings and returns predicted ratings and recommendations.

POST ratings; a background trainer refits the model. Every response contains `model_version` and `trained_through`, the
last rating revision that this version was trained on. A new rating takes effect in the user's next response, without
retraining. Errors are `application/problem+json`.
"""

TAGS = [
    {"name": "ratings", "description": "Record, import, export and read ratings."},
    {"name": "users", "description": "One user's ratings, and erasure."},
    {"name": "items", "description": "Titles, categories, attributes and visibility of items."},
    {"name": "recommendations", "description": "Predicted ratings, top-N lists, similar and popular items."},
    {"name": "training", "description": "Training runs and their progress."},
    {"name": "searches", "description": "Hyperparameter searches and their trials."},
    {"name": "models", "description": "Published model versions: history, activation, rollback."},
    {"name": "keys", "description": "API keys and their scopes."},
    {"name": "service", "description": "Liveness, readiness and counts."},
]


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI application of the service, by default with the settings of the environment."""
    settings = settings or Settings()
    app = FastAPIOffline(
        title="Palate",
        version=__version__,
        summary="Recommendations from rating values.",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        generate_unique_id_function=lambda route: route.name,
        separate_input_output_schemas=False,
        lifespan=_lifespan,
        telemetry={"auto_configure": True, "metrics": False, "logs": False, "tracing": exports_traces()},
    )
    app.state.settings = settings
    answer_problems(app)
    _include_routers(app)
    _add_middleware(app, settings)
    _complete_document(app, settings)
    return app


def _include_routers(app: FastAPI) -> None:
    app.router.routes[:0] = lists_router.routes  # the most frequent requests match first
    for router in (
        recommendations_router,
        similar_router,  # before items: /items/popular is not an item id
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


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    """A request passes them from the last to the first: observer, guard, body limits."""
    app.add_middleware(BodyLimits, limits=settings.limits, any_length=UNLIMITED_BODIES)
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(Observer, is_logging=settings.log_requests)  # counts refused requests too


def _complete_document(app: FastAPI, settings: Settings) -> None:
    """Add error responses, body limits and API keys to the OpenAPI document."""
    declare_problems(app)
    declare_limits(app, UNLIMITED_BODIES)
    declare_keys(app, settings)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start what the routes use; stop it in reverse order."""
    settings: Settings = app.state.settings
    set_up_logs(settings, "service")
    anyio.to_thread.current_default_thread_limiter().total_tokens = WORKER_THREADS
    async with AsyncExitStack() as stack:
        database = await run_sync(open_database, settings, settings.database_statement_timeout)
        stack.callback(database.dispose)
        await run_sync(migrations.prepare, database, settings)
        live = LiveModel(database, settings)
        _set_state(app, database, live, stack)
        _end_streams_on_sigterm(app)
        stack.enter_context(threadpool_limits(1))  # BLAS: a solve of a few dozen numbers is slower on several threads
        await run_sync(precompile_serving_kernels)  # before the first request: Numba compiles under the GIL
        stack.callback(live.stop)
        await run_sync(live.start)
        await _start_background_work(app, database, live, stack)
        _freeze_garbage_collection(stack)
        yield


def _set_state(app: FastAPI, database: Database, live: LiveModel, stack: AsyncExitStack) -> None:
    """Create what the routes read from `app.state`."""
    state = app.state
    state.database, state.live = database, live
    state.keyring = Keyring(database)
    state.recommender = Recommender(database, live, state.settings)
    stack.callback(state.recommender.close)
    state.rating_writer = group_commit.open_writer(database)
    stack.push_async_callback(run_sync, state.rating_writer.close)
    state.collectors = (DatabaseCollector(database),)
    state.is_stopping = False
    state.n_long_requests = Counter[str]()  # in progress, by kind


async def _start_background_work(app: FastAPI, database: Database, live: LiveModel, stack: AsyncExitStack) -> None:
    keyring: Keyring = app.state.keyring
    stack.push_async_callback(run_sync, keyring.stop)
    await run_sync(keyring.start)
    if app.state.settings.trainer == "embedded":
        trainer = EmbeddedTrainer(app.state.settings)
        stack.push_async_callback(run_sync, trainer.stop)
        trainer.start()
    database.watch()
    stack.callback(asyncio.create_task(keep_gauges_updated(database, live)).cancel)


def _end_streams_on_sigterm(app: FastAPI) -> None:
    """On SIGTERM and SIGINT, end open event streams at once: the server waits for them before it shuts down."""
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread can set signal handlers; a service on another thread is stopped differently
    for number in (signal.SIGTERM, signal.SIGINT):
        servers_handler = signal.getsignal(number)

        def stop(number: int, frame: FrameType | None, servers_handler: Any = servers_handler) -> None:
            app.state.is_stopping = True
            if callable(servers_handler):
                servers_handler(number, frame)

        signal.signal(number, stop)


def _freeze_garbage_collection(stack: AsyncExitStack) -> None:
    """Exempt all current objects from collections: a full one would stop the process for 0.1 s and free nothing."""
    gc.collect()
    gc.freeze()
    stack.callback(gc.unfreeze)


def __getattr__(name: str) -> Any:
    """Create `app.main:app` on access, so that importing this module reads no settings."""
    if name == "app":
        try:
            return create_app(read_settings())
        except (UnusableSettings, NoExporter) as unusable:
            raise SystemExit(str(unusable)) from unusable
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
