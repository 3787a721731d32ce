"""Searches over HTTP: start, list, show, plot and cancel."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Path, Request, Response

from app.db.engine import DatabaseDep
from app.engine.search.space import InvalidSpace
from app.errors import BadInput
from app.http.idempotency import AttemptDep
from app.http.openapi import declared
from app.http.pages import PageCursor, PageLimit
from app.training import queue
from app.tuning import store
from app.tuning.plot import plot
from app.tuning.schemas import NewSearch, SearchDetail, SearchList, SearchOut

router = APIRouter(prefix="/searches", tags=["searches"])

SearchId = Annotated[int, Path(description="Number of the search.", ge=1, le=2**31 - 1, examples=[13])]
_SVG_EXAMPLE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 300">...</svg>'
_PLOT = {"image/svg+xml": {"schema": {"type": "string"}, "example": _SVG_EXAMPLE}}


@router.post("", status_code=202, responses=declared(409, 422))
def start_search(
    request: Request,
    response: Response,
    database: DatabaseDep,
    attempt: AttemptDep,
    body: Annotated[NewSearch | None, Body()] = None,
) -> SearchOut:
    """Queue a hyperparameter search; queued training runs go first. `Location` is the URL of the search."""
    spec = (body or NewSearch()).spec(request.app.state.settings)
    if spec.n_folds == 1 and spec.base.hyperparameters.holdout_fraction == 0.0:
        raise BadInput.at("hyperparameters.holdout_fraction", "must be above 0 if n_folds is 1")
    try:
        with database.write() as connection:
            now = database.now(connection)
            enqueue = partial(store.enqueue, connection, "api", spec, now)
            search = attempt.once(connection, now, SearchOut, lambda: SearchOut.of(enqueue(), ()))
    except InvalidSpace as invalid:
        raise BadInput.at(f"space.{invalid.parameter}", invalid.reason) from invalid
    response.headers["Location"] = request.url_for("get_search", search_id=search.id).path
    return search


@router.get("", responses=declared(422))
def list_searches(database: DatabaseDep, limit: PageLimit = 20, cursor: PageCursor = None) -> SearchList:
    """Searches, newest first, each with its best trial so far."""
    with database.read() as connection:
        rows = store.history(connection, limit=limit + 1, before=int(cursor) if cursor else None)
        shown = [SearchOut.of(row, store.trials_of(connection, row.id)) for row in rows[:limit]]
    return SearchList(searches=shown, next_cursor=str(shown[-1].id) if len(rows) > limit else None)


@router.get("/{search_id}", responses=declared(404, 422))
def get_search(database: DatabaseDep, search_id: SearchId) -> SearchDetail:
    """One search with its trials so far."""
    with database.read() as connection:
        return SearchDetail.of(store.get(connection, search_id), store.trials_of(connection, search_id))


@router.get(
    "/{search_id}/plot",
    response_class=Response,
    responses={200: {"content": _PLOT, "description": "The plot."}, **declared(404, 422)},
)
def plot_search(database: DatabaseDep, search_id: SearchId) -> Response:
    """Error by trial, error by time, and the effect of each parameter, as one SVG image."""
    with database.read() as connection:
        row, trials = store.get(connection, search_id), store.trials_of(connection, search_id)
    svg = plot(store.spec_of(row).search().space, trials)
    return Response(svg, media_type="image/svg+xml", headers={"Cache-Control": "no-cache"})


@router.post("/{search_id}/cancel", responses=declared(404, 409, 422))
def cancel_search(database: DatabaseDep, search_id: SearchId) -> SearchOut:
    """Cancel a search: at once if it is queued, within a second if it is running. Its trials stay."""
    with database.write() as connection:
        store.get(connection, search_id)
        queue.request_cancel(connection, search_id, database.now(connection))
        return SearchOut.of(store.get(connection, search_id), store.trials_of(connection, search_id))
