"""The ledger: what was promised is sent under one id until it is confirmed, by one owner at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import WITHDRAWN, Batch, Dispatch, Lane, OpenBatch, VisitPlan
from swh_sched_runner.backend.dispatch.session import Owner
from swh_sched_runner.config import VisitSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import OwnershipLost
from swh_sched_runner.model import ListedOrigin
from tests.support.samples import NOW, a_task, a_type
from tests.support.wait import until

PLAIN = Lane("load-git", "tests.load-git", 100, priority=False)
PRIORITY = Lane("load-git", "tests.load-git", 100, priority=True)


def open_batch(dispatch: Dispatch, owner: Owner, num_tasks: int = 10, lane: Lane = PLAIN) -> Batch:
    batch = dispatch.open_batch(owner.id, "queue", lane, num_tasks)
    assert batch is not None
    return batch


def ids_of(batch: Batch | None) -> list[str]:
    return [] if batch is None else [promise.backend_id for promise in batch.promises]


def test_a_batch_takes_due_tasks_opens_their_runs_and_stands_in_the_ledger(
    backend: SchedulerBackend, dispatch: Dispatch, owner: Owner
) -> None:
    backend.create_task_type(a_type())
    tasks = backend.create_tasks([a_task(1, next_run=NOW), a_task(2, next_run=NOW - timedelta(days=1)), a_task(3)])

    batch = open_batch(dispatch, owner, 2)

    assert [promise.kwargs["url"][-1] for promise in batch.promises] == ["2", "1"]
    assert (batch.backend_name, batch.bound) == ("tests.load-git", 100)
    runs = backend.get_task_runs([tasks[1]["id"], tasks[0]["id"]])
    assert {run["backend_id"] for run in runs} == set(ids_of(batch))
    assert {run["status"] for run in runs} == {"scheduled"}
    assert backend.get_tasks([tasks[0]["id"]])[0]["status"] == "next_run_scheduled"
    assert dispatch.open_batches(owner.id) == [OpenBatch(batch.id, "queue")]


@pytest.mark.parametrize("lane", [PLAIN, PRIORITY])
def test_the_ids_of_runs_begin_with_the_moment_so_that_those_of_a_time_lie_together_in_the_index(
    backend: SchedulerBackend, dispatch: Dispatch, owner: Owner, lane: Lane
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n, priority="high" if lane.priority else None) for n in range(3))

    began = datetime.now(UTC) - timedelta(milliseconds=1)  # ids have whole milliseconds
    ids = [UUID(each) for each in ids_of(open_batch(dispatch, owner, lane=lane))]

    assert len(set(ids)) == 3
    assert {each.version for each in ids} == {7}
    moments = {datetime.fromtimestamp((each.int >> 80) / 1000, UTC) for each in ids}
    assert began <= min(moments) <= max(moments) <= datetime.now(UTC)


def test_where_nothing_is_due_no_batch_is_written(backend: SchedulerBackend, dispatch: Dispatch, owner: Owner) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks([a_task(next_run=datetime.now(UTC) + timedelta(days=1)), a_task(2, priority="high")])

    assert dispatch.open_batch(owner.id, "queue", PLAIN, 10) is None
    assert dispatch.open_batches(owner.id) == []


def test_a_batch_of_priority_tasks_comes_in_order_high_normal_low(
    backend: SchedulerBackend, dispatch: Dispatch, owner: Owner
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n, priority=p) for n, p in enumerate(["low", "normal", "high", None]))

    batch = open_batch(dispatch, owner, lane=PRIORITY)

    assert [promise.kwargs["url"][-1] for promise in batch.promises] == ["2", "1", "0"]


def test_a_confirmed_batch_leaves_the_ledger_and_an_unconfirmed_rest_stays_a_promise(
    backend: SchedulerBackend, dispatch: Dispatch, owner: Owner
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n) for n in range(5))
    batch = open_batch(dispatch, owner)
    rest = [ids_of(batch)[3], ids_of(batch)[1]]

    dispatch.close_batch(owner.id, batch.id, rest)
    [open_one] = dispatch.open_batches(owner.id)
    again = dispatch.read_batch(owner.id, open_one)
    dispatch.close_batch(owner.id, batch.id)

    assert ids_of(again) == [ids_of(batch)[1], ids_of(batch)[3]]  # under the same ids, in the same order
    assert dispatch.open_batches(owner.id) == []


def test_only_the_owner_may_close_read_or_shrink_a_batch(
    backend: SchedulerBackend, dispatch: Dispatch, owner: Owner
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n) for n in range(2))
    batch = open_batch(dispatch, owner)
    stranger = owner.id + 1

    dispatch.close_batch(stranger, batch.id)
    dispatch.close_batch(stranger, batch.id, ids_of(batch)[:1])

    assert ids_of(dispatch.read_batch(owner.id, OpenBatch(batch.id, "queue"))) == ids_of(batch)


def test_runs_that_started_or_ended_are_not_sent_again(
    backend: SchedulerBackend, dispatch: Dispatch, owner: Owner
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n) for n in range(3))
    batch = open_batch(dispatch, owner)
    started, ended, waiting = ids_of(batch)
    backend.start_task_run(started)
    backend.end_task_run(ended, "eventful")

    assert ids_of(dispatch.read_batch(owner.id, OpenBatch(batch.id, "queue"))) == [waiting]

    backend.start_task_run(waiting)
    assert dispatch.read_batch(owner.id, OpenBatch(batch.id, "queue")) is None
    assert dispatch.open_batches(owner.id) == []


@pytest.mark.parametrize("status", ["disabled", "next_run_not_scheduled"])
def test_a_run_whose_task_was_disabled_or_respawned_is_not_sent_and_ends_as_failed(
    backend: SchedulerBackend, dispatch: Dispatch, owner: Owner, status: str
) -> None:
    backend.create_task_type(a_type())
    withdrawn, other = backend.create_tasks([a_task(1), a_task(2)])
    batch = open_batch(dispatch, owner)
    backend.set_status_tasks([withdrawn["id"]], status)

    again = dispatch.read_batch(owner.id, OpenBatch(batch.id, "queue"))

    assert ids_of(again) == [run["backend_id"] for run in backend.get_task_runs([other["id"]])]
    [run] = backend.get_task_runs([withdrawn["id"]])
    assert (run["status"], run["metadata"]) == ("failed", {"reason": WITHDRAWN})
    assert backend.get_tasks([withdrawn["id"]])[0]["status"] == status


def test_a_batch_is_adopted_when_its_owner_s_session_is_gone_and_only_then(
    backend: SchedulerBackend, dispatch: Dispatch, owner: Owner
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks([a_task()])
    dead = dispatch.open_owner()
    batch = open_batch(dispatch, dead)
    assert dispatch.other_owners(owner.id) == [dead.id]
    assert not owner.try_lock(dead.id)
    assert dispatch.queue_state(owner.id, "queue").promised_by_others
    assert not dispatch.queue_state(dead.id, "queue").promised_by_others

    dead.close()
    until(lambda: owner.try_lock(dead.id))
    assert dispatch.adopt(dead.id, owner.id) == 1

    assert dispatch.open_batches(owner.id) == [OpenBatch(batch.id, "queue")]
    assert dispatch.adopt(dead.id, owner.id) == 0
    assert dispatch.other_owners(owner.id) == []
    assert not dispatch.queue_state(owner.id, "queue").promised_by_others


def test_an_owner_whose_session_was_ended_knows_it_lost_its_lock(dispatch: Dispatch, owner: Owner) -> None:
    other = dispatch.open_owner()
    other.check()
    other.check_soon()

    owner.end_session(other.id)

    def lost() -> bool:
        try:
            other.check_soon()
        except OwnershipLost:
            return True
        return False

    until(lost)
    with pytest.raises(OwnershipLost, match=str(other.id)):
        other.check()
    assert owner.try_lock(other.id)
    other.close()


def test_an_owner_that_promised_nothing_leaves_no_trace(dispatch: Dispatch, owner: Owner, database: Database) -> None:
    dispatch.open_owner().close()

    assert dispatch.other_owners(owner.id) == []
    with database.engine.connect() as conn:
        assert conn.exec_driver_sql("select id from dispatch_owner").scalars().all() == [owner.id]


def a_listing(backend: SchedulerBackend, *urls: str) -> None:
    lister = backend.get_or_create_lister("forge", "example")
    assert lister.id is not None
    backend.record_listed_origins(
        ListedOrigin(lister.id, url, "git", extra_loader_arguments={"depth": 1}) for url in urls
    )


def test_a_visit_batch_grabs_origins_and_promises_their_messages(
    backend: SchedulerBackend, dispatch: Dispatch, owner: Owner
) -> None:
    backend.create_task_type(a_type())
    a_listing(backend, "https://a.example", "https://b.example")
    plan = VisitPlan.of("git", "load-git", 10, VisitSettings(policies={"origins_without_last_update": 1}))

    open_one = dispatch.open_visit_batch(owner.id, "queue", plan)
    assert open_one is not None
    batch = dispatch.read_batch(owner.id, open_one)

    assert batch is not None
    assert sorted(promise.kwargs["url"] for promise in batch.promises) == ["https://a.example", "https://b.example"]
    assert {promise.kwargs["depth"] for promise in batch.promises} == {1}
    assert (batch.backend_name, batch.bound) == ("tests.load-git", 100)
    assert dispatch.open_visit_batch(owner.id, "queue", plan) is None  # in flight


def test_an_origin_listed_twice_is_visited_once(backend: SchedulerBackend, dispatch: Dispatch, owner: Owner) -> None:
    backend.create_task_type(a_type())
    a_listing(backend, "https://a.example")
    other = backend.get_or_create_lister("mirror", "example")
    assert other.id is not None
    backend.record_listed_origins([ListedOrigin(other.id, "https://a.example", "git")])
    plan = VisitPlan.of("git", "load-git", 10, VisitSettings(policies={"oldest_scheduled_first": 1}))

    open_one = dispatch.open_visit_batch(owner.id, "queue", plan)

    assert open_one is not None
    assert len(ids_of(dispatch.read_batch(owner.id, open_one))) == 1


def test_policies_share_by_weight_and_what_one_leaves_the_next_takes(
    backend: SchedulerBackend, dispatch: Dispatch, owner: Owner
) -> None:
    backend.create_task_type(a_type())
    a_listing(backend, *(f"https://{n}.example" for n in range(10)))
    policies = {"already_visited_order_by_lag": 4.0, "origins_without_last_update": 4.0, "oldest_scheduled_first": 2.0}
    plan = VisitPlan.of("git", "load-git", 8, VisitSettings(policies=policies))  # type: ignore[arg-type]

    open_one = dispatch.open_visit_batch(owner.id, "queue", plan)

    assert open_one is not None
    assert len(ids_of(dispatch.read_batch(owner.id, open_one))) == 8


def test_visits_that_were_made_meanwhile_are_not_sent_again(
    backend: SchedulerBackend, dispatch: Dispatch, owner: Owner
) -> None:
    from swh_sched_runner.model import VisitOutcome

    backend.create_task_type(a_type())
    a_listing(backend, "https://a.example", "https://b.example")
    plan = VisitPlan.of("git", "load-git", 10, VisitSettings(policies={"oldest_scheduled_first": 1}))
    open_one = dispatch.open_visit_batch(owner.id, "queue", plan)
    assert open_one is not None

    visited = datetime.now(UTC) + timedelta(seconds=1)
    backend.record_visit_outcomes([VisitOutcome("https://a.example", "git", visited, "full", b"\1")])

    batch = dispatch.read_batch(owner.id, open_one)
    assert batch is not None
    assert [promise.kwargs["url"] for promise in batch.promises] == ["https://b.example"]
