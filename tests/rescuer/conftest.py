"""A fleet of real workers on a real RabbitMQ, with limits of the rescuer that let a test end within a minute."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swh_sched_runner.broker.celery.inspection import query_tasks
from swh_sched_runner.broker.factory import open_consumer
from swh_sched_runner.broker.interface import Delivery
from tests.support.fleet import Fleet, environment
from tests.support.processes.programs import Programs
from tests.support.processes.workers import StartWorker
from tests.support.servers.proxy import Proxy

MakeFleet = Callable[..., Fleet]


class Listening:
    """What stands between the event queue and the listener: ``deaf_to`` are types of events that it drops.

    While ``flows`` is not set, it receives nothing.
    """

    def __init__(self) -> None:
        self.deaf_to: frozenset[str] = frozenset()
        self.dropped = 0
        self.flows = threading.Event()
        self.flows.set()

    def heard(self, delivery: Delivery) -> Delivery:
        """The delivery without what is dropped."""
        told = json.loads(delivery.body)
        if not self.deaf_to or (isinstance(told, dict) and told.get("type") not in self.deaf_to):
            return delivery
        events = told if isinstance(told, list) else [told]
        kept = [event for event in events if event["type"] not in self.deaf_to]
        self.dropped += len(events) - len(kept)
        body = json.dumps(kept).encode()
        return msgspec.structs.replace(delivery, body=body, size=len(body))


class Listened:
    """A consumer of events behind ``Listening``."""

    def __init__(self, consumer: Any, listening: Listening) -> None:
        self._consumer = consumer
        self._listening = listening

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def receive(self, *limits: Any) -> list[Delivery]:
        if not self._listening.flows.wait(0.1):
            return []
        received = self._consumer.receive(*limits)
        self._listening.flows.wait(60)  # it may have been on its way when the flow ended
        return [self._listening.heard(delivery) for delivery in received]


@pytest.fixture(autouse=True)
def short_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look asks workers five questions, twice; each takes as long as it waits for answers."""
    monkeypatch.setattr(query_tasks, "__defaults__", (1.0,))


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Listening:
    """Stands before the listeners of fleets."""
    listening = Listening()

    def open_one(*given: Any, **named: Any) -> Listened:
        return Listened(open_consumer(*given, **named), listening)

    monkeypatch.setattr("swh_sched_runner.cli.assembly.open_consumer", open_one)
    return listening


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
