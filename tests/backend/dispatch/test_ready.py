"""Task groups: where tasks wait, and how an operator's controls throttle them, in whatever process they are grabbed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch import outbox as dispatch_module
from swh_sched_runner.backend.dispatch.outbox import Dispatch, QueueSeen, VisitPlan
from swh_sched_runner.backend.dispatch.ready import QueueState, TaskGroup
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.config import VisitSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.model import ListedOrigin
from tests.support.samples import NOW, a_task, a_type

QUEUE = "tests.load-git"
PLAIN = TaskGroup("load-git", QUEUE, 100, priority=False)
PRIORITY = TaskGroup("load-git", QUEUE, 100, priority=True)
FAST = TaskGroup("fast", QUEUE, 100, priority=False)


@pytest.fixture(autouse=True)
def load_git(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())


def taken(dispatch: Dispatch, session: DispatcherSession, num_tasks: int = 100, group: TaskGroup = PLAIN) -> int:
    batch = dispatch.open_batch(session.id, QUEUE, group, num_tasks)
    return 0 if batch is None else len(batch.messages)


def pass_by(database: Database, time: timedelta) -> None:
    """Have so much time passed since tokens were counted."""
    with database.engine.begin() as conn:
        conn.execute(text("update dispatch_type set refilled = refilled - cast(:time as interval)"), {"time": time})


def test_groups_are_those_with_tasks_priority_first_and_when_the_first_is_due(
    backend: SchedulerBackend, dispatch: Dispatch
) -> None:
    for name in ("idle", "busy"):
        backend.create_task_type(a_type(name, max_queue_length=None if name == "busy" else 100))
    backend.create_tasks(
        [
            a_task(1, next_run=NOW - timedelta(seconds=30)),
            a_task(2, next_run=NOW),
            a_task(3, "busy", next_run=NOW + timedelta(hours=1)),
            a_task(4, priority="low", next_run=NOW - timedelta(seconds=5)),
            a_task(5, priority="high", next_run=NOW),
        ]
    )
    busy = TaskGroup("busy", "tests.busy", None, priority=False)

    groups = dispatch.ready_snapshot(now=NOW).groups

    assert groups == [PRIORITY, busy, PLAIN]
    assert [group.due_in_seconds for group in groups] == [-5, 3600, -30]
    assert {group.throttled for group in groups} == {None}
    assert dispatch.ready_snapshot(["busy", "idle"]).groups == [busy]


def test_nothing_is_taken_from_a_paused_type_until_it_is_resumed(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    backend.create_tasks([a_task(1), a_task(2, priority="high")])
    backend.pause_task_type("load-git")

    assert [group.throttled for group in dispatch.ready_snapshot().groups] == ["paused", "paused"]
    assert (taken(dispatch, session), taken(dispatch, session, group=PRIORITY)) == (0, 0)

    backend.resume_task_type("load-git")
    assert {group.throttled for group in dispatch.ready_snapshot().groups} == {None}
    assert (taken(dispatch, session), taken(dispatch, session, group=PRIORITY)) == (1, 1)


def test_nothing_is_taken_for_a_paused_queue_and_what_is_unconfirmed_for_it_waits(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    backend.create_tasks(a_task(n) for n in range(2))
    assert taken(dispatch, session, 1) == 1
    backend.pause_queue(QUEUE)

    assert dispatch.ready_snapshot().paused_queues == {QUEUE}
    assert taken(dispatch, session) == 0
    assert dispatch.open_batches(session.id) == []

    backend.resume_queue(QUEUE)
    assert taken(dispatch, session) == 1
    assert len(dispatch.open_batches(session.id)) == 2


def test_a_pause_waits_for_the_grab_that_is_under_way_and_holds_from_then_on(
    backend: SchedulerBackend, dispatch: Dispatch, database: Database, session: DispatcherSession
) -> None:
    backend.create_tasks(a_task(n) for n in range(10))
    backend.set_task_type_limits("load-git", max_in_flight=100)

    with ThreadPoolExecutor(1) as pool:
        with database.engine.connect() as conn:
            grabbed = dispatch_module._open_batch(conn, session.id, QUEUE, PLAIN, 3, None)
            pausing = pool.submit(backend.pause_task_type, "load-git")
            with pytest.raises(TimeoutError):
                pausing.result(0.2)
            conn.commit()
        pausing.result(30)

    assert grabbed is not None
    assert taken(dispatch, session) == 0


@pytest.mark.parametrize("callers", [1, 8])
def test_no_more_tasks_are_in_flight_than_their_type_allows_whoever_grabs(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession, callers: int
) -> None:
    backend.create_tasks(a_task(n) for n in range(60))
    backend.create_tasks(a_task(n, priority="high") for n in range(60))
    backend.set_task_type_limits("load-git", max_in_flight=25)

    def grab(n: int) -> int:
        return sum(taken(dispatch, session, 4, PRIORITY if n % 2 else PLAIN) for _ in range(10))

    with ThreadPoolExecutor(callers) as pool:
        assert sum(pool.map(grab, range(callers))) == 25
    assert {group.throttled for group in dispatch.ready_snapshot().groups} == {"in_flight"}

    run = next(run for task in backend.search_tasks(status="next_run_scheduled", limit=1)
               for run in backend.get_task_runs([task["id"]]))  # fmt: skip
    backend.end_task_run(run["backend_id"], "eventful")
    assert taken(dispatch, session) == 1


@pytest.mark.parametrize("callers", [1, 8])
def test_a_rate_limit_holds_over_all_callers(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession, callers: int
) -> None:
    backend.create_tasks(a_task(n) for n in range(200))
    backend.set_task_type_limits("load-git", rate_limit=0.5)

    def grab(_: int) -> int:
        return sum(taken(dispatch, session, 7) for _ in range(5))

    with ThreadPoolExecutor(callers) as pool:  # the bucket holds one token, and half a one comes each second
        assert sum(pool.map(grab, range(callers))) == 1
    (group,) = dispatch.ready_snapshot().groups
    assert group.throttled == "rate"
    assert group.throttled_seconds is not None
    assert 0 < group.throttled_seconds <= 2


def test_a_rate_gives_what_it_has_saved_up_in_a_second_and_no_more(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession, database: Database
) -> None:
    backend.create_tasks(a_task(n) for n in range(300))
    backend.set_task_type_limits("load-git", rate_limit=40)

    pass_by(database, timedelta(days=1))
    assert taken(dispatch, session) == 40
    pass_by(database, timedelta(seconds=0.5))
    assert 20 <= taken(dispatch, session) < 40
    pass_by(database, timedelta(hours=1))
    assert taken(dispatch, session) == 40


def test_a_grab_that_takes_nothing_uses_no_token(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    backend.set_task_type_limits("load-git", rate_limit=0.001)
    assert taken(dispatch, session) == 0

    backend.create_tasks([a_task()])
    assert taken(dispatch, session) == 1


def test_pauses_and_rates_hold_for_visits_too(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession, database: Database
) -> None:
    lister = backend.get_or_create_lister("github", "github")
    assert lister.id is not None
    backend.record_listed_origins(
        ListedOrigin(lister_id=lister.id, url=f"https://forge/{n}", visit_type="git") for n in range(9)
    )
    settings = VisitSettings(policies={"oldest_scheduled_first": 1.0})
    plan = VisitPlan.of("git", "load-git", settings)

    backend.pause_task_type("load-git")
    assert dispatch.open_visit_batch(session.id, QUEUE, plan, 100) is None
    backend.resume_task_type("load-git")
    backend.pause_queue(QUEUE)
    assert dispatch.open_visit_batch(session.id, QUEUE, plan, 100) is None
    backend.resume_queue(QUEUE)
    backend.set_task_type_limits("load-git", rate_limit=4, max_in_flight=0)
    pass_by(database, timedelta(minutes=1))

    batch = dispatch.open_visit_batch(session.id, QUEUE, plan, 100)

    assert batch is not None
    assert len(batch.messages) == 4


def test_a_closed_batch_tells_how_its_publisher_left_the_queue(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    backend.create_tasks([a_task()])
    assert dispatch.queue_state(session.id, QUEUE) == QueueState(None, None, None, False)
    batch = dispatch.open_batch(session.id, QUEUE, PLAIN, 1)
    assert batch is not None

    dispatch.close_batch(session.id, batch.id, seen=QueueSeen(QUEUE, 7, 2.5))

    state = dispatch.queue_state(session.id, QUEUE)
    assert (state.depth, state.drain_rate, state.others_unconfirmed) == (7, 2.5, False)
    assert state.seconds is not None
    assert 0 <= state.seconds < 60
