"""Endpoints for ratings: record, import, export, read, delete, erase."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from app.db.engine import Database, DatabaseDep
from app.db.revisions import revision
from app.errors import BadInput
from app.http.concurrency import ConcurrencyLimit
from app.http.fast_path import fast_route
from app.http.ids import ItemIdPath, UserIdPath
from app.http.openapi import declared
from app.imports.file_layout import FileFormat
from app.imports.line_import import BLOCK_BYTES
from app.imports.line_reader import Encoding
from app.imports.schemas import BatchCountsOut, ImportReport
from app.metrics.instruments import count_ratings
from app.ratings import erasure, export, store
from app.ratings.bulk_import import ImportOptions, begin_import
from app.ratings.bulk_read import hold_snapshot
from app.ratings.checks import refuse_bad_ratings
from app.ratings.export import ExportFormat
from app.ratings.group_commit import GroupCommitWriter, commit_many
from app.ratings.models import NewRating
from app.ratings.schemas import (
    DeletedRatingOut,
    ErasedItem,
    ErasedUser,
    RatingBatch,
    RatingBody,
    RatingIn,
    RatingOut,
    RatingsDigest,
    SavedRatingOut,
    UserRatingsPage,
)
from app.settings import RatingScale

router = APIRouter(prefix="/ratings", tags=["ratings"])
users_router = APIRouter(prefix="/users", tags=["users"])
items_router = APIRouter(prefix="/items", tags=["items"])

_UNKNOWN = declared(HTTPStatus.NOT_FOUND)
_INVALID = declared(HTTPStatus.UNPROCESSABLE_ENTITY)
_NEW: dict[int | str, dict[str, Any]] = {
    HTTPStatus.CREATED.value: {"model": SavedRatingOut, "description": "The rating is new."}
}
_CSV = "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n"
_NDJSON = '{"user_id":"ann","item_id":"dune","value":4.5,"rated_at":"2026-01-31T12:00:00Z"}\n'
_MEDIA_TYPES: dict[ExportFormat, str] = {"ndjson": "application/x-ndjson", "csv": "text/csv"}
_IMPORT_BODY = {
    "required": True,
    "description": "The file, optionally compressed with gzip.",
    "content": {
        "text/csv": {"schema": {"type": "string"}, "example": _CSV},
        "text/tab-separated-values": {"schema": {"type": "string"}, "example": "196\t242\t3\t881250949\n"},
        "application/x-ndjson": {"schema": {"type": "string"}, "example": _NDJSON},
        "application/gzip": {
            "schema": {"type": "string", "format": "binary"},
            "example": "(a file of any of these kinds, packed with gzip)",
        },
    },
}
_EXPORT_BODY: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK.value: {
        "description": "One rating per line.",
        "content": {
            "application/x-ndjson": {"schema": {"type": "string"}, "example": _NDJSON},
            "text/csv": {"schema": {"type": "string"}, "example": "user_id,item_id,value,rated_at\n"},
        },
    }
}


def _scale_of(request: Request) -> RatingScale:
    scale: RatingScale = request.app.state.settings.rating
    return scale


def _writer_of(request: Request) -> GroupCommitWriter:
    writer: GroupCommitWriter = request.app.state.rating_writer
    return writer


MAX_EXPORTS = 4
"""Exports at once: each holds a connection and one state of the data for as long as its client takes."""

MAX_IMPORTS = 4
"""Imports at once: each holds a block of lines and waits for other writers."""


_export_limit = ConcurrencyLimit("exports", MAX_EXPORTS)
_import_limit = ConcurrencyLimit("imports", MAX_IMPORTS)


async def add_rating(body: RatingIn, request: Request) -> Response:
    """Record one rating, or replace the user's earlier rating of the item. The next recommendation uses it."""
    status, saved = await _save(request, body.user_id, body.item_id, body)
    return Response(saved.model_dump_json(), status, media_type="application/json")


async def _answer_rating(body: bytes, request: Request) -> Response | None:
    try:
        rating = RatingIn.model_validate_json(body)
    except ValidationError:
        return None
    return await add_rating(rating, request)


async def add_ratings(body: RatingBatch, request: Request) -> Response:
    """Record or replace up to 10,000 ratings in one transaction: all of them or none."""
    ratings = [NewRating(each.user_id, each.item_id, each.value, each.rated_us) for each in body.ratings]
    refuse_bad_ratings(_scale_of(request), ratings, "ratings[{}].")
    counts = await _writer_of(request).run_alone(commit_many, request.app.state.database, ratings)
    count_ratings(created=counts.created, updated=counts.updated, unchanged=counts.unchanged)
    return Response(BatchCountsOut.model_validate(counts).model_dump_json(), media_type="application/json")


async def _answer_batch(body: bytes, request: Request) -> Response | None:
    try:
        batch = RatingBatch.model_validate_json(body)
    except ValidationError:
        return None
    return await add_ratings(batch, request)


router.add_api_route(
    "",
    add_rating,
    methods=["POST"],
    response_model=SavedRatingOut,
    responses={**_NEW, **_INVALID},
    route_class_override=fast_route(_answer_rating),
)
router.add_api_route(
    "/batch",
    add_ratings,
    methods=["POST"],
    response_model=BatchCountsOut,
    responses=_INVALID,
    route_class_override=fast_route(_answer_batch),
)


@router.post(
    "/import",
    responses=_INVALID,
    openapi_extra={"requestBody": _IMPORT_BODY},
    dependencies=[Depends(_import_limit)],
)
async def import_ratings(
    request: Request,
    database: DatabaseDep,
    file_format: Annotated[
        FileFormat, Query(alias="format", description="File format; `auto` detects it from the first line.")
    ] = "auto",
    encoding: Annotated[Encoding, Query(description="Character encoding.")] = "utf-8",
    user_column: Annotated[
        str | None, Query(description="Column of user ids, if not detected.", examples=["userId"])
    ] = None,
    item_column: Annotated[
        str | None, Query(description="Column of item ids, if not detected.", examples=["movieId"])
    ] = None,
    value_column: Annotated[
        str | None, Query(description="Column of ratings, if not detected.", examples=["rating"])
    ] = None,
    rated_at_column: Annotated[
        str | None, Query(description="Column of times, if not detected.", examples=["timestamp"])
    ] = None,
) -> ImportReport:
    """Record a file of ratings of any length: CSV, tabs, `::` or NDJSON, with or without a header.

    The file is committed in batches. Invalid lines are skipped and reported; after too many of them the import stops,
    and the report says why and what was committed. Importing a file again changes nothing, unless different batches of
    it contain different ratings of an item by one user: the last line wins, but each counts as an update again.
    """
    _refuse_packed_bodies(request)
    options = ImportOptions(file_format, encoding, user_column, item_column, value_column, rated_at_column)
    running = begin_import(database, request.app.state.settings, options)
    try:
        async for block in _blocks(request):
            await anyio.to_thread.run_sync(running.feed, block)
            if running.is_stopped:
                break
    except ClientDisconnect as error:  # the last bytes may be half a line, so they are not used
        raise BadInput.at("body", "ended unexpectedly; earlier batches are committed") from error
    return await anyio.to_thread.run_sync(running.finish)


def _refuse_packed_bodies(request: Request) -> None:
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise BadInput.at("Content-Type", "send the file itself as the body, not a form: curl --data-binary @FILE")
    if request.headers.get("content-encoding", "identity").lower() not in {"identity", "gzip", "x-gzip"}:
        raise BadInput.at("Content-Encoding", "only gzip is supported")


async def _blocks(request: Request) -> AsyncIterator[bytes]:
    """The body in blocks large enough to be worth a switch of threads."""
    gathered = bytearray()
    async for block in request.stream():
        gathered += block
        if len(gathered) >= BLOCK_BYTES:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)


@router.get(
    "/export",
    responses={**_EXPORT_BODY, **_INVALID},
    response_class=StreamingResponse,
    dependencies=[Depends(_export_limit)],
)
def export_ratings(
    database: DatabaseDep,
    file_format: Annotated[ExportFormat, Query(alias="format", description="File format.")] = "ndjson",
) -> StreamingResponse:
    """All ratings as of now, one per line, in a format that the import accepts."""
    return StreamingResponse(
        _in_threads(_exported(database, file_format)),
        media_type=_MEDIA_TYPES[file_format],
        headers={"Content-Disposition": f'attachment; filename="ratings.{file_format}"'},
    )


def _exported(database: Database, file_format: ExportFormat) -> Iterator[bytes]:
    with database.read() as connection:
        yield from export.export(connection, file_format)


async def _in_threads(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Blocks of a generator that waits for the database; it is closed, and its transaction ends, if the client goes."""
    try:
        while (block := await anyio.to_thread.run_sync(next, blocks, None)) is not None:
            yield block
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(blocks.close)  # type: ignore[attr-defined]


@router.get("/digest")
def ratings_digest(database: DatabaseDep) -> RatingsDigest:
    """A digest of all ratings; two services with the same ratings have the same digest."""
    with database.read() as connection:
        hold_snapshot(connection)
        digest = export.ratings_digest(connection)
        n_ratings, newest = store.totals(connection).n_ratings, revision(connection, "ratings")
    return RatingsDigest(digest=digest, n_ratings=n_ratings, revision=newest)


@users_router.get("/{user_id}/ratings", responses=_INVALID)
def list_user_ratings(
    user_id: UserIdPath,
    database: DatabaseDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of ratings per page.")] = 100,
    cursor: Annotated[str | None, Query(max_length=100, description="`next_cursor` of the previous page.")] = None,
) -> UserRatingsPage:
    """All ratings of a user, page by page; an empty list for unknown users."""
    with database.read() as connection:
        rows, next_cursor = store.page_of_user(connection, user_id, limit, cursor)
    ratings = [RatingOut.model_validate(row) for row in rows]
    return UserRatingsPage(user_id=user_id, ratings=ratings, next_cursor=next_cursor)


@users_router.put("/{user_id}/ratings/{item_id}", responses={**_NEW, **_INVALID})
async def put_rating(
    user_id: UserIdPath,
    item_id: ItemIdPath,
    body: RatingBody,
    request: Request,
    response: Response,
) -> SavedRatingOut:
    """Record or replace the rating of this user for this item."""
    response.status_code, saved = await _save(request, user_id, item_id, body)
    return saved


@users_router.get("/{user_id}/ratings/{item_id}", responses={**_UNKNOWN, **_INVALID})
def get_rating(user_id: UserIdPath, item_id: ItemIdPath, database: DatabaseDep) -> RatingOut:
    """The rating of this user for this item."""
    with database.read() as connection:
        row = store.get(connection, user_id, item_id)
    return RatingOut.model_validate(row)


@users_router.delete("/{user_id}/ratings/{item_id}", responses={**_UNKNOWN, **_INVALID})
def delete_rating(user_id: UserIdPath, item_id: ItemIdPath, database: DatabaseDep) -> DeletedRatingOut:
    """Delete the rating; the next recommendation no longer uses it."""
    with database.write() as connection:
        newest = store.remove(connection, user_id, item_id)
    count_ratings(removed=1)
    return DeletedRatingOut(user_id=user_id, item_id=item_id, revision=newest)


@users_router.delete("/{user_id}", responses={**_UNKNOWN, **_INVALID})
def erase_user(user_id: UserIdPath, database: DatabaseDep) -> ErasedUser:
    """Erase a user with all ratings, permanently."""
    with database.write() as connection:
        erased = erasure.erase_user(connection, user_id)
    count_ratings(removed=erased.erased_ratings)
    return ErasedUser(user_id=user_id, erased_ratings=erased.erased_ratings, revision=erased.revision)


@items_router.delete("/{item_id}", responses={**_UNKNOWN, **_INVALID})
def erase_item(item_id: ItemIdPath, database: DatabaseDep) -> ErasedItem:
    """Erase an item with all its ratings, permanently. To only exclude it from lists, hide it instead."""
    with database.write() as connection:
        erased = erasure.erase_item(connection, item_id)
    count_ratings(removed=erased.erased_ratings)
    return ErasedItem(item_id=item_id, erased_ratings=erased.erased_ratings, revision=erased.revision)


async def _save(request: Request, user_id: str, item_id: str, body: RatingBody) -> tuple[HTTPStatus, SavedRatingOut]:
    """Save one rating; returns status and body of the response once it is committed."""
    rating = NewRating(user_id, item_id, body.value, body.rated_us)
    refuse_bad_ratings(_scale_of(request), [rating])
    saved = await _writer_of(request).submit(rating[:2], rating)
    count_ratings(**{saved.outcome: 1})
    status = HTTPStatus.CREATED if saved.outcome == "created" else HTTPStatus.OK
    return status, SavedRatingOut.model_validate(saved)
