"""A sleeping runner keeps the leases of queues that have nothing due, until another one asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from statistics import median

import pytest
from celery import Celery
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.broker.factory import open_publisher
from swh_sched_runner.broker.interface import Publisher
from swh_sched_runner.config import BrokerSettings, VisitSettings
from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.service import Heartbeat
from swh_sched_runner.services.visits.scheduler import VisitScheduler
from tests.services.dispatch.conftest import running
from tests.support.origins import NOW, a_lister, an_origin
from tests.support.queues import depth
from tests.support.samples import a_task, a_type
from tests.support.wait import until

QUEUE = "tests.load-git"
MakeRunner = Callable[..., Runner]
on_rabbitmq = pytest.mark.parametrize("broker_url", ["rabbitmq_url"], indirect=True)
on_redis = pytest.mark.parametrize("broker_url", ["valkey_url"], indirect=True)


@pytest.fixture
def session(dispatch: Dispatch) -> Iterator[DispatcherSession]:
    with closing(dispatch.open_session()) as session:
        yield session


@pytest.fixture
def publisher(app: Celery, broker: BrokerSettings, session: DispatcherSession) -> Iterator[Publisher]:
    """Another session's."""
    with closing(open_publisher(app, broker, session.id)) as publisher:
        yield publisher


@contextmanager
def asleep(runner: Runner, app: Celery, backend: SchedulerBackend) -> Iterator[None]:
    """A runner that has dispatched two tasks, one after the other, and sleeps."""
    with running(runner):
        for n in (1, 2):
            until(lambda: sleeps(backend))  # only who sleeps is told that others ask
            backend.create_tasks([a_task(n)])
            until(lambda n=n: depth(app, QUEUE) == n)  # type: ignore[misc]
        yield


def sleeps(backend: SchedulerBackend) -> bool:
    """Whether the runner has announced that it sleeps."""
    announced = text("select exists (select from dispatcher_session where sleeps_until > now())")
    return bool(backend._db.read(lambda conn: conn.execute(announced).scalar()))


def free(publisher: Publisher) -> bool:
    """Whether nobody has leased the queue."""
    if not publisher.lock(QUEUE):
        return False
    publisher.unlock(QUEUE)
    return True


@on_rabbitmq
def test_a_lease_is_kept_until_another_session_asks_for_it(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery, publisher: Publisher, session: DispatcherSession
) -> None:
    backend.create_task_type(a_type())
    with asleep(make_runner(period_seconds=60), app, backend):
        threading.Event().wait(0.3)  # a lease that is given up is given up by now
        assert not free(publisher)
        session.ask_for("another")
        assert not free(publisher)

        session.ask_for(QUEUE)

        until(lambda: free(publisher))
        # and it goes on without
        backend.create_tasks([a_task(3)])
        until(lambda: depth(app, QUEUE) == 3)


@on_redis
def test_where_locks_end_by_themselves_none_is_kept(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery, publisher: Publisher
) -> None:
    backend.create_task_type(a_type())
    with asleep(make_runner(period_seconds=60), app, backend):
        until(lambda: free(publisher))


@on_rabbitmq
def test_a_queue_with_tasks_that_are_not_all_taken_is_not_kept(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery, publisher: Publisher
) -> None:
    backend.create_task_type(a_type(max_queue_length=2))
    with asleep(make_runner(period_seconds=60), app, backend):
        backend.create_tasks([a_task(3)])
        until(lambda: free(publisher))


def test_runners_of_different_types_share_a_queue_without_waiting_for_each_other(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery
) -> None:
    for name in ("load-git", "other"):
        backend.create_task_type(a_type(name, backend_name=QUEUE))
    first, second = (make_runner(task_types=[name], period_seconds=60) for name in ("load-git", "other"))
    with asleep(first, app, backend), running(second):
        seconds = []
        for n in range(3, 9):
            started = time.monotonic()
            backend.create_tasks([a_task(n, "other" if n % 2 else "load-git")])
            until(lambda n=n: depth(app, QUEUE) == n)  # type: ignore[misc]
            seconds.append(time.monotonic() - started)
    assert median(seconds) < 0.9  # sooner than either would look by itself


@on_rabbitmq
def test_who_finds_a_queue_leased_asks_for_it_and_wakes_nobody(
    backend: SchedulerBackend, make_runner: MakeRunner, publisher: Publisher, session: DispatcherSession
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks([a_task()])
    assert publisher.lock(QUEUE)
    assert session.fall_asleep(60)

    make_runner().run_once(Heartbeat())

    assert not session.wait(5)
    assert session.asked_for() == {QUEUE}
    assert session.asked_for() == set()


@on_rabbitmq
def test_visits_get_a_queue_whose_lease_a_sleeping_runner_keeps(
    backend: SchedulerBackend, make_runner: MakeRunner, make_visits: Callable[..., VisitScheduler], app: Celery
) -> None:
    backend.create_task_type(a_type())
    backend.record_listed_origins([an_origin(a_lister(backend), last_update=NOW)])
    settings = VisitSettings(task_type="load-git", period_seconds=60)
    with asleep(make_runner(period_seconds=60), app, backend), running(make_visits(git=settings)):
        until(lambda: depth(app, QUEUE) == 3)
