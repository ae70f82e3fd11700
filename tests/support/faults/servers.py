"""The servers that the rounds share, with rooms of their own: a fresh database and a fresh vhost each."""

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
from swh_sched_runner.embedded.postgres import Postgres
from tests.support import databases
from tests.support.rabbitmq import RabbitMQ

# Half-open connections end within three heartbeats: a round has no time for the program's own ten seconds.
HEARTBEAT_SECONDS = 2


@dataclass(frozen=True)
class Room:
    """Where one round takes place: a migrated database and an empty vhost."""

    database: str
    database_url: str
    broker_url: str


class Servers:
    """PostgreSQL and RabbitMQ, private ones in ``directory``. Enter it from the main thread: they end with it."""

    def __init__(self, directory: Path) -> None:
        # Processes die here, the machine doesn't: what was written is there without fsync.
        self.postgres = Postgres(directory / "postgresql", fsync=False, options={"max_connections": "200"})
        self.rabbitmq = RabbitMQ(directory / "rabbitmq", f"heartbeat = {HEARTBEAT_SECONDS}\n")
        self._template = "faults_template"

    def __enter__(self) -> Self:
        try:
            self.postgres.start()
            self.rabbitmq.start()
            databases.execute(self.postgres.url("postgres"), f"create database {self._template}")
            engine = create_engine(self.postgres.url(self._template))
            migrate.upgrade(engine)
            engine.dispose()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @contextmanager
    def room(self) -> Iterator[Room]:
        """A room for one round."""
        name = f"round_{uuid.uuid4().hex[:12]}"
        with databases.created(self.postgres.url("postgres"), name, self._template) as database_url:
            yield Room(name, database_url, self.rabbitmq.add_vhost(name))
            self.rabbitmq.delete_vhost(name)

    def end_postgres(self, number: signal.Signals) -> None:
        """SIGQUIT is an immediate shutdown, SIGKILL a crash of the postmaster; ``postgres.start()`` brings it back."""
        os.kill(self.postgres.pid, number)

    def _stop(self) -> None:
        self.rabbitmq.stop()
        self.postgres.stop()
