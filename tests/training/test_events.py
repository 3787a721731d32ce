import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from app.database import Database
from app.training import events
from app.training.events import Reader
from app.training.models import TrainingRun
from tests.training.world import enqueue

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def _run(**changed: Any) -> Any:
    values = dict.fromkeys(column.name for column in TrainingRun.__table__.columns)
    values |= {"id": 1, "status": "running", "requested_by": "api", "hyperparameters": {}, "created_at": NOW}
    values |= {"is_cancel_requested": False, "attempt": 1, "metrics": {}, **changed}
    return SimpleNamespace(**values, _mapping=values)


def _epochs(n: int) -> list[Any]:
    report = {"n_epochs": 9, "learning_rate": 0.1, "train_rmse": 1.0, "holdout_rmse": None, "ratings_per_second": 1.0}
    return [SimpleNamespace(phase="fit", epoch=one, finished_at=NOW, **report) for one in range(1, n + 1)]


def _names(news: Any) -> list[str]:
    return [line for event in news for line in event.split("\n") if line.startswith(("id:", "event: status"))]


def test_only_what_is_new_is_told() -> None:
    reader = Reader()
    assert _names(reader.news(_run(), _epochs(2))) == ["id: 1.1", "id: 1.2", "event: status"]
    assert _names(reader.news(_run(), _epochs(2))) == []
    assert _names(reader.news(_run(), _epochs(3))) == ["id: 1.3"]
    assert _names(reader.news(_run(status="failed"), _epochs(3))) == ["event: status"]


def test_after_a_take_over_the_epochs_begin_anew() -> None:
    reader = Reader()
    list(reader.news(_run(), _epochs(3)))
    assert _names(reader.news(_run(attempt=2), _epochs(1))) == ["id: 2.1", "event: status"]


def test_progress_is_told_with_the_status() -> None:
    [*_, status] = Reader().news(_run(), _epochs(3))
    assert json.loads(status.split("data: ")[1])["progress"] == pytest.approx(3 / 18, abs=1e-4)


@pytest.mark.parametrize(
    "given", ["9" * 5000 + ".1", "1." + "9" * 5000, "-1.2", "1", "1.", ".", "", "1.2.3", "\u0663.1"]
)
def test_an_event_id_that_we_never_gave_begins_at_the_beginning(given: str) -> None:
    assert Reader.after(given) == Reader()


def test_a_silent_stream_is_kept_open_by_comments_and_ends_with_the_service(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE", 0.0)
    monkeypatch.setattr(events, "LOOK_INTERVAL", 0.01)
    run = enqueue(database)
    received: list[str] = []

    async def listen() -> None:
        stream = events.stream(database, run.id, Reader(), lambda: len(received) > 3)
        async for event in stream:
            received.append(event)  # noqa: PERF401  the stream looks at what was received

    anyio.run(listen)
    assert received[0].startswith("event: status\n")
    assert set(received[1:]) == {": still here\n\n"}
