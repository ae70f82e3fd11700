"""The outbox: what was unconfirmed is sent under one id until it is confirmed, by one session at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import WITHDRAWN, Batch, Dispatch, OpenBatch, TaskGroup, VisitPlan
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.config import VisitSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import SessionLost
from swh_sched_runner.model import Evidence, ListedOrigin
from tests.support.samples import NOW, a_task, a_type
from tests.support.wait import until

PLAIN = TaskGroup("load-git", "tests.load-git", 100, priority=False)
PRIORITY = TaskGroup("load-git", "tests.load-git", 100, priority=True)


def open_batch(dispatch: Dispatch, session: DispatcherSession, num_tasks: int = 10, group: TaskGroup = PLAIN) -> Batch:
    batch = dispatch.open_batch(session.id, "queue", group, num_tasks)
    assert batch is not None
    return batch


def ids_of(batch: Batch | None) -> list[str]:
    return [] if batch is None else [message.backend_id for message in batch.messages]


def test_a_batch_takes_due_tasks_opens_their_runs_and_stands_in_the_ledger(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    backend.create_task_type(a_type())
    tasks = backend.create_tasks([a_task(1, next_run=NOW), a_task(2, next_run=NOW - timedelta(days=1)), a_task(3)])

    batch = open_batch(dispatch, session, 2)

    assert [message.kwargs["url"][-1] for message in batch.messages] == ["2", "1"]
    assert (batch.backend_name, batch.max_queue_length) == ("tests.load-git", 100)
    runs = backend.get_task_runs([tasks[1]["id"], tasks[0]["id"]])
    assert {run["backend_id"] for run in runs} == set(ids_of(batch))
    assert {run["status"] for run in runs} == {"scheduled"}
    assert backend.get_tasks([tasks[0]["id"]])[0]["status"] == "next_run_scheduled"
    assert dispatch.open_batches(session.id) == [OpenBatch(batch.id, "queue")]


@pytest.mark.parametrize("group", [PLAIN, PRIORITY])
def test_ids_of_runs_begin_with_the_time_and_so_stand_together_in_the_index(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession, group: TaskGroup
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n, priority="high" if group.priority else None) for n in range(3))

    began = datetime.now(UTC) - timedelta(milliseconds=1)  # ids have whole milliseconds
    ids = [UUID(each) for each in ids_of(open_batch(dispatch, session, group=group))]

    assert len(set(ids)) == 3
    assert {each.version for each in ids} == {7}
    timestamps = {datetime.fromtimestamp((each.int >> 80) / 1000, UTC) for each in ids}
    assert began <= min(timestamps) <= max(timestamps) <= datetime.now(UTC)


def test_where_nothing_is_due_no_batch_is_written(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks([a_task(next_run=datetime.now(UTC) + timedelta(days=1)), a_task(2, priority="high")])

    assert dispatch.open_batch(session.id, "queue", PLAIN, 10) is None
    assert dispatch.open_batches(session.id) == []


def test_a_batch_of_priority_tasks_comes_in_order_high_normal_low(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n, priority=p) for n, p in enumerate(["low", "normal", "high", None]))

    batch = open_batch(dispatch, session, group=PRIORITY)

    assert [message.kwargs["url"][-1] for message in batch.messages] == ["2", "1", "0"]


def test_a_confirmed_batch_leaves_the_outbox_and_an_unconfirmed_rest_stays_in_it(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n) for n in range(5))
    batch = open_batch(dispatch, session)
    rest = [ids_of(batch)[3], ids_of(batch)[1]]

    dispatch.close_batch(session.id, batch.id, rest)
    [open_one] = dispatch.open_batches(session.id)
    again = dispatch.read_batch(session.id, open_one)
    dispatch.close_batch(session.id, batch.id)

    assert ids_of(again) == [ids_of(batch)[1], ids_of(batch)[3]]  # under the same ids, in the same order
    assert dispatch.open_batches(session.id) == []


def test_only_the_session_may_close_read_or_shrink_a_batch(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n) for n in range(2))
    batch = open_batch(dispatch, session)
    stranger = session.id + 1

    dispatch.close_batch(stranger, batch.id)
    dispatch.close_batch(stranger, batch.id, ids_of(batch)[:1])

    assert ids_of(dispatch.read_batch(session.id, OpenBatch(batch.id, "queue"))) == ids_of(batch)


def test_runs_that_started_or_ended_are_not_sent_again(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n) for n in range(3))
    batch = open_batch(dispatch, session)
    started, ended, waiting = ids_of(batch)
    backend.start_task_run(started)
    backend.end_task_run(ended, "eventful")

    assert ids_of(dispatch.read_batch(session.id, OpenBatch(batch.id, "queue"))) == [waiting]

    backend.start_task_run(waiting)
    assert dispatch.read_batch(session.id, OpenBatch(batch.id, "queue")) is None
    assert dispatch.open_batches(session.id) == []


@pytest.mark.parametrize("status", ["disabled", "next_run_not_scheduled"])
def test_a_run_whose_task_was_disabled_or_respawned_is_not_sent_and_ends_as_failed(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession, status: str
) -> None:
    backend.create_task_type(a_type())
    withdrawn, other = backend.create_tasks([a_task(1), a_task(2)])
    batch = open_batch(dispatch, session)
    backend.set_status_tasks([withdrawn["id"]], status)

    again = dispatch.read_batch(session.id, OpenBatch(batch.id, "queue"))

    assert ids_of(again) == [run["backend_id"] for run in backend.get_task_runs([other["id"]])]
    [run] = backend.get_task_runs([withdrawn["id"]])
    assert (run["status"], run["metadata"]) == ("failed", {"reason": WITHDRAWN})
    assert backend.get_tasks([withdrawn["id"]])[0]["status"] == status


@pytest.mark.parametrize(
    ("status", "evidence"), [("eventful", Evidence.SUCCEEDED), ("uneventful", Evidence.RESULT)], ids=["stock", "ours"]
)
def test_a_message_of_a_withdrawn_run_that_was_sent_all_the_same_still_tells_its_outcome(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession, status: str, evidence: Evidence
) -> None:
    # given a run whose message may have been sent before the connection broke, of a task that was disabled since
    backend.create_task_type(a_type())
    [task] = backend.create_tasks([a_task()])
    batch = open_batch(dispatch, session)
    backend.disable_tasks([task["id"]])
    assert dispatch.read_batch(session.id, OpenBatch(batch.id, "queue")) is None
    [backend_id] = ids_of(batch)

    # when a worker did it, and says so
    ended = datetime.now(UTC)
    dispatch.record_events([RunChange(backend_id, status=status, ended=ended, evidence=evidence)])

    # then that is its outcome, and the operator's decision stays
    [run] = backend.get_task_runs([task["id"]])
    assert (run["status"], run["metadata"]) == (status, {})
    assert backend.get_tasks([task["id"]])[0]["status"] == "disabled"


def test_a_batch_is_adopted_when_its_session_s_session_is_gone_and_only_then(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks([a_task()])
    dead = dispatch.open_session()
    batch = open_batch(dispatch, dead)
    assert dispatch.other_sessions(session.id) == [dead.id]
    assert not session.try_lock(dead.id)
    assert dispatch.queue_state(session.id, "queue").others_unconfirmed
    assert not dispatch.queue_state(dead.id, "queue").others_unconfirmed

    dead.close()
    until(lambda: session.try_lock(dead.id))
    assert dispatch.take_over(dead.id, session.id) == 1

    assert dispatch.open_batches(session.id) == [OpenBatch(batch.id, "queue")]
    assert dispatch.take_over(dead.id, session.id) == 0
    assert dispatch.other_sessions(session.id) == []
    assert not dispatch.queue_state(session.id, "queue").others_unconfirmed


def test_a_session_that_was_ended_knows_it_lost_its_lock(dispatch: Dispatch, session: DispatcherSession) -> None:
    other = dispatch.open_session()
    other.check()
    other.check_soon()

    session.end_session(other.id)

    def lost() -> bool:
        try:
            other.check_soon()
        except SessionLost:
            return True
        return False

    until(lost)
    with pytest.raises(SessionLost, match=str(other.id)):
        other.check()
    assert session.try_lock(other.id)
    other.close()


def test_a_session_is_among_the_living_while_it_holds_its_lock(
    dispatch: Dispatch, session: DispatcherSession, database: Database
) -> None:
    def living() -> set[int]:
        with database.engine.connect() as conn:
            return set(conn.exec_driver_sql("select session_id from living_session").scalars())

    other = dispatch.open_session()
    assert living() == {session.id, other.id}

    other.close()
    until(lambda: living() == {session.id})


def test_a_session_with_no_batch_leaves_no_trace(
    dispatch: Dispatch, session: DispatcherSession, database: Database
) -> None:
    dispatch.open_session().close()

    assert dispatch.other_sessions(session.id) == []
    with database.engine.connect() as conn:
        assert conn.exec_driver_sql("select id from dispatcher_session").scalars().all() == [session.id]


def a_listing(backend: SchedulerBackend, *urls: str) -> None:
    lister = backend.get_or_create_lister("forge", "example")
    assert lister.id is not None
    backend.record_listed_origins(
        ListedOrigin(lister.id, url, "git", extra_loader_arguments={"depth": 1}) for url in urls
    )


def test_a_visit_batch_grabs_origins_and_puts_their_messages_in_the_outbox(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    backend.create_task_type(a_type())
    a_listing(backend, "https://a.example", "https://b.example")
    plan = VisitPlan.of("git", "load-git", VisitSettings(policies={"origins_without_last_update": 1}))

    batch = dispatch.open_visit_batch(session.id, "queue", plan, 10)

    assert batch is not None
    assert dispatch.read_batch(session.id, OpenBatch(batch.id, "queue")) == batch  # as whoever takes it over reads it
    assert sorted(message.kwargs["url"] for message in batch.messages) == ["https://a.example", "https://b.example"]
    assert {message.kwargs["depth"] for message in batch.messages} == {1}
    assert (batch.backend_name, batch.max_queue_length) == ("tests.load-git", 100)
    assert dispatch.open_visit_batch(session.id, "queue", plan, 10) is None  # in flight


def test_an_origin_listed_twice_is_visited_once(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    backend.create_task_type(a_type())
    a_listing(backend, "https://a.example")
    other = backend.get_or_create_lister("mirror", "example")
    assert other.id is not None
    backend.record_listed_origins([ListedOrigin(other.id, "https://a.example", "git")])
    plan = VisitPlan.of("git", "load-git", VisitSettings(policies={"oldest_scheduled_first": 1}))

    assert len(ids_of(dispatch.open_visit_batch(session.id, "queue", plan, 10))) == 1


def test_policies_share_by_weight_and_what_one_leaves_the_next_takes(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    backend.create_task_type(a_type())
    a_listing(backend, *(f"https://{n}.example" for n in range(10)))
    policies = {"already_visited_order_by_lag": 4.0, "origins_without_last_update": 4.0, "oldest_scheduled_first": 2.0}
    plan = VisitPlan.of("git", "load-git", VisitSettings(policies=policies))  # type: ignore[arg-type]

    assert len(ids_of(dispatch.open_visit_batch(session.id, "queue", plan, 8))) == 8


def test_visits_that_were_made_meanwhile_are_not_sent_again(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    from swh_sched_runner.model import VisitOutcome

    backend.create_task_type(a_type())
    a_listing(backend, "https://a.example", "https://b.example")
    plan = VisitPlan.of("git", "load-git", VisitSettings(policies={"oldest_scheduled_first": 1}))
    open_one = dispatch.open_visit_batch(session.id, "queue", plan, 10)
    assert open_one is not None

    visited = datetime.now(UTC) + timedelta(seconds=1)
    backend.record_visit_outcomes([VisitOutcome("https://a.example", "git", visited, "full", b"\1")])

    batch = dispatch.read_batch(session.id, open_one)
    assert batch is not None
    assert [message.kwargs["url"] for message in batch.messages] == ["https://b.example"]
