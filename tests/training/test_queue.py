import json
import subprocess
import sys
from datetime import timedelta
from itertools import pairwise

import pytest
from sqlalchemy import Connection

from app.db.engine import Database
from app.db.tables import utc_now
from app.engine.hyperparameters import Hyperparameters
from app.engine.sgd.trainer import EpochReport
from app.settings import Settings
from app.training import queue
from app.training.queue import Claim, Epoch, FinishedRun, LeaseLost, UnknownRun
from tests.registry import world as registry
from tests.training.world import QUICK, claim, enqueue, epochs_of, run_of

LEASE = timedelta(seconds=10)


def _claim_at(database: Database, worker: str, later: timedelta = timedelta()) -> Claim | None:
    with database.write() as connection:
        return queue.claim(connection, worker, LEASE, database.now(connection) + later)


def _epoch(number: int) -> Epoch:
    return Epoch("fit", EpochReport(number, 8, 0.03, 1.0, 0.9, 1e6), utc_now())


def test_a_queued_run_keeps_every_hyperparameter(database: Database, settings: Settings) -> None:
    chosen = Hyperparameters(n_factors=3, learning_rate=0.017, seed=5)
    run = enqueue(database, chosen)
    assert (run.status, run.requested_by, run.attempt) == ("queued", "api", 0)
    assert claim(database, settings).hyperparameters == chosen


def test_the_oldest_queued_run_is_claimed_first(database: Database, settings: Settings) -> None:
    first, _ = enqueue(database), enqueue(database)
    claimed = claim(database, settings)
    assert (claimed.run_id, claimed.attempt) == (first.id, 1)
    assert run_of(database, first.id).status == "running"


def test_while_a_run_is_running_nothing_else_is_claimed(database: Database, settings: Settings) -> None:
    enqueue(database), enqueue(database)
    claim(database, settings)
    assert _claim_at(database, "other") is None


def test_an_empty_queue_has_nothing_to_claim(database: Database) -> None:
    assert _claim_at(database, "me") is None


def test_the_policy_never_has_two_runs_in_the_queue(database: Database, settings: Settings) -> None:
    first = enqueue(database, requested_by="policy")
    assert enqueue(database, requested_by="policy").id == first.id
    assert enqueue(database, requested_by="api").id != first.id
    claim(database, settings)
    assert enqueue(database, requested_by="policy").id != first.id


def test_is_claimable_says_whether_claiming_would_return_a_run(database: Database, settings: Settings) -> None:
    def is_claimable(later: timedelta = timedelta()) -> bool:
        with database.read() as connection:
            return queue.is_claimable(connection, database.now(connection) + later)

    assert not is_claimable()
    enqueue(database), enqueue(database)
    assert is_claimable()
    claim(database, settings)
    assert not is_claimable()
    assert is_claimable(later=2 * LEASE)


def test_a_run_whose_lease_expired_is_taken_over_and_its_epochs_are_deleted(database: Database) -> None:
    run = enqueue(database)
    old = _claim_at(database, "old")
    assert old is not None
    with database.write() as connection:
        queue.record_epochs(connection, old, [_epoch(1), _epoch(2)])
    assert _claim_at(database, "new", later=LEASE / 2) is None
    new = _claim_at(database, "new", later=2 * LEASE)
    assert new is not None
    assert (new.run_id, new.attempt, new.worker) == (run.id, 2, "new")
    assert epochs_of(database, run.id) == []


def test_a_run_whose_trainer_crashed_three_times_has_failed(database: Database) -> None:
    deadly, next_in_line = enqueue(database), enqueue(database)
    claims = [_claim_at(database, f"trainer {n}", later=2 * n * LEASE) for n in range(4)]
    assert [held.run_id for held in claims if held] == [deadly.id] * 3 + [next_in_line.id]
    row = run_of(database, deadly.id)
    assert (row.status, row.error) == ("failed", "the trainer crashed 3 times while working on it")
    assert (row.worker, row.lease_expires_at) == (None, None)
    assert row.finished_at is not None


def test_handing_a_run_back_does_not_count_as_a_death(database: Database, settings: Settings) -> None:
    run = enqueue(database)
    for _ in range(5):
        held = claim(database, settings)
        with database.write() as connection:
            queue.hand_back(connection, held, database.now(connection))
    _claim_at(database, "old")
    taken = _claim_at(database, "new", later=2 * LEASE)
    assert taken is not None
    assert (taken.run_id, taken.attempt) == (run.id, 7)


def test_an_expired_run_is_taken_over_before_queued_ones_are_claimed(database: Database) -> None:
    expired, _ = enqueue(database), enqueue(database)
    _claim_at(database, "old")
    taken = _claim_at(database, "new", later=2 * LEASE)
    assert taken is not None
    assert taken.run_id == expired.id


def test_a_trainer_that_lost_its_lease_cannot_change_the_run(database: Database) -> None:
    run = enqueue(database)
    old = _claim_at(database, "old")
    new = _claim_at(database, "new", later=2 * LEASE)
    assert old is not None
    assert new is not None

    def record(connection: Connection) -> None:
        queue.record(connection, old, n_ratings=1)

    def finish(connection: Connection) -> None:
        queue.finish(connection, old, "succeeded", utc_now(), version=1)

    def hand_back(connection: Connection) -> None:
        queue.hand_back(connection, old, utc_now())

    for change in (record, finish, hand_back):
        with pytest.raises(LeaseLost), database.write() as connection:
            change(connection)
    with database.write() as connection:
        with pytest.raises(LeaseLost):
            queue.heartbeat(connection, old, LEASE, database.now(connection))
        queue.heartbeat(connection, new, LEASE, database.now(connection))
    row = run_of(database, run.id)
    assert (row.status, row.worker, row.n_ratings) == ("running", "new", None)


def test_an_older_attempt_of_the_same_worker_has_lost_the_lease_too(database: Database) -> None:
    enqueue(database)
    old = _claim_at(database, "me")
    new = _claim_at(database, "me", later=2 * LEASE)
    assert old is not None
    assert new is not None
    with database.write() as connection:
        with pytest.raises(LeaseLost):
            queue.heartbeat(connection, old, LEASE, database.now(connection))
        queue.heartbeat(connection, new, LEASE, database.now(connection))


def test_a_heartbeat_keeps_the_run_from_being_taken_over(database: Database) -> None:
    enqueue(database)
    held = _claim_at(database, "me")
    assert held is not None
    with database.write() as connection:
        assert not queue.heartbeat(connection, held, LEASE, database.now(connection) + 2 * LEASE)
    assert _claim_at(database, "other", later=2.5 * LEASE) is None
    assert _claim_at(database, "other", later=3.5 * LEASE) is not None


def test_a_finished_run_makes_room_for_the_next(database: Database, settings: Settings) -> None:
    first, second = enqueue(database), enqueue(database)
    held = claim(database, settings)
    with database.write() as connection:
        queue.finish(connection, held, "failed", database.now(connection), error="why", metrics={"a": 1})
    row = run_of(database, first.id)
    assert (row.status, row.error, row.metrics, row.worker, row.lease_expires_at) == (
        "failed",
        "why",
        {"a": 1},
        None,
        None,
    )
    assert row.finished_at >= row.started_at >= row.created_at
    assert claim(database, settings).run_id == second.id


def test_a_run_that_is_handed_back_starts_from_nothing(database: Database, settings: Settings) -> None:
    run = enqueue(database)
    held = claim(database, settings)
    with database.write() as connection:
        queue.record_epochs(connection, held, [_epoch(1)])
        queue.record(connection, held, n_ratings=3, metrics={"a": 1})
        queue.hand_back(connection, held, database.now(connection))
    row = run_of(database, run.id)
    assert (row.status, row.worker, row.started_at, row.n_ratings, row.metrics) == ("queued", None, None, None, {})
    assert epochs_of(database, run.id) == []
    assert claim(database, settings).attempt == 2


def test_a_run_of_the_policy_gives_way_to_a_newer_one_when_it_is_handed_back(
    database: Database, settings: Settings
) -> None:
    older = enqueue(database, requested_by="policy")
    held = claim(database, settings)
    newer = enqueue(database, requested_by="policy")
    with database.write() as connection:
        queue.hand_back(connection, held, database.now(connection))
    assert run_of(database, older.id).status == "cancelled"
    assert run_of(database, newer.id).status == "queued"


def test_writing_the_same_epochs_again_changes_nothing(database: Database, settings: Settings) -> None:
    run = enqueue(database)
    held = claim(database, settings)
    for _ in range(2):
        with database.write() as connection:
            queue.record_epochs(connection, held, [_epoch(1), _epoch(2)])
    assert epochs_of(database, run.id) == [("fit", 1), ("fit", 2)]


def _cancel(database: Database, run_id: int) -> str:
    with database.write() as connection:
        return queue.request_cancel(connection, run_id, database.now(connection)).status


def test_a_queued_run_is_cancelled_at_once(database: Database) -> None:
    run = enqueue(database)
    assert _cancel(database, run.id) == "cancelled"
    assert run_of(database, run.id).finished_at is not None
    assert _claim_at(database, "me") is None


def test_a_heartbeat_reports_that_the_run_is_to_be_cancelled(database: Database, settings: Settings) -> None:
    run = enqueue(database)
    held = claim(database, settings)
    assert _cancel(database, run.id) == "running"
    with database.write() as connection:
        assert queue.heartbeat(connection, held, LEASE, database.now(connection))


def test_a_run_to_be_cancelled_whose_trainer_crashed_is_cancelled_and_not_taken_over(database: Database) -> None:
    run = enqueue(database)
    _claim_at(database, "old")
    _cancel(database, run.id)
    assert _claim_at(database, "new", later=2 * LEASE) is None
    assert run_of(database, run.id).status == "cancelled"


def test_a_finished_run_cannot_be_cancelled(database: Database) -> None:
    run = enqueue(database)
    _cancel(database, run.id)
    with pytest.raises(FinishedRun, match=f"training run {run.id} has already ended: cancelled"):
        _cancel(database, run.id)
    with pytest.raises(UnknownRun):
        _cancel(database, 99)


def test_history_goes_from_the_newest_to_the_oldest(database: Database) -> None:
    numbers = [enqueue(database).id for _ in range(3)]
    with database.read() as connection:
        page = queue.history(connection, limit=2)
        rest = queue.history(connection, limit=2, before=page[-1].id)
    assert [row.id for row in (*page, *rest)] == numbers[::-1]


TRAINER = """
import json, sys, time
from app.db.engine import open_database
from app.settings import Settings
from app.training import queue
settings = Settings.model_validate_json(sys.stdin.read())
database, worked = open_database(settings), []
while True:
    with database.write() as connection:
        claim = queue.claim(connection, queue.worker_name(), settings.training.lease, database.now(connection))
        if claim is None and all(run.status == "succeeded" for run in queue.history(connection, limit=100)):
            break
    if claim is None:
        time.sleep(0.002)  # a trainer pauses between claims; one that did not would starve the others on SQLite
    else:
        begin = time.monotonic()
        time.sleep(0.005)
        end = time.monotonic()
        with database.write() as connection:
            queue.finish(connection, claim, "succeeded", database.now(connection))
        worked.append((begin, end, claim.run_id))
json.dump(worked, sys.stdout)
"""


def test_four_processes_never_work_on_two_runs_at_once(database: Database, settings: Settings) -> None:
    numbers = [enqueue(database).id for _ in range(24)]
    settings_json = settings.model_dump_json().encode()
    trainers = [
        subprocess.Popen([sys.executable, "-c", TRAINER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    for trainer in trainers:
        assert trainer.stdin is not None
        with trainer.stdin:
            trainer.stdin.write(settings_json)
    worked: list[tuple[float, float, int]] = []
    for trainer in trainers:
        assert trainer.stdout is not None
        with trainer.stdout:
            worked += map(tuple, json.loads(trainer.stdout.read()))
        assert trainer.wait() == 0
    worked.sort()
    assert [run_id for _, _, run_id in worked] == numbers
    assert all(end <= begin for (_, end, _), (begin, _, _) in pairwise(worked))


def test_the_hyperparameters_of_a_run_are_plain_json(database: Database) -> None:
    assert Hyperparameters.from_dict(enqueue(database, QUICK).hyperparameters) == QUICK


def test_old_runs_are_pruned_with_their_epochs_except_runs_of_listed_versions(
    database: Database, settings: Settings
) -> None:
    runs = [enqueue(database).id for _ in range(6)]
    with database.write() as connection:
        for run_id in runs[:4]:
            claimed = queue.claim(connection, "me", LEASE, database.now(connection))
            assert claimed is not None
            assert claimed.run_id == run_id
            queue.record_epochs(connection, claimed, [_epoch(1)])
            queue.finish(connection, claimed, "succeeded", database.now(connection))
    registry.publish(database, settings.versions_dir)  # as the work of run 1
    with database.write() as connection:
        assert queue.prune(connection, keep=3) == 2
        assert [run.id for run in queue.history(connection, limit=10)] == [*runs[:2:-1], runs[0]]
    assert [bool(epochs_of(database, run_id)) for run_id in runs[:4]] == [True, False, False, True]


def test_the_search_whose_values_later_runs_use_is_never_pruned(database: Database) -> None:
    with database.write() as connection:
        for version in (7, 8):
            queue.enqueue(connection, "api", QUICK, utc_now(), kind="search")
            claimed = queue.claim(connection, "me", LEASE, utc_now())
            assert claimed is not None
            queue.finish(connection, claimed, "succeeded", utc_now(), version=version)
        for _ in range(3):
            queue.enqueue(connection, "api", QUICK, utc_now())
        assert queue.prune(connection, keep=1) == 1
        assert [run.version for run in queue.history(connection, limit=10) if run.kind == "search"] == [8]
