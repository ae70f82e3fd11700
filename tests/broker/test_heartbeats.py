"""Heartbeats of workers, from a queue of their own that keeps nothing for long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.celery.events import WorkerHeartbeat, parse
from swh_sched_runner.broker.celery.heartbeats import SUFFIX, HeartbeatConsumer
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import BrokerUnavailable, QueueRefused
from tests.support.servers.rabbitmq import RabbitMQ
from tests.support.wait import until


@pytest.fixture
def consumer(app: Celery, settings: BrokerSettings) -> Iterator[HeartbeatConsumer]:
    consumer = HeartbeatConsumer(app, settings)
    yield consumer
    consumer.close()


def send(app: Celery, *kinds: str) -> None:
    with connect(app) as connection, app.events.Dispatcher(connection, hostname="w1@test", enabled=True) as dispatcher:
        for kind in kinds:
            dispatcher.send(kind, **({"uuid": "x"} if kind.startswith("task-") else {"processed": 3, "active": 1}))


def test_heartbeats_alone_come_and_say_which_life_they_are_of(app: Celery, consumer: HeartbeatConsumer) -> None:
    assert consumer.receive(0.1) == []  # on Redis the first one subscribes
    send(app, "worker-online", "task-started", "worker-heartbeat", "task-succeeded", "worker-heartbeat")

    bodies: list[bytes] = []

    def have_come() -> bool:
        bodies.extend(consumer.receive(0.2))
        return len(bodies) >= 2

    until(have_come)
    bodies += consumer.receive(0.5)

    events = [event for body in bodies for event in parse(body)]
    assert [type(event) for event in events] == [WorkerHeartbeat, WorkerHeartbeat]
    first, second = (event for event in events if isinstance(event, WorkerHeartbeat))
    assert (first.hostname, first.processed, first.active) == ("w1@test", 3, 1)
    assert first.life is not None
    assert first.life == second.life
    assert (first.clock or 0) < (second.clock or 0)


def test_a_queue_of_that_name_that_was_declared_otherwise_is_refused(rabbitmq_url: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url)
    app = create_app(settings)
    with connect(app) as connection:
        connection.default_channel.queue_declare(settings.event_queue + SUFFIX, durable=True, auto_delete=False)

    with pytest.raises(QueueRefused):
        HeartbeatConsumer(app, settings)


def test_a_broker_that_goes_away_is_said(own_rabbitmq: RabbitMQ) -> None:
    settings = BrokerSettings(url=own_rabbitmq.add_vhost("beats"))
    consumer = HeartbeatConsumer(create_app(settings), settings)
    own_rabbitmq.kill()

    with pytest.raises(BrokerUnavailable):
        until(lambda: consumer.receive(0.5) is None, 20)
    consumer.close()
