"""What an operator does to tasks, and that neither a grab nor an end comes between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.dispatch.ready import TaskGroup
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.backend.tasks import runs, tasks
from swh_sched_runner.backend.tasks.operations import Conditions, Operation, Outcome, TaskOperations
from swh_sched_runner.backend.tasks.operations import _apply as apply_in
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import InvalidArgument, UnknownTaskType
from swh_sched_runner.model import Evidence
from tests.support.samples import NOW, a_task, a_type, run_of_a_task
from tests.support.wait import until

LATER = NOW + timedelta(hours=1)


@pytest.fixture(autouse=True)
def load_git(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type(retry_delay=timedelta(0)))


@pytest.fixture
def operations(database: Database) -> TaskOperations:
    return TaskOperations(database)


def create(backend: SchedulerBackend, number: int = 0, **more: Any) -> int:
    return backend.create_tasks([a_task(number, **more)])[0]["id"]


def read(backend: SchedulerBackend, task: int) -> Any:
    return backend.get_tasks([task])[0]


def results(outcomes: list[Outcome]) -> list[str]:
    return [outcome.result for outcome in outcomes]


@contextmanager
def while_locked(engine: Engine, held: Callable[[Connection], Any], then: Callable[[], Any]) -> Iterator[list[Any]]:
    """Does ``then`` while a transaction with ``held`` is open, which is committed once ``then`` waits for it."""
    answer: list[Any] = []
    with ThreadPoolExecutor(1) as thread:
        with engine.begin() as conn:
            held(conn)
            waiting = thread.submit(then)
            with engine.connect() as other:
                until(lambda: other.exec_driver_sql("select 1 from pg_locks where not granted").scalar())
        answer.append(waiting.result(timeout=20))
    yield answer


@pytest.mark.parametrize(
    ("verb", "expected"),
    [("run-now", "in flight"), ("respawn", "in flight"), ("delete", "in flight"), ("disable", "changed")],
)
def test_what_a_grab_took_meanwhile_is_seen(
    engine: Engine, backend: SchedulerBackend, operations: TaskOperations, verb: Any, expected: str
) -> None:
    task = create(backend)

    def grab(conn: Connection) -> None:
        tasks.grab_ready(conn, "load-git", NOW, 1)
        runs.schedule(conn, task, "run-1", None, NOW)

    with while_locked(engine, grab, lambda: operations.apply(Operation(verb), [task])) as [outcomes]:
        assert results(outcomes) == [expected]

    assert outcomes[0].run == backend.get_task_runs([task])[0]["id"]
    assert read(backend, task)["status"] == ("disabled" if verb == "disable" else "next_run_scheduled")


@pytest.mark.parametrize(
    ("verb", "force"), [("respawn", True), ("run-now", True), ("respawn", False), ("delete", False)]
)
def test_an_end_that_came_meanwhile_stands(
    engine: Engine, backend: SchedulerBackend, operations: TaskOperations, verb: Any, force: bool
) -> None:
    task = run_of_a_task(backend)["id"]

    def end(conn: Connection) -> None:
        runs.end(conn, "run-1", "failed", None, NOW, None)

    operation = Operation(verb, force=force)
    with while_locked(engine, end, lambda: operations.apply(operation, [task])) as [outcomes]:
        assert (results(outcomes), outcomes[0].ended) == (["changed"], ())

    if verb == "delete":
        assert backend.get_tasks([task]) == backend.get_task_runs([task]) == []
    else:
        assert backend.get_task_runs([task])[0]["status"] == "failed"
        assert (read(backend, task)["status"], read(backend, task)["retries_left"]) == ("next_run_not_scheduled", 1)


def test_an_end_after_a_forced_respawn_changes_the_old_run_alone(
    backend: SchedulerBackend, operations: TaskOperations, dispatch: Dispatch, session: DispatcherSession
) -> None:
    task = run_of_a_task(backend)["id"]
    [outcome] = operations.apply(Operation("respawn", next_run=NOW, force=True, by="me"), [task])
    assert (outcome.result, outcome.ended) == ("changed", ("run-1",))
    [old] = backend.get_task_runs([task])
    assert (old["status"], old["metadata"]["reason"]) == ("lost", "ended by me, who had its task run again")
    assert (read(backend, task)["next_run"], read(backend, task)["retries_left"]) == (NOW, 1)

    dispatch.open_batch(session.id, "queue", TaskGroup("load-git", "tests.load-git", None, priority=False), 3)
    backend.end_task_run("run-1", "permfailed", timestamp=LATER)

    old, new = backend.get_task_runs([task])
    assert (old["status"], new["status"]) == ("permfailed", "scheduled")
    assert read(backend, task)["status"] == "next_run_scheduled"


def test_a_grab_passes_what_is_being_disabled(engine: Engine, backend: SchedulerBackend) -> None:
    task, other = create(backend), create(backend, 1)
    with engine.begin() as conn:
        apply_in(conn, Operation("disable"), [task], None)
        assert [row["id"] for row in backend.grab_ready_tasks("load-git", NOW)] == [other]

    assert read(backend, task)["status"] == "disabled"


def test_a_disabled_task_follows_its_open_run_again_when_it_is_enabled(
    backend: SchedulerBackend, operations: TaskOperations
) -> None:
    task = run_of_a_task(backend)["id"]
    operations.apply(Operation("disable"), [task])
    for refused in (Operation("respawn"), Operation("delete", force=True)):
        assert results(operations.apply(refused, [task])) == ["in flight"]

    assert results(operations.apply(Operation("enable"), [task])) == ["changed"]

    assert read(backend, task)["status"] == "next_run_scheduled"
    backend.end_task_run("run-1", "uneventful", timestamp=LATER)
    assert read(backend, task)["status"] == "next_run_not_scheduled"
    assert read(backend, task)["next_run"] == LATER + timedelta(days=2)


def test_a_task_stays_disabled_after_its_end_and_is_enabled_without_a_run(
    backend: SchedulerBackend, operations: TaskOperations
) -> None:
    task = run_of_a_task(backend)["id"]
    operations.apply(Operation("disable"), [task])
    backend.end_task_run("run-1", "eventful", timestamp=LATER)
    assert read(backend, task)["status"] == "disabled"

    outcomes = [operations.apply(Operation(verb), [task])[0].result for verb in ("disable", "enable", "enable")]  # type: ignore[arg-type]

    assert outcomes == ["unchanged", "changed", "unchanged"]
    assert (read(backend, task)["status"], read(backend, task)["next_run"]) == ("next_run_not_scheduled", NOW)


def test_set_stands_against_the_correction_of_an_earlier_end(
    backend: SchedulerBackend, operations: TaskOperations, dispatch: Dispatch
) -> None:
    task = run_of_a_task(backend)["id"]
    dispatch.record_events([RunChange("run-1", status="failed", ended=NOW, evidence=Evidence.FAILED)], [])
    wanted = Operation("set", timedelta(hours=6), LATER, "high", 9)
    assert results(operations.apply(wanted, [task])) == ["changed"]

    backend.end_task_run("run-1", "eventful", timestamp=NOW)

    row = read(backend, task)
    assert (row["current_interval"], row["next_run"]) == (timedelta(hours=6), LATER)
    assert (row["priority"], row["retries_left"]) == ("high", 9)


def test_set_of_a_task_in_flight_leaves_its_next_run_to_its_end(
    backend: SchedulerBackend, operations: TaskOperations
) -> None:
    task = run_of_a_task(backend)["id"]
    assert results(operations.apply(Operation("set", next_run=LATER), [task])) == ["in flight"]
    assert results(operations.apply(Operation("set", interval=timedelta(hours=6)), [task])) == ["changed"]

    backend.end_task_run("run-1", "uneventful", timestamp=LATER)

    assert read(backend, task)["next_run"] == LATER + timedelta(hours=12)


def test_what_can_not_be_done_is_refused_each_for_its_reason(
    backend: SchedulerBackend, operations: TaskOperations
) -> None:
    oneshot = create(backend, 1, policy="oneshot", status="completed")
    disabled = create(backend, 2, status="disabled")
    asked = [oneshot, disabled, 10**6]

    assert results(operations.apply(Operation("run-now"), asked)) == ["completed", "disabled", "unknown"]
    assert results(operations.apply(Operation("enable"), asked)) == ["completed", "changed", "unknown"]
    assert results(operations.apply(Operation("set", timedelta(1)), asked)) == ["oneshot", "changed", "unknown"]
    with pytest.raises(InvalidArgument, match="interval: must be above 0"):
        operations.apply(Operation("set", timedelta(0)), asked)


def test_run_now_keeps_the_place_of_what_is_due(backend: SchedulerBackend, operations: TaskOperations) -> None:
    due, later = create(backend), create(backend, 1, next_run=NOW + timedelta(days=36_500))

    operations.apply(Operation("run-now"), [later, due])

    assert [row["id"] for row in backend.peek_ready_tasks("load-git")] == [due, later]
    assert read(backend, due)["next_run"] == NOW


def test_conditions_are_about_the_newest_end_and_hold_until_the_lock(
    backend: SchedulerBackend, operations: TaskOperations
) -> None:
    failed = run_of_a_task(backend, "a")["id"]
    succeeded = run_of_a_task(backend, "b", number=1)["id"]
    for name in ("a", "b"):
        backend.end_task_run(name, "failed", {"error": "disk % full"})
    backend.schedule_task_run(succeeded, "c")
    backend.end_task_run("c", "eventful")
    wanted = Conditions("load-git", error="% full", failed_since=timedelta(hours=1))
    assert operations.select(wanted) == [failed]
    assert operations.select(Conditions(error="disk _")) == []

    outcomes = operations.apply(Operation("disable"), [failed, succeeded], wanted)

    assert results(outcomes) == ["changed", "passed over"]
    assert read(backend, succeeded)["status"] == "next_run_not_scheduled"
    with pytest.raises(UnknownTaskType):
        operations.select(Conditions("nosuch"))


def test_a_dry_run_says_the_same_and_writes_nothing(backend: SchedulerBackend, operations: TaskOperations) -> None:
    task = run_of_a_task(backend)["id"]
    before = read(backend, task), backend.get_task_runs([task])
    operation = Operation("respawn", force=True)

    told = operations.apply(operation, [task], dry_run=True)

    assert (read(backend, task), backend.get_task_runs([task])) == before
    assert told == operations.apply(operation, [task])
