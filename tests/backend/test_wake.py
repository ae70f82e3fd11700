"""Who makes a task due wakes the runners that sleep beyond it, and nobody else is bothered."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.backend.tasks.tasks import LARGE
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import SessionLost
from tests.support.samples import a_task, a_type
from tests.support.wait import until

LONG = 60.0


@pytest.fixture(autouse=True)
def load_git(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())


def in_seconds(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def test_a_task_that_is_due_before_the_end_of_the_sleep_wakes(
    backend: SchedulerBackend, session: DispatcherSession
) -> None:
    assert session.fall_asleep(LONG)

    backend.create_tasks([a_task(next_run=in_seconds(30))])

    assert session.wait(30)


@pytest.mark.parametrize("when", ["now", "in a minute"])
def test_a_task_that_is_set_due_again_wakes(backend: SchedulerBackend, session: DispatcherSession, when: str) -> None:
    (task,) = backend.create_tasks([a_task(next_run=in_seconds(3600))])
    backend.disable_tasks([task["id"]])
    assert session.fall_asleep(LONG)

    backend.set_status_tasks([task["id"]], "next_run_not_scheduled", None if when == "now" else in_seconds(30))

    assert session.wait(30)


def test_resumed_types_and_queues_and_raised_limits_wake(backend: SchedulerBackend, session: DispatcherSession) -> None:
    backend.pause_task_type("load-git")
    backend.pause_queue("tests.load-git")
    for change in (
        lambda: backend.resume_task_type("load-git"),
        lambda: backend.resume_queue("tests.load-git"),
        lambda: backend.set_task_type_limits("load-git", max_in_flight=5),
        lambda: backend.set_queue_limit("tests.load-git", 5000),
    ):
        assert session.fall_asleep(LONG)
        change()
        assert session.wait(30)


def test_later_tasks_ends_pauses_and_tasks_that_were_disabled_do_not_wake(
    backend: SchedulerBackend, session: DispatcherSession
) -> None:
    (task,) = backend.create_tasks([a_task()])
    backend.grab_ready_tasks("load-git")
    run = backend.schedule_task_run(task["id"], "run")
    assert session.fall_asleep(LONG)

    backend.create_tasks([a_task(2, next_run=in_seconds(2 * LONG))])
    backend.start_task_run(run["backend_id"])
    backend.end_task_run(run["backend_id"], "eventful")
    backend.pause_task_type("load-git")
    backend.disable_tasks([task["id"]])

    assert not session.wait(0.3)


def test_nobody_is_woken_who_is_awake_or_whose_sleep_is_over(
    backend: SchedulerBackend, session: DispatcherSession
) -> None:
    backend.create_tasks([a_task(1)])
    assert not session.wait(0.3)

    assert session.fall_asleep(0.001)
    backend.create_tasks([a_task(2)])
    assert not session.wait(0.3)

    assert session.fall_asleep(LONG)
    session.wake_up()
    backend.create_tasks([a_task(3)])
    assert not session.wait(0.3)


def test_a_bulk_call_wakes_once(backend: SchedulerBackend, session: DispatcherSession, database_url: str) -> None:
    with closing(psycopg2.connect(database_url)) as conn:
        conn.autocommit = True
        with conn.cursor() as cursor:
            cursor.execute("listen swh_sched_runner")
        assert session.fall_asleep(LONG)

        backend.create_tasks(a_task(n) for n in range(3000))

        assert session.wait(30)
        until(lambda: conn.poll() == 0 and conn.notifies)
        with conn.cursor() as cursor:
            cursor.execute("select 1")
        assert len(conn.notifies) == 1


@pytest.mark.parametrize("tasks", [1, LARGE], ids=["few", "many"])
def test_nobody_falls_asleep_over_tasks_that_are_being_created(
    backend: SchedulerBackend, session: DispatcherSession, database_url: str, tasks: int
) -> None:
    with psycopg2.connect(database_url) as conn:
        creator = SchedulerBackend(conn)
        creator.create_tasks(a_task(n) for n in range(tasks))
        refused = session.fall_asleep(LONG)
        conn.commit()

    assert not refused
    assert session.fall_asleep(LONG)
    assert len(backend.peek_ready_tasks("load-git")) == tasks


def test_a_session_that_ends_while_it_waits_is_noticed(session: DispatcherSession, database: Database) -> None:
    assert session.fall_asleep(LONG)
    with database.engine.begin() as conn:
        conn.exec_driver_sql("select pg_terminate_backend(backend_pid) from dispatcher_session")

    with pytest.raises(SessionLost):
        session.wait(30)


def test_who_never_sleeps_is_told_nothing_and_who_is_awake_keeps_nothing_of_it(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession
) -> None:
    never = dispatch.open_session("visits")
    sleeper = dispatch.open_session()
    try:
        assert session.fall_asleep(LONG)
        session.wake_up()
        assert sleeper.fall_asleep(LONG)
        for n in range(5):
            backend.create_tasks([a_task(n)])
        assert sleeper.wait(30)

        session.check()
        assert not session.wait(0)
        assert not never.wait(0.2)
    finally:
        never.close()
        sleeper.close()
