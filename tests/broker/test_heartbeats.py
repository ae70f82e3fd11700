"""Heartbeats of workers, from a queue of their own that keeps nothing for long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from celery import Celery

from faults.attack.classes import CLASSES, Source
from faults.attack.plan import IMPORTED
from faults.attack.wire import Message, Refused, Wire
from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.celery.events import WorkerHeartbeat, parse
from swh_sched_runner.broker.factory import open_heartbeats
from swh_sched_runner.broker.interface import HEARTBEAT_BYTES, HEARTBEAT_KEY, HEARTBEAT_SUFFIX, HeartbeatConsumer
from swh_sched_runner.broker.redis import heartbeats
from swh_sched_runner.broker.redis.connection import RedisLink
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.embedded.valkey import Valkey
from swh_sched_runner.exc import BrokerUnavailable, QueueRefused
from tests.support.dice import dice
from tests.support.servers.proxy import Proxy
from tests.support.servers.rabbitmq import RabbitMQ
from tests.support.wait import until


@pytest.fixture
def consumer(app: Celery, settings: BrokerSettings) -> Iterator[HeartbeatConsumer]:
    consumer = open_heartbeats(app, settings)
    yield consumer
    consumer.close()


def send(app: Celery, *kinds: str) -> None:
    with connect(app) as connection, app.events.Dispatcher(connection, hostname="w1@test", enabled=True) as dispatcher:
        for kind in kinds:
            dispatcher.send(kind, **({"uuid": "x"} if kind.startswith("task-") else {"processed": 3, "active": 1}))


def test_heartbeats_alone_come_and_say_which_life_they_are_of(app: Celery, consumer: HeartbeatConsumer) -> None:
    assert consumer.receive(0.1) == []
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
        connection.default_channel.queue_declare(
            settings.event_queue + HEARTBEAT_SUFFIX, durable=True, auto_delete=False
        )

    with pytest.raises(QueueRefused):
        open_heartbeats(app, settings)


def test_a_redis_that_goes_away_is_said(own_valkey: Valkey) -> None:
    settings = BrokerSettings(url=own_valkey.url())
    consumer = open_heartbeats(create_app(settings), settings)
    own_valkey.stop()

    with pytest.raises(BrokerUnavailable):
        until(lambda: consumer.receive(0.5) is None, 20)
    consumer.close()


def test_a_redis_that_falls_silent_is_said(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy(valkey_url)
    settings = BrokerSettings(url=proxy.url)
    monkeypatch.setattr(heartbeats, "PING_SECONDS", 0.1)
    monkeypatch.setattr(heartbeats, "SOCKET_SECONDS", 0.5)
    consumer = open_heartbeats(create_app(settings), settings)
    assert consumer.receive(1) == []  # it answers, though nobody says anything
    proxy.silence()

    with pytest.raises(BrokerUnavailable, match="no answer"):
        consumer.receive(5)
    consumer.close()
    proxy.stop()


def test_a_broker_that_goes_away_is_said(own_rabbitmq: RabbitMQ) -> None:
    settings = BrokerSettings(url=own_rabbitmq.add_vhost("beats"))
    consumer = open_heartbeats(create_app(settings), settings)
    own_rabbitmq.kill()

    with pytest.raises(BrokerUnavailable):
        until(lambda: consumer.receive(0.5) is None, 20)
    consumer.close()


assert IMPORTED, "the classes are there"


def odd_messages() -> list[Message]:
    """A message of each class of hostile properties, and a body beyond any heartbeat, with the heartbeats' key."""
    source = Source(dice(), ["bait"])
    each = [kind.make(source) for kind in CLASSES.values() if kind.refusable]
    long = Message(b"x" * (HEARTBEAT_BYTES + 1))
    return [replace(message, key=HEARTBEAT_KEY.encode(), exchange=b"celeryev") for message in [*each, long]]


def publish(url: str, messages: list[Message]) -> None:
    """Send these; the broker may refuse some, and with them the connection."""
    for message in messages:
        line = Wire(url)
        try:
            line.publish(message)
            line.wait_for_confirms()
        except Refused:
            continue
        line.close()


def test_odd_messages_among_heartbeats_are_read_over(rabbitmq_url: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url)
    app = create_app(settings)
    consumer = open_heartbeats(app, settings)

    publish(rabbitmq_url, odd_messages())
    send(app, "worker-heartbeat")

    bodies: list[bytes] = []
    until(lambda: bodies.extend(consumer.receive(0.2)) or any(b"w1@test" in body for body in bodies))
    assert all(len(body) <= HEARTBEAT_BYTES for body in bodies)
    consumer.close()


def test_what_is_no_message_of_kombus_is_read_over_on_redis(valkey_url: str) -> None:
    settings = BrokerSettings(url=valkey_url)
    app = create_app(settings)
    consumer = open_heartbeats(app, settings)
    link = RedisLink(app)
    channel = f"{link.channel.keyprefix_fanout}{settings.event_exchange}/{HEARTBEAT_KEY}"
    until(lambda: link.client.pubsub_numsub(channel)[0][1] == 1)

    for message in (b"", b"\xff", b"{", b"[]", b"7", b"{}", b'{"body": 7}', b'{"body": "x", "properties": []}'):
        assert link.client.publish(channel, message) == 1
    send(app, "worker-heartbeat")

    bodies: list[bytes] = []
    until(lambda: bodies.extend(consumer.receive(0.2)) or any(b"w1@test" in body for body in bodies))
    consumer.close()
    link.close()
