"""Real servers for the tests: private ones, started when a test first asks, ended with the test process.

TEST_DATABASE_URL, TEST_AMQP_URL and TEST_REDIS_URL name others to use instead. With TEST_ADOPTED=38 (or 33 to 37) tests
run on databases that were adopted from that version of the other scheduler instead of made by our migrations.
"""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from sqlalchemy import Engine

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.db import migrate
from swh_sched_runner.db.engine import Database, create_engine
from swh_sched_runner.embedded.postgres import Postgres
from swh_sched_runner.embedded.valkey import Valkey
from tests.support.processes.releases import RELEASES, Release, ReleaseMissing, python_of
from tests.support.processes.workers import StartWorker, WorkerProcess
from tests.support.servers import databases, foreign, rabbitmq
from tests.support.servers.rabbitmq import RabbitMQ

hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")

# What starts a broker, a worker, a process of the program or a server of the test's own.
NOT_QUICK = {
    *("scheduler_valkey_url", "valkey_url", "rabbitmq_server", "rabbitmq_url", "limited_url", "mortal_rabbitmq"),
    *("own_postgres", "own_rabbitmq", "own_valkey", "old_server", "servers"),
    *("start_worker", "release", "program", "programs", "demo", "distributions", "install"),
}


def pytest_configure() -> None:
    """Heed the signals that nohup, and a shell's background, have set to be ignored: programs inherit that."""
    for number, action in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, action)


# Folders whose files take minutes: they come first, so that several processes end at about the same time.
LONGEST = ("faults", "rescuer", "services", "docs", "hostile", "broker", "end_to_end")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the longest first; mark as quick what needs PostgreSQL at most, and is not marked as slow."""
    items.sort(key=_rank)
    for item in items:
        given = set(getattr(item, "fixturenames", ()))
        if callspec := getattr(item, "callspec", None):  # fixtures that are asked for by their names
            given |= {value for value in callspec.params.values() if isinstance(value, str)}
        if not given & NOT_QUICK and item.get_closest_marker("slow") is None:
            item.add_marker("quick")


def _rank(item: pytest.Item) -> int:
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)


def skip_or_fail(reason: str) -> None:
    """A server that is missing is no reason to fail on a laptop, and one in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgresql_url(scheduler_postgresql_url: str) -> str:
    """A database of the session's server; make your own beside it (``database_url`` does)."""
    return scheduler_postgresql_url


@pytest.fixture(scope="session")
def scheduler_template_database(scheduler_postgresql_url: str) -> Iterator[str]:
    """The shipped fixture, or with TEST_ADOPTED an adopted database in its place."""
    name = f"test_template_{uuid.uuid4().hex[:12]}"
    with databases.created(scheduler_postgresql_url, name) as url:
        engine = create_engine(url)
        if version := os.environ.get("TEST_ADOPTED"):
            foreign.build(url, int(version))
            foreign.adopt(engine)
        else:
            migrate.upgrade(engine)
        engine.dispose()
        yield name


@pytest.fixture(scope="session")
def template_database(scheduler_template_database: str) -> str:
    """The name of a migrated database to copy."""
    return scheduler_template_database


@pytest.fixture
def empty_database_url(postgresql_url: str) -> Iterator[str]:
    """A fresh database without any schema, dropped afterwards."""
    with databases.created(postgresql_url, f"test_{uuid.uuid4().hex[:12]}") as url:
        yield url


@pytest.fixture
def database_url(scheduler_database_url: str) -> str:
    """A fresh migrated database, dropped afterwards with whatever is still connected to it."""
    return scheduler_database_url


@pytest.fixture(scope="session")
def adopted_template_database(postgresql_url: str) -> Iterator[str]:
    """The name of a database to copy that was adopted at version 38, with rows and faults."""
    name = f"test_adopted_{uuid.uuid4().hex[:12]}"
    with databases.created(postgresql_url, name) as url:
        foreign.build(url, 38, rows=200, faults=True)
        engine = create_engine(url)
        foreign.adopt(engine)
        engine.dispose()
        yield name


@pytest.fixture
def adopted_database_url(postgresql_url: str, adopted_template_database: str) -> Iterator[str]:
    """A fresh database that was adopted, with 203 tasks, 200 listed origins and what ``foreign`` plants."""
    with databases.created(postgresql_url, f"test_{uuid.uuid4().hex[:12]}", adopted_template_database) as url:
        yield url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def database(engine: Engine) -> Database:
    return Database(engine)


@pytest.fixture
def backend(database_url: str) -> Iterator[SchedulerBackend]:
    with SchedulerBackend(database_url) as backend:
        yield backend


@pytest.fixture
def valkey_url(scheduler_broker_url: str) -> str:
    """A broker URL on an empty Valkey."""
    return scheduler_broker_url


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """The session's node, for its management API (``.api``); its vhosts belong to tests."""
    if reason := rabbitmq.missing():
        skip_or_fail(reason)
    server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def rabbitmq_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A broker URL on an empty vhost of its own."""
    if url := os.environ.get("TEST_AMQP_URL"):
        yield url
        return
    server: RabbitMQ = request.getfixturevalue("rabbitmq_server")
    name = re.sub(r"\W+", "-", request.node.name)[:60] + "-" + uuid.uuid4().hex[:6]
    yield server.add_vhost(name)
    server.delete_vhost(name)


@pytest.fixture
def own_rabbitmq(tmp_path: Path) -> Iterator[RabbitMQ]:
    """A node of the test's own, to kill and start again (4 s to start)."""
    if reason := rabbitmq.missing():
        skip_or_fail(reason)
    server = RabbitMQ(tmp_path / "rabbitmq")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A started server of the test's own, to kill and start again, with an unmigrated database ``scheduler``."""
    with Postgres(tmp_path / "postgresql", fsync=False) as server:
        yield server


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A started server of the test's own, to kill and start again."""
    with Valkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture(scope="session", params=RELEASES)
def release(request: pytest.FixtureRequest) -> Release:
    """Each release of Celery whose workers must run our messages; in an environment of its own."""
    try:
        return Release(request.param, python_of(request.param))
    except ReleaseMissing as error:
        skip_or_fail(str(error))
        raise


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[StartWorker]:
    """Starts real Celery workers (``WorkerProcess`` has the options) and kills them after the test."""
    with ExitStack() as stack:

        def start(broker_url: str, queues: Sequence[str], **options: Any) -> WorkerProcess:
            worker = WorkerProcess(tmp_path / "workers", broker_url, queues, **options)
            stack.callback(worker.kill)  # a warm shutdown takes 2 s
            return worker.start()

        yield start
