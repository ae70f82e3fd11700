"""Fixtures for the tests of programs that use the scheduler: servers, a backend, workers.

Opt in with ``pytest_plugins = ["swh_sched_runner.pytest_plugin"]`` in the top ``conftest.py``. The servers come from
wheels, are started when a test first asks and end with the test process. ``TEST_DATABASE_URL`` and ``TEST_REDIS_URL``
name others to use instead: a PostgreSQL role that may create databases, and a Redis database that tests may empty.
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

# A type for tasks that come back and one for tasks that run once; tasks of workers have these names as well.
SAMPLE_TYPES: tuple[TaskType, ...] = (
    {
        "type": "sample-recurring",
        "description": "A task that comes back, at intervals that double and halve between an hour and eight days",
        "backend_name": "sample.recurring",
        "default_interval": timedelta(days=1),
        "min_interval": timedelta(hours=1),
        "max_interval": timedelta(days=8),
        "backoff_factor": 2.0,
        "max_queue_length": 100,
    },
    {
        "type": "sample-oneshot",
        "description": "A task that runs once, and is tried again twice after failures",
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
    """A database of the session's PostgreSQL server; ``scheduler_database_url`` makes others beside it."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    options = {"max_connections": "300", "shared_buffers": "64MB", "max_wal_size": "512MB"}
    with Postgres(tmp_path_factory.mktemp("postgresql"), fsync=False, options=options) as server:
        yield server.url()


@pytest.fixture(scope="session")
def scheduler_template_database(scheduler_postgresql_url: str) -> Iterator[str]:
    """The name of a migrated database without rows, to copy."""
    name = f"test_template_{uuid.uuid4().hex[:12]}"
    with scratch.created(scheduler_postgresql_url, name) as url:
        engine = create_engine(url)
        migrate.upgrade(engine)
        engine.dispose()
        yield name


@pytest.fixture
def scheduler_database_url(scheduler_postgresql_url: str, scheduler_template_database: str) -> Iterator[str]:
    """The URL of a fresh migrated database, dropped after the test with whatever is still connected to it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with scratch.created(scheduler_postgresql_url, name, scheduler_template_database) as url:
        yield url


@pytest.fixture
def scheduler_backend(scheduler_database_url: str) -> Iterator[SchedulerBackend]:
    """A backend on a fresh database that has the task types of ``SAMPLE_TYPES``."""
    with SchedulerBackend(scheduler_database_url) as backend:
        for task_type in SAMPLE_TYPES:
            backend.create_task_type(task_type)
        yield backend


@pytest.fixture(scope="session")
def scheduler_valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The session's Valkey server; ``scheduler_broker_url`` empties it for each test."""
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
    """Starts a Celery worker that runs the tasks of ``module``, takes from ``queues``, and answers when it is ready."""

    def __call__(self, module: str, *queues: str) -> None: ...


@pytest.fixture
def scheduler_worker(scheduler_broker_url: str, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts real worker processes, which end with the test. Their modules are looked up where pytest's are.

    Modules define tasks with ``celery.shared_task``, as for ``swh-sched-runner worker start``. The test fails with the
    worker's log when it does not come up.
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
            pytest.fail(f"the worker did not come up:\n{log.read_text()}", pytrace=False)

    yield start
    for worker in started:
        process.end(worker, (signal.SIGTERM, 10.0))


class RunUntil(Protocol):
    """Dispatches tasks and records events, round by round, until ``condition`` is true; fails the test after a time."""

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
