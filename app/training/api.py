"""Training over HTTP: start a run, watch it, cancel it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Header, Path, Request, Response
from fastapi.responses import StreamingResponse

from app.db.engine import DatabaseDep
from app.http.concurrency import ConcurrencyLimit
from app.http.idempotency import AttemptDep
from app.http.openapi import declared
from app.http.pages import PageCursor, PageLimit
from app.training import events, queue
from app.training.events import EventCursor
from app.training.schemas import NewTrainingRun, TrainingRunDetail, TrainingRunList, TrainingRunOut

router = APIRouter(prefix="/training-runs", tags=["training"])

RunId = Annotated[int, Path(description="Id of the run.", ge=1, le=2**31 - 1, examples=[12])]


MAX_STREAMS = 50
"""Event streams at once; each queries the database four times a second."""

_stream_limit = ConcurrencyLimit("event streams", MAX_STREAMS)


@router.post(
    "",
    response_model_exclude_unset=True,
    status_code=HTTPStatus.ACCEPTED,
    responses=declared(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def start_training(
    request: Request,
    response: Response,
    database: DatabaseDep,
    attempt: AttemptDep,
    body: Annotated[NewTrainingRun | None, Body()] = None,
) -> TrainingRunOut:
    """Queue a training run; the trainer works on one run at a time. `Location` is the URL of the run."""
    settings, body = request.app.state.settings, body or NewTrainingRun()
    chosen = body.over(settings.hyperparameters)
    loss = body.loss.declared(settings.rating) if body.loss else settings.loss
    with database.write() as connection:
        now = database.now(connection)
        run = attempt.once(
            connection,
            now,
            TrainingRunOut,
            lambda: TrainingRunOut.of(queue.enqueue(connection, "api", chosen, now, loss)),
        )
    response.headers["Location"] = request.url_for("get_training_run", run_id=run.id).path
    return run


@router.get("", response_model_exclude_unset=True, responses=declared(HTTPStatus.UNPROCESSABLE_ENTITY))
def list_training_runs(database: DatabaseDep, limit: PageLimit = 20, cursor: PageCursor = None) -> TrainingRunList:
    """Training runs, newest first."""
    with database.read() as connection:
        rows = queue.history(connection, limit=limit + 1, before=int(cursor) if cursor else None)
        epochs = {row.id: queue.last_epochs_of(connection, row.id) for row in rows if row.status == "running"}
    shown = [TrainingRunOut.of(row, epochs.get(row.id, ())) for row in rows[:limit]]
    return TrainingRunList(runs=shown, next_cursor=str(shown[-1].id) if len(rows) > limit else None)


@router.get(
    "/{run_id}",
    response_model_exclude_unset=True,
    responses=declared(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def get_training_run(database: DatabaseDep, run_id: RunId) -> TrainingRunDetail:
    """One run with its epochs so far and, when it has finished, its metrics and the published version."""
    with database.read() as connection:
        run, epochs = queue.get(connection, run_id), queue.epochs_of(connection, run_id)
    return TrainingRunDetail.of(run, epochs)


@router.post(
    "/{run_id}/cancel",
    response_model_exclude_unset=True,
    responses=declared(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def cancel_training(database: DatabaseDep, run_id: RunId) -> TrainingRunOut:
    """Cancel a run: immediately if it is queued, within a second if it is running."""
    with database.write() as connection:
        run = queue.request_cancel(connection, run_id, database.now(connection))
        epochs = queue.last_epochs_of(connection, run_id)
    return TrainingRunOut.of(run, epochs)


@router.get(
    "/{run_id}/events",
    response_class=StreamingResponse,
    dependencies=[Depends(_stream_limit)],
    responses={
        200: {
            "description": "`event: epoch` (EpochOut) and `event: status` (TrainingRunOut) until the run has finished.",
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": 'id: 1.1\nevent: epoch\ndata: {"phase": "fit", "epoch": 1, "train_rmse": 0.98}\n\n',
                }
            },
        },
        **declared(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY),
    },
)
def stream_training_events(
    request: Request,
    database: DatabaseDep,
    run_id: RunId,
    last_event_id: Annotated[str | None, Header(description="Id of the last epoch event received.")] = None,
) -> StreamingResponse:
    """Follow a run by server-sent events: past epochs first, then new ones; the stream ends with the run."""
    with database.read() as connection:
        queue.get(connection, run_id)
    state = request.app.state
    cursor = EventCursor.after(last_event_id)
    return StreamingResponse(
        events.stream(database, run_id, cursor, lambda: getattr(state, "is_stopping", False)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )
