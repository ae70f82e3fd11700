"""The runner's wait: it sleeps while nothing can be sent, and no longer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import SessionLost
from swh_sched_runner.services.dispatch import sleep
from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.service import Heartbeat
from tests.services.dispatch.conftest import running
from tests.support.queues import depth, take
from tests.support.samples import a_task, a_type
from tests.support.wait import until

QUEUE = "tests.load-git"
MakeRunner = Callable[..., Runner]


def wakeups(instruments: Instruments, reason: str) -> float:
    return instruments.registry.get_sample_value("swh_sched_runner_wakeups_total", {"reason": reason}) or 0.0


@pytest.fixture(autouse=True)
def load_git(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())


@pytest.fixture
def instruments() -> Instruments:
    return Instruments()


def test_a_task_that_is_created_while_the_runner_sleeps_wakes_it(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery, instruments: Instruments, database: Database
) -> None:
    runner = make_runner(instruments=instruments)
    with ThreadPoolExecutor(1) as pool:
        for n in range(1, 4):
            while runner.run_once(Heartbeat()):
                pass
            assert depth(app, QUEUE) == n - 1
            before = asleep_until(database)
            resting = pool.submit(runner.wait_for_work, Heartbeat())
            until(lambda before=before: asleep_until(database) != before)
            backend.create_tasks([a_task(n)])
            resting.result(30)
            # "due": it was there already when the runner, having announced its sleep, looked once more.
            assert wakeups(instruments, "notified") + wakeups(instruments, "due") == n

    assert wakeups(instruments, "poll") == 0
    assert runner.run_once(Heartbeat())


def asleep_until(database: Database) -> datetime | None:
    with database.engine.begin() as conn:
        until_when: datetime | None = conn.exec_driver_sql("select max(sleeps_until) from dispatcher_session").scalar()
        return until_when


def test_it_sleeps_until_the_next_task_is_due(
    backend: SchedulerBackend, make_runner: MakeRunner, instruments: Instruments
) -> None:
    runner = make_runner(instruments=instruments, period_seconds=60)
    due = datetime.now(UTC) + timedelta(seconds=0.4)
    backend.create_tasks([a_task(next_run=due)])

    assert not runner.run_once(Heartbeat())
    runner.wait_for_work(Heartbeat())

    assert runner.run_once(Heartbeat())
    assert wakeups(instruments, "due") == 1
    assert datetime.now(UTC) - due < timedelta(seconds=30)


def test_it_looks_every_period_whatever_it_hears(make_runner: MakeRunner, instruments: Instruments) -> None:
    runner = make_runner(instruments=instruments, period_seconds=0.2)
    started = time.monotonic()

    runner.run_once(Heartbeat())
    runner.wait_for_work(Heartbeat())

    assert wakeups(instruments, "poll") == 1
    assert 0.15 < time.monotonic() - started < 30


def test_capacity_in_a_full_queue_is_noticed_soon_and_its_limit_is_kept(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery, instruments: Instruments
) -> None:
    backend.set_queue_limit(QUEUE, 10)
    backend.create_tasks(a_task(n) for n in range(60))
    seen = 0
    with running(make_runner(instruments=instruments)):
        while seen < 60:
            until(lambda: depth(app, QUEUE) > 0)
            assert depth(app, QUEUE) <= 10
            seen += len(take(app, QUEUE, 10))

    assert wakeups(instruments, "probe") >= 3


def test_tasks_that_pile_up_before_a_full_queue_do_not_keep_the_runner_awake(
    backend: SchedulerBackend, make_runner: MakeRunner, instruments: Instruments
) -> None:
    backend.set_queue_limit(QUEUE, 0)
    with running(make_runner(instruments=instruments)):
        started = time.monotonic()
        for n in range(300):
            backend.create_tasks([a_task(n)])
        seconds = time.monotonic() - started

    assert wakeups(instruments, "notified") <= 5 + 1.5 * seconds / sleep.LAST_RETRY_SECONDS


def test_a_stop_ends_the_wait(make_runner: MakeRunner) -> None:
    runner, stop = make_runner(period_seconds=60), threading.Event()
    runner.run_once(Heartbeat())
    threading.Timer(0.1, stop.set).start()
    started = time.monotonic()

    runner.wait_for_work(Heartbeat(stop))

    assert time.monotonic() - started < 30


def test_the_end_of_its_session_ends_the_wait(make_runner: MakeRunner, database: Database) -> None:
    runner = make_runner()
    runner.run_once(Heartbeat())
    with database.engine.begin() as conn:
        conn.exec_driver_sql("select pg_terminate_backend(backend_pid) from dispatcher_session")

    with pytest.raises(SessionLost):
        runner.wait_for_work(Heartbeat())
