"""A fleet of real workers on a real RabbitMQ, with limits of the rescuer that let a test end within a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import Fleet, environment
from tests.support.processes.programs import Programs
from tests.support.processes.workers import StartWorker
from tests.support.servers.proxy import Proxy

MakeFleet = Callable[..., Fleet]


@pytest.fixture
def make_fleet(database_url: str, rabbitmq_url: str, tmp_path: Path, start_worker: StartWorker) -> Iterator[MakeFleet]:
    """Makes a fleet: ``limits`` of the rescuer, and where its workers reach the broker if not where the services do."""
    with ExitStack() as stack:

        def make(broker_url: str | None = None, worker_url: str | None = None, **limits: Any) -> Fleet:
            fleet = Fleet(
                environment(database_url, broker_url or rabbitmq_url, **limits), tmp_path, start_worker, worker_url
            )
            stack.callback(fleet.close)
            return fleet

        yield make


@pytest.fixture
def fleet(make_fleet: MakeFleet) -> Fleet:
    return make_fleet()


@pytest.fixture
def proxy(rabbitmq_url: str) -> Iterator[Proxy]:
    """A network between workers and broker that can be cut."""
    proxy = Proxy(rabbitmq_url)
    yield proxy
    proxy.stop()


@pytest.fixture
def programs(database_url: str, rabbitmq_url: str, tmp_path: Path) -> Iterator[Programs]:
    programs = Programs(tmp_path, environment(database_url, rabbitmq_url))
    yield programs
    programs.close()
