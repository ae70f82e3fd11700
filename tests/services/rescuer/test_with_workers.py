"""The services together, with real workers on real brokers: a worker is killed, its run is ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.cli.assembly import factories
from swh_sched_runner.cli.context import Context
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.services.supervisor import Supervisor
from tests.support.processes.workers import StartWorker
from tests.support.samples import a_task, a_type
from tests.support.wait import until

BEATS = ("--heartbeat-interval", "1")
SERVICES = ("runner", "listener", "dead-letters", "heartbeats", "rescuer")
QUICK = {
    "rescuer.period_seconds": 0.5,
    "rescuer.away_seconds": 2.0,
    "rescuer.flush_seconds": 1.0,
    "rescuer.between_looks_seconds": 0.5,
    "rescuer.drain_seconds": 0.5,
    "rescuer.waiting_seconds": 2.0,
}


StartServices = Callable[[str], None]
both = pytest.mark.parametrize("broker_url", ["rabbitmq_url", "valkey_url"], indirect=True)


@pytest.fixture
def broker_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def start_services(database_url: str) -> Iterator[StartServices]:
    """Starts all services on a broker, in threads; ends them after the test."""
    stop = threading.Event()
    started: list[tuple[threading.Thread, Context]] = []

    def start(broker_url: str) -> None:
        context = Context(None, {"database.url": database_url, "broker.url": broker_url, **QUICK}, {})
        services = factories(context)
        supervisor = Supervisor({name: services[name] for name in SERVICES if name in services}, stop)
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        started.append((thread, context))

    yield start
    stop.set()
    for thread, context in started:
        thread.join(30)
        context.close()


def runs(database: Database) -> list[tuple[Any, ...]]:
    statement = (
        "select status, metadata -> 'verdict' ->> 'verdict', metadata -> 'verdict' ->> 'rule' from task_run order by id"
    )
    with database.engine.connect() as conn:
        return [tuple(row) for row in conn.execute(text(statement))]


def a_due_task(backend: SchedulerBackend, backend_name: str, *args: Any) -> None:
    """A one-shot task of a type of its own; its retry is due in an hour."""
    backend.create_task_type(a_type(backend_name, backend_name=backend_name, retry_delay=timedelta(hours=1)))
    arguments = {"args": list(args), "kwargs": {}}
    backend.create_tasks([a_task(0, backend_name, arguments=arguments, policy="oneshot")])


def knows_queues(database: Database) -> bool:
    with database.engine.connect() as conn:
        return conn.execute(text("select count(queues) from worker")).scalar() == 1


def test_a_run_of_a_worker_that_is_killed_is_lost(
    backend: SchedulerBackend,
    database: Database,
    rabbitmq_url: str,
    start_worker: StartWorker,
    start_services: StartServices,
    tmp_path: Path,
) -> None:
    worker = start_worker(rabbitmq_url, ["wait"], options=BEATS)
    start_services(rabbitmq_url)
    a_due_task(backend, "wait", str(tmp_path / "never"), 600)
    until(lambda: knows_queues(database) and runs(database) == [("started", None, None)], 60)

    worker.kill()

    until(lambda: runs(database) == [("lost", "worker died", "2b")], 60)


@both
def test_a_run_that_ended_without_an_event_is_found_at_its_worker(
    backend: SchedulerBackend,
    database: Database,
    broker_url: str,
    start_worker: StartWorker,
    start_services: StartServices,
) -> None:
    start_worker(broker_url, ["ignore"], options=BEATS)
    start_services(broker_url)
    a_due_task(backend, "ignore")

    until(lambda: runs(database) == [("lost", "event lost", "5")], 60)


@both
def test_a_run_whose_queue_was_purged_is_lost_and_others_are_not(
    backend: SchedulerBackend, database: Database, broker_url: str, start_services: StartServices
) -> None:
    start_services(broker_url)
    a_due_task(backend, "gone")
    a_due_task(backend, "kept")
    app = create_app(BrokerSettings(url=broker_url))
    with Queues(app) as queues:
        until(lambda: queues.depth("gone") == queues.depth("kept") == 1, 60)
        with connect(app) as connection:
            connection.default_channel.queue_purge("gone")

        until(lambda: runs(database)[0] == ("lost", "never delivered", "3"), 60)
        assert runs(database)[1] == ("scheduled", None, None)
        assert queues.depth("kept") == 1
