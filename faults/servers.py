"""The servers that the rounds share, each with a fresh database and a fresh vhost."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from swh_sched_runner.db import migrate
from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.embedded import process
from swh_sched_runner.embedded.postgres import Postgres
from tests.support.servers import databases
from tests.support.servers.rabbitmq import RabbitMQ

# Half-open connections end within three heartbeats: a round has no time for the program's own ten seconds.
HEARTBEAT_SECONDS = 2
END_SECONDS = 10.0
# What services connect as: a role that rights can be taken from, unlike the owner of the tables.
SERVICE = "faults_service"
# Above every message of a load. Some tasks are larger.
MAX_MESSAGE_BYTES = 400_000


@dataclass(frozen=True)
class Endpoints:
    """Where the programs of one round connect: a migrated database, an empty vhost. Services use ``service_url``."""

    database: str
    database_url: str
    service_url: str
    broker_url: str


class Servers:
    """PostgreSQL and RabbitMQ, private ones in ``directory``. Enter it from the main thread: they end with it."""

    def __init__(self, directory: Path, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        # Processes die here, the machine doesn't: what was written is there without fsync.
        self.postgres = Postgres(directory / "postgresql", fsync=False, options={"max_connections": "200"})
        settings = f"heartbeat = {HEARTBEAT_SECONDS}\nmax_message_size = {max_message_bytes}\n"
        self.rabbitmq = RabbitMQ(directory / "rabbitmq", settings)
        self._template = "faults_template"

    def __enter__(self) -> Self:
        try:
            self.postgres.start()
            self.rabbitmq.start()
            self._make_template()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @contextmanager
    def fresh(self) -> Iterator[Endpoints]:
        """Those of one round."""
        name = f"round_{uuid.uuid4().hex[:12]}"
        with databases.created(self.postgres.url("postgres"), name, self._template) as database_url:
            service_url = database_url.replace("user=postgres", f"user={SERVICE}")
            yield Endpoints(name, database_url, service_url, self.rabbitmq.add_vhost(name))
            self.rabbitmq.delete_vhost(name)

    def end_postgres(self, number: signal.Signals) -> None:
        """SIGQUIT is an immediate shutdown, SIGKILL a crash of the postmaster; ``postgres.start()`` brings it back.

        Returns when it has ended: one that is about to end counts as running.
        """
        os.kill(self.postgres.pid, number)
        process.wait_until(lambda: not self.postgres.alive(), END_SECONDS)

    def _make_template(self) -> None:
        databases.execute(self.postgres.url("postgres"), f"create role {SERVICE} login")
        databases.execute(self.postgres.url("postgres"), f"create database {self._template}")
        url = self.postgres.url(self._template)
        engine = create_engine(url)
        migrate.upgrade(engine)
        engine.dispose()
        for kind in ("tables", "sequences"):
            databases.execute(url, f"grant all on all {kind} in schema public to {SERVICE}")

    def _stop(self) -> None:
        self.rabbitmq.stop()
        self.postgres.stop()
