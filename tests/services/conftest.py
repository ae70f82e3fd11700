"""Services on a real database and the brokers that fleets use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from celery import Celery

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.factory import open_consumer, open_publisher
from swh_sched_runner.config import BrokerSettings, ListenerSettings, RunnerSettings, VisitSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.listener.listener import Listener
from swh_sched_runner.services.service import Service
from swh_sched_runner.services.visits.scheduler import VisitScheduler

Emit = Callable[..., None]
PRIORITY_QUEUE = "save_code_now:{backend_name}"


@pytest.fixture(params=["rabbitmq_url", "valkey_url"])
def broker_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def broker(broker_url: str) -> BrokerSettings:
    return BrokerSettings(url=broker_url, confirm_timeout_seconds=5)


@pytest.fixture
def app(broker: BrokerSettings) -> Iterator[Celery]:
    app = create_app(broker)
    yield app
    app.close()


@pytest.fixture
def dispatch(database: Database) -> Dispatch:
    return Dispatch(database)


@pytest.fixture
def closing() -> Iterator[Callable[[Service], None]]:
    """Closes services in the end."""
    opened: list[Service] = []
    yield opened.append
    for service in opened:
        service.close()


@pytest.fixture
def make_runner(
    dispatch: Dispatch, app: Celery, broker: BrokerSettings, closing: Callable[[Service], None]
) -> Callable[..., Runner]:
    def make(instruments: Instruments | None = None, **settings: object) -> Runner:
        publisher = partial(open_publisher, app, broker)
        chosen = RunnerSettings(**settings)  # type: ignore[arg-type]
        runner = Runner(dispatch, publisher, chosen, PRIORITY_QUEUE, instruments)
        closing(runner)
        return runner

    return make


@pytest.fixture
def make_visits(
    dispatch: Dispatch, app: Celery, broker: BrokerSettings, closing: Callable[[Service], None]
) -> Callable[..., VisitScheduler]:
    def make(**settings: VisitSettings) -> VisitScheduler:
        visits = VisitScheduler(dispatch, partial(open_publisher, app, broker), settings)
        closing(visits)
        return visits

    return make


@pytest.fixture
def listener(dispatch: Dispatch, app: Celery, broker: BrokerSettings, closing: Callable[[Service], None]) -> Listener:
    settings = ListenerSettings(batch_size=100, flush_seconds=0.2, prefetch=200)
    listener = Listener(dispatch, partial(open_consumer, app, broker, settings.prefetch), settings)
    closing(listener)
    return listener


@pytest.fixture
def emit(app: Celery, listener: Listener) -> Iterator[Emit]:
    """Sends an event as a worker does; ``listener`` has declared the queue before."""
    with connect(app) as connection, app.events.Dispatcher(connection, hostname="w1@test", enabled=True) as dispatcher:

        def send(kind: str, uuid: str, **fields: Any) -> None:
            dispatcher.send(kind, uuid=uuid, **fields)

        yield send
