"""Pytest fixtures for programs that use the scheduler: servers, a backend, workers.

Enable them with ``pytest_plugins = ["swh_sched_runner.pytest_plugin"]`` in the topmost ``conftest.py``. The servers
come from wheels, start when a test first needs them and end with the test process. To use other servers, set
``TEST_DATABASE_URL`` (the role must be allowed to create databases) and ``TEST_REDIS_URL`` (tests empty this database).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
import redis

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.factory import open_consumer, open_publisher
from swh_sched_runner.config import BrokerSettings, ListenerSettings, RunnerSettings
from swh_sched_runner.db import migrate, scratch
from swh_sched_runner.db.engine import Database, create_engine
from swh_sched_runner.embedded import process
from swh_sched_runner.embedded.postgres import Postgres
from swh_sched_runner.embedded.valkey import Valkey
from swh_sched_runner.model import TaskType
from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.listener.listener import Listener
from swh_sched_runner.services.service import Heartbeat

WORKER_START_SECONDS = 40.0

# A task type for recurring tasks and one for one-shot tasks; ``backend_name`` is the name of the Celery task.
SAMPLE_TYPES: tuple[TaskType, ...] = (
    {
        "type": "sample-recurring",
        "description": "A recurring task, with intervals from an hour to eight days",
        "backend_name": "sample.recurring",
        "default_interval": timedelta(days=1),
        "min_interval": timedelta(hours=1),
        "max_interval": timedelta(days=8),
        "backoff_factor": 2.0,
        "max_queue_length": 100,
    },
    {
        "type": "sample-oneshot",
        "description": "A one-shot task with two retries",
        "backend_name": "sample.oneshot",
        "max_queue_length": 100,
        "num_retries": 2,
        "retry_delay": timedelta(minutes=5),
    },
)


def flush(broker: str) -> None:
    """Empty the database of a Redis or Valkey broker URL."""
    with closing(redis.Redis.from_url(broker.replace("redis+socket://", "unix://", 1))) as client:
        client.flushdb()


@pytest.fixture(scope="session")
def scheduler_postgresql_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database on the session's PostgreSQL server; ``scheduler_database_url`` creates others there."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    options = {"max_connections": "300", "shared_buffers": "64MB", "max_wal_size": "512MB"}
    with Postgres(tmp_path_factory.mktemp("postgresql"), fsync=False, options=options) as server:
        yield server.url()


@pytest.fixture(scope="session")
def scheduler_template_database(scheduler_postgresql_url: str) -> Iterator[str]:
    """The name of a template database with all migrations and without rows."""
    name = f"test_template_{uuid.uuid4().hex[:12]}"
    with scratch.created(scheduler_postgresql_url, name) as url:
        engine = create_engine(url)
        migrate.upgrade(engine)
        engine.dispose()
        yield name


@pytest.fixture
def scheduler_database_url(scheduler_postgresql_url: str, scheduler_template_database: str) -> Iterator[str]:
    """The URL of a fresh migrated database. It is dropped after the test, even if connections are open."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with scratch.created(scheduler_postgresql_url, name, scheduler_template_database) as url:
        yield url


@pytest.fixture
def scheduler_backend(scheduler_database_url: str) -> Iterator[SchedulerBackend]:
    """A backend on a fresh database with the task types of ``SAMPLE_TYPES``."""
    with SchedulerBackend(scheduler_database_url) as backend:
        for task_type in SAMPLE_TYPES:
            backend.create_task_type(task_type)
        yield backend


@pytest.fixture(scope="session")
def scheduler_valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the session's Valkey server; ``scheduler_broker_url`` empties it for each test."""
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
        return
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url()


@pytest.fixture
def scheduler_broker_url(scheduler_valkey_url: str) -> str:
    """The URL of an empty broker."""
    flush(scheduler_valkey_url)
    return scheduler_valkey_url


class StartWorker(Protocol):
    """Starts a Celery worker that executes the tasks of ``module`` from ``queues``; returns when it is ready."""

    def __call__(self, module: str, *queues: str) -> None: ...


@pytest.fixture
def scheduler_worker(scheduler_broker_url: str, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts real worker processes, which end with the test. Modules are imported from pytest's ``sys.path``.

    Modules define tasks with ``celery.shared_task``, as for ``swh-sched-runner worker start``. If a worker does not
    start, the test fails and shows its log.
    """
    environment = os.environ | {
        "SWH_SCHED_RUNNER_BROKER__URL": scheduler_broker_url,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "C_FORCE_ROOT": "1",
    }
    started: list[subprocess.Popen[bytes]] = []

    def start(module: str, *queues: str) -> None:
        log = tmp_path / f"worker-{len(started)}.log"
        command = [sys.executable, "-m", "swh_sched_runner", "worker", "start", "-I", module, "-c", "1"]
        command += ["-n", f"worker{len(started)}@%h", *(part for queue in queues for part in ("-Q", queue))]
        worker = process.launch(command, log=log, death_signal=signal.SIGKILL, environment=environment)
        started.append(worker)
        process.wait_until(lambda: worker.poll() is not None or " ready." in log.read_text(), WORKER_START_SECONDS)
        if worker.poll() is not None or " ready." not in log.read_text():
            pytest.fail(f"the worker did not start:\n{log.read_text()}", pytrace=False)

    yield start
    for worker in started:
        process.end(worker, (signal.SIGTERM, 10.0))


class RunUntil(Protocol):
    """Dispatches tasks and records events until ``condition`` is true; fails the test after the timeout."""

    def __call__(self, condition: Callable[[], object], timeout_seconds: float = 30.0) -> None: ...


@pytest.fixture
def scheduler_run_until(scheduler_database_url: str, scheduler_broker_url: str) -> Iterator[RunUntil]:
    """A runner and a listener in this process, on the test's database and broker."""
    settings = BrokerSettings(url=scheduler_broker_url)
    app, database = create_app(settings), Database(create_engine(scheduler_database_url))
    dispatch, listening = Dispatch(database), ListenerSettings(flush_seconds=0.05)
    runner = Runner(dispatch, partial(open_publisher, app, settings), RunnerSettings(), settings.priority_queue)
    listener = Listener(dispatch, partial(open_consumer, app, settings, listening.prefetch), listening)

    def run_until(condition: Callable[[], object], timeout_seconds: float = 30.0) -> None:
        deadline, heartbeat = time.monotonic() + timeout_seconds, Heartbeat()
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {timeout_seconds:g} s", pytrace=False)
            runner.run_once(heartbeat)
            listener.run_once(heartbeat)

    yield run_until
    runner.close()
    listener.close()
    database.close()
    app.close()
