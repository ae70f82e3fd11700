"""What the database knows of why a task is not running."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.dispatch.ready import TaskGroup, note_published
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.backend.inspection import explain
from swh_sched_runner.backend.inspection.explain import TaskFacts
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import InvalidArgument, UnknownTask
from swh_sched_runner.model import Task
from tests.support.samples import NOW, a_task, a_type, run_of_a_task
from tests.support.wait import until

QUEUE = "tests.load-git"
TEMPLATE = "save_code_now:{backend_name}"


@pytest.fixture
def session(database: Database) -> Iterator[DispatcherSession]:
    session = Dispatch(database).open_session()
    yield session
    session.close()


def read(database: Database, task: Task, **more: Any) -> TaskFacts:
    return database.run(explain.read, task["id"], TEMPLATE, **more)


def test_the_queue_is_that_of_the_type_or_with_a_priority_the_templates(
    backend: SchedulerBackend, database: Database
) -> None:
    backend.create_task_type(a_type())
    plain, urgent = backend.create_tasks([a_task(1), a_task(2, priority="high")])

    assert read(database, plain).queue == QUEUE
    assert read(database, urgent).queue == f"save_code_now:{QUEUE}"


@pytest.mark.parametrize(("bounds", "bound"), [((100, 7, None), 7), ((None, None, None), None)])
def test_the_limit_is_the_least_of_the_types_that_share_the_queue(
    backend: SchedulerBackend, database: Database, bounds: tuple[int | None, ...], bound: int | None
) -> None:
    for number, each in enumerate(bounds):
        backend.create_task_type(a_type(f"type-{number}", backend_name=QUEUE, max_queue_length=each))
    [task] = backend.create_tasks([a_task(task_type="type-0")])

    assert read(database, task).max_queue_length == bound


def test_a_task_is_due_from_its_timestamp_on(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type())
    task, later = backend.create_tasks([a_task(1), a_task(2, next_run=NOW + timedelta(seconds=1))])

    at_its_timestamp, before = read(database, task, now=NOW), read(database, later, now=NOW)

    assert (at_its_timestamp.due, before.due, before.waiting) == (True, False, True)
    assert at_its_timestamp.ahead is not None
    assert before.ahead is None


def test_tasks_ahead_are_those_that_the_grab_takes_before(backend: SchedulerBackend, database: Database) -> None:
    # given tasks in a mix of timestamps and priorities, some of them due at the same time
    backend.create_task_type(a_type())
    tasks = backend.create_tasks(
        a_task(n, next_run=NOW - timedelta(days=n * 7 % 5), priority=(None, "high", "normal", "low")[n % 4])
        for n in range(40)
    )
    order = [*backend.peek_ready_tasks("load-git"), *backend.peek_ready_priority_tasks("load-git")]
    plain = sum(task["priority"] is None for task in tasks)
    # when
    ahead = {task["id"]: read(database, task).ahead for task in tasks}
    # then
    places = [ahead[task["id"]].tasks for task in order]  # type: ignore[union-attr]
    assert places == [*range(plain), *range(len(tasks) - plain)]
    assert not any(each and each.more for each in ahead.values())


@pytest.mark.parametrize("priority", [None, "low"])
def test_tasks_ahead_are_counted_no_further_than_needed(
    backend: SchedulerBackend, database: Database, monkeypatch: pytest.MonkeyPatch, priority: str | None
) -> None:
    monkeypatch.setattr(explain, "COUNTED", 3)
    backend.create_task_type(a_type())
    tasks = backend.create_tasks(a_task(n, priority=priority) for n in range(6))

    at_the_limit, beyond = (read(database, tasks[n]).ahead for n in (3, 5))

    assert at_the_limit == explain.Ahead(0, 3, more=False)
    assert beyond == explain.Ahead(0, 3, more=True)


def test_controls_are_read_with_what_they_count(
    backend: SchedulerBackend, database: Database, session: DispatcherSession
) -> None:
    backend.create_task_type(a_type())
    task, _ = backend.create_tasks([a_task(1), a_task(2)])
    Dispatch(database).open_batch(session.id, QUEUE, TaskGroup("load-git", QUEUE, 100, priority=False), 1)
    assert read(database, task).in_flight is None  # nothing limits it
    backend.pause_task_type("load-git", by="ops@here", reason="storm")
    backend.pause_queue(QUEUE, by="me")
    backend.set_task_type_limits("load-git", max_in_flight=2**62, rate_limit=10.0)
    database.run(note_published, session.id, QUEUE, 42, 1.5)

    facts = read(database, task)

    assert facts.type_pause is not None
    assert (facts.type_pause.by, facts.type_pause.reason) == ("ops@here", "storm")
    assert facts.of_queue.pause is not None
    assert (facts.of_queue.pause.by, facts.of_queue.pause.reason) == ("me", None)
    assert (facts.max_in_flight, facts.in_flight) == (2**62, 1)
    assert facts.rate_limit == 10.0
    assert (facts.of_queue.published_depth, facts.of_queue.drain_rate) == (42, 1.5)
    assert facts.of_queue.published is not None
    assert facts.of_queue.oldest_batch is not None


@pytest.mark.parametrize("rate", [0.25, 1.0, 40.0])
@pytest.mark.parametrize(
    "rest",
    ["update dispatch_type set refilled = null", "update dispatch_type set refilled = refilled - interval '1 hour'"],
)
def test_a_bucket_that_rests_holds_the_tokens_of_a_second_and_one_at_least(
    backend: SchedulerBackend, database: Database, rate: float, rest: str
) -> None:
    backend.create_task_type(a_type())
    [task] = backend.create_tasks([a_task()])
    backend.set_task_type_limits("load-git", rate_limit=rate)
    database.run(lambda conn: conn.execute(text(rest)))

    assert read(database, task).tokens == max(rate, 1.0)


@pytest.mark.parametrize(
    ("metadata", "worker", "attempts", "error"),
    [
        ({"worker": "one@here", "attempts": 2, "error": "no route"}, "one@here", 2, "no route"),
        ({"attempts": "many", "reason": "expired"}, None, None, "expired"),
        ({}, None, None, None),
    ],
)
def test_a_run_tells_what_events_have_noted(
    backend: SchedulerBackend,
    database: Database,
    metadata: dict[str, Any],
    worker: str | None,
    attempts: int | None,
    error: str | None,
) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend)
    backend.start_task_run("run-1", metadata=metadata, timestamp=NOW)

    run = read(database, task).run

    assert run is not None
    assert (run.backend_id, run.status, run.started) == ("run-1", "started", NOW)
    assert (run.worker, run.attempts, run.error) == (worker, attempts, error)


@pytest.mark.parametrize("metadata", ["[1]", '"text"', "null", "7"])
def test_metadata_that_is_no_object_is_no_obstacle(
    backend: SchedulerBackend, database: Database, metadata: str
) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend)
    database.run(lambda conn: conn.execute(text("update task_run set metadata = cast(:m as jsonb)"), {"m": metadata}))

    run = read(database, task).run

    assert run is not None
    assert (run.worker, run.attempts, run.error) == (None, None, None)


def test_a_run_moved_its_task_only_if_the_task_still_followed_it(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend)
    backend.disable_tasks([task["id"]])
    backend.schedule_task_run(task["id"], "run-2")
    backend.end_task_run("run-2", "failed")  # it leaves a disabled task alone

    facts = read(database, task)

    assert facts.run is not None
    assert (facts.run.backend_id, facts.run.moved) == ("run-2", False)


def test_a_run_that_was_archived_and_deleted_leaves_its_number(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend, policy="oneshot")
    backend.end_task_run("run-1", "eventful")
    before = read(database, task)
    database.run(lambda conn: conn.execute(text("delete from task_run")))

    facts = read(database, task)

    assert before.run is not None
    assert before.run.moved
    assert (facts.run_id, facts.run) == (before.run.id, None)


def test_sessions_are_counted_while_they_live(backend: SchedulerBackend, database: Database) -> None:
    # given two sessions with open batches, one of them gone
    backend.create_task_type(a_type())
    tasks = backend.create_tasks([a_task(1), a_task(2)])
    dispatch = Dispatch(database)
    alive, dead = dispatch.open_session(), dispatch.open_session()
    for session in (alive, dead):
        dispatch.open_batch(session.id, QUEUE, TaskGroup("load-git", QUEUE, 100, priority=False), 1)
    assert read(database, tasks[0]).living_runners == 2
    dead.close()
    until(lambda: read(database, tasks[0]).living_runners == 1)  # PostgreSQL takes its time to end a session
    # when
    of_living, of_dead = (read(database, task) for task in tasks)
    # then
    assert of_living.unconfirmed is not None
    assert of_dead.unconfirmed is not None
    assert (of_living.unconfirmed.session_id, of_living.unconfirmed.alive) == (alive.id, True)
    assert (of_dead.unconfirmed.session_id, of_dead.unconfirmed.alive) == (dead.id, False)
    assert of_living.living_runners == of_dead.living_runners == 1
    alive.close()


def test_an_unknown_task_and_an_id_that_is_none_are_errors(database: Database) -> None:
    with pytest.raises(UnknownTask):
        database.run(explain.read, 1, TEMPLATE)
    with pytest.raises(InvalidArgument, match="task_id"):
        database.run(explain.read, 2**63, TEMPLATE)
