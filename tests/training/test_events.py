import json
from collections.abc import MutableMapping
from datetime import timedelta
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI

from app.db.engine import Database
from app.db.tables import utc_now
from app.engine.sgd.trainer import EpochReport
from app.main import create_app
from app.settings import Settings
from app.training import events, queue
from app.training.api import MAX_STREAMS
from app.training.events import EventCursor
from app.training.models import PHASES, Phase
from app.training.queue import Claim, Epoch
from tests.training.world import claim, enqueue


def _epochs(phase: Phase, first: int, last: int) -> list[Epoch]:
    return [Epoch(phase, EpochReport(n, 9, 0.1, 1.0, None, 1.0), utc_now()) for n in range(first, last + 1)]


def _record(database: Database, held: Claim, epochs: list[Epoch]) -> None:
    with database.write() as connection:
        queue.record_epochs(connection, held, epochs)


def _names(database: Database, cursor: EventCursor) -> list[str]:
    """Ids of epochs and `status` for what the cursor has not received; only those epochs and the last ones are read."""
    with database.read() as connection:
        events, _ = cursor.read(connection, 1)
    return [event.split("\n")[0].removeprefix("event: ") for event in events]


@pytest.fixture
def held(database: Database, settings: Settings) -> Claim:
    enqueue(database)
    return claim(database, settings)


def test_only_new_epochs_are_read_and_sent(database: Database, held: Claim) -> None:
    cursor = EventCursor()
    _record(database, held, _epochs("fit", 1, 2))
    assert _names(database, cursor) == ["id: 1.1", "id: 1.2", "status"]
    assert _names(database, cursor) == []
    _record(database, held, _epochs("fit", 3, 3))
    assert _names(database, cursor) == ["id: 1.3"]
    _record(database, held, [*_epochs("fit", 4, 4), *_epochs("final", 1, 2)])
    assert _names(database, cursor) == ["id: 1.4", "id: 1.5", "id: 1.6"]
    _record(database, held, _epochs("final", 3, 3))
    assert _names(database, cursor) == ["id: 1.7"]
    with database.write() as connection:
        queue.finish(connection, held, "failed", database.now(connection))
    assert _names(database, cursor) == ["status"]


@pytest.mark.parametrize("n_seen", range(6))
def test_a_client_that_reconnects_gets_the_missed_events(database: Database, held: Claim, n_seen: int) -> None:
    _record(database, held, [*_epochs("fit", 1, 3), *_epochs("final", 1, 2)])
    expected = [f"id: 1.{number}" for number in range(n_seen + 1, 6)]
    assert _names(database, EventCursor(attempt=1, n_epochs=n_seen)) == [*expected, "status"]


def test_a_phase_that_starts_over_is_sent_again(database: Database, held: Claim) -> None:
    cursor = EventCursor()
    _record(database, held, _epochs("fit", 1, 3))
    _names(database, cursor)
    _record(database, held, _epochs("fit", 1, 1))
    assert _names(database, cursor) == ["id: 1.1"]


def test_where_the_fit_begins_again_its_sweeps_are_forgotten(database: Database, held: Claim) -> None:
    cursor = EventCursor()
    _record(database, held, [*_epochs("fit", 1, 3), *_epochs("sample", 1, 4)])
    assert _names(database, cursor)[-2:] == ["id: 1.7", "status"]
    _record(database, held, [*_epochs("sample", 5, 5), *_epochs("fit", 1, 2)])
    assert _names(database, cursor) == ["id: 1.1", "id: 1.2"]
    _record(database, held, _epochs("sample", 1, 1))
    assert _names(database, cursor) == ["id: 1.3"]


def test_phases_are_sent_in_chronological_order(database: Database, held: Claim) -> None:
    for phase in PHASES:
        _record(database, held, _epochs(phase, 1, 2))
    with database.read() as connection:
        told = [row.phase for row in queue.epochs_of(connection, held.run_id)]
    assert told == [phase for phase in PHASES for _ in range(2)]
    assert _names(database, EventCursor(attempt=1, n_epochs=5)) == ["id: 1.6", "id: 1.7", "id: 1.8", "status"]


def test_after_a_take_over_the_epochs_begin_anew(database: Database, held: Claim) -> None:
    cursor = EventCursor()
    _record(database, held, _epochs("fit", 1, 3))
    _names(database, cursor)
    with database.write() as connection:
        queue.hand_back(connection, held, database.now(connection))
        again = queue.claim(connection, "other", timedelta(seconds=10), database.now(connection))
    assert again is not None
    _record(database, again, _epochs("fit", 1, 1))
    assert _names(database, cursor) == ["id: 2.1", "status"]


def test_status_events_contain_the_progress(database: Database, held: Claim) -> None:
    _record(database, held, _epochs("fit", 1, 3))
    with database.read() as connection:
        cursor = EventCursor()
        [*_, status], is_finished = cursor.read(connection, held.run_id)
    assert not is_finished
    assert json.loads(status.split("data: ")[1])["progress"] == pytest.approx(3 / 18, abs=1e-4)


@pytest.mark.parametrize(
    "given", ["9" * 5000 + ".1", "1." + "9" * 5000, "-1.2", "1", "1.", ".", "", "1.2.3", "\u0663.1"]
)
def test_an_invalid_event_id_starts_from_the_first_event(given: str) -> None:
    assert EventCursor.after(given) == EventCursor()


def test_a_silent_stream_is_kept_open_by_comments_and_ends_with_the_service(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE", 0.0)
    monkeypatch.setattr(events, "POLL_INTERVAL", 0.01)
    run = enqueue(database)
    received: list[str] = []

    async def listen() -> None:
        stream = events.stream(database, run.id, EventCursor(), lambda: len(received) > 3)
        async for event in stream:
            received.append(event)  # noqa: PERF401  the stream looks at what was received

    anyio.run(listen)
    assert received[0].startswith("event: status\n")
    assert set(received[1:]) == {": keep-alive\n\n"}


async def _follow(app: FastAPI, path: str, answers: list[int]) -> None:
    """Ask for a stream of events and stay with it."""

    async def receive() -> dict[str, object]:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answers.append(message["status"])

    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "GET"}
    where = {"path": path, "raw_path": path.encode(), "query_string": b"", "headers": []}
    await app(scope | where | {"scheme": "http", "server": ("palate", 80), "root_path": ""}, receive, send)


def test_a_stream_too_many_is_refused_until_one_is_over(database: Database, settings: Settings) -> None:
    run = enqueue(database)
    path = f"/v1/training-runs/{run.id}/events"

    async def scene() -> None:
        app = create_app(settings)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            answers: list[int] = []
            async with anyio.create_task_group() as clients:
                for _ in range(MAX_STREAMS):
                    clients.start_soon(_follow, app, path, answers)
                with anyio.fail_after(300):
                    while len(answers) < MAX_STREAMS:
                        await anyio.sleep(0.01)
                assert set(answers) == {200}
                refused = await client.get(path)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                clients.cancel_scope.cancel()
            await client.post(f"/v1/training-runs/{run.id}/cancel")
            assert (await client.get(path)).status_code == 200

    anyio.run(scene)
