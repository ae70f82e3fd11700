"""Taking events, acknowledging them, and what becomes of those in hand when a listener dies."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest.mock import patch

import pytest
from celery import Celery

from swh_sched_runner.broker.amqp.consumer import AmqpConsumer
from swh_sched_runner.broker.amqp.event_queue import event_queue_arguments, queue_name
from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.celery.events import TaskStarted, parse
from swh_sched_runner.broker.factory import open_consumer
from swh_sched_runner.broker.interface import Delivery, EventConsumer
from swh_sched_runner.broker.redis import consumer as redis_consumer
from swh_sched_runner.config.settings import BrokerSettings, QueueSettings
from swh_sched_runner.exc import BrokerUnavailable, QueueRefused
from tests.support.servers.proxy import Proxy
from tests.support.servers.rabbitmq import RabbitMQ
from tests.support.wait import until


def emit(app: Celery, count: int) -> list[str]:
    """Send events as a worker does, and return their uuids."""
    sent = [str(uuid.uuid4()) for _ in range(count)]
    with app.events.default_dispatcher(hostname="w@h") as dispatcher:
        for each in sent:
            dispatcher.send("task-started", uuid=each)
    return sent


def uuids(deliveries: Iterable[Delivery]) -> list[str]:
    events = [event for delivery in deliveries for event in parse(delivery.body)]
    assert all(isinstance(event, TaskStarted) for event in events)
    return [event.uuid for event in events if isinstance(event, TaskStarted)]


def take(consumer: EventConsumer, count: int) -> list[Delivery]:
    """``count`` messages, however many calls that takes."""
    taken: list[Delivery] = []
    until(lambda: taken.extend(consumer.receive(count - len(taken), 0.2)) or len(taken) >= count, 40)
    return taken


def test_events_come_in_order_up_to_the_limit_and_are_gone_once_acknowledged(
    app: Celery, settings: BrokerSettings
) -> None:
    consumer = open_consumer(app, settings, 1000)
    sent = emit(app, 25)

    first = consumer.receive(10, 5)
    assert uuids(first) == sent[:10]
    consumer.acknowledge(first)
    rest = take(consumer, 15)
    assert uuids(rest) == sent[10:]
    consumer.acknowledge(rest)
    consumer.close()

    again = open_consumer(app, settings, 1000)
    assert again.receive(10, 0.3) == []
    again.acknowledge([])
    again.close()


def test_it_returns_what_is_there_when_the_time_is_over(app: Celery, settings: BrokerSettings) -> None:
    consumer = open_consumer(app, settings, 1000)
    started = time.monotonic()
    assert consumer.receive(10, 0.2) == []
    assert 0.2 <= time.monotonic() - started < 5

    sent = emit(app, 3)
    assert uuids(consumer.receive(10, 1)) == sent
    consumer.close()


def test_only_events_of_tasks_and_of_the_lives_of_workers_are_kept(app: Celery, settings: BrokerSettings) -> None:
    consumer = open_consumer(app, settings, 1000)
    with app.events.default_dispatcher(hostname="w@h") as dispatcher:
        for kind in (
            "worker-heartbeat",
            "worker-online",
            "worker-offline",
            "custom-thing",
            "task-sent",
            "task-started",
        ):
            dispatcher.send(kind, uuid="u")
        dispatcher.send("task-multi")  # the routing key under which prefork workers send several at once

    kinds = [json.loads(delivery.body)["type"] for delivery in take(consumer, 5)]

    assert kinds == ["worker-online", "worker-offline", "task-sent", "task-started", "task-multi"]
    assert consumer.receive(1, 0.2) == []
    consumer.close()


def test_one_consumer_works_and_another_goes_on_in_order_where_it_ended(rabbitmq_url: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url)
    app = create_app(settings)
    one, other, third = (open_consumer(app, settings, 5) for _ in range(3))
    assert (one.standing_by, other.standing_by, third.standing_by) == (False, True, True)
    sent = emit(app, 40)

    seen = uuids(take(one, 5))
    assert other.receive(5, 0.2) == third.receive(5, 0.2) == []
    one.close()  # with five in hand
    ended = time.monotonic()
    assert other.wait(5)
    assert time.monotonic() - ended < 2
    again = []
    while len(again) < 40:
        deliveries = other.receive(5, 0.2)
        again += uuids(deliveries)
        other.acknowledge(deliveries)

    assert (seen, again) == (sent[:5], sent)
    assert (other.standing_by, third.standing_by) == (False, True)
    assert third.receive(1, 0.1) == []
    other.close()
    third.close()


@pytest.mark.parametrize("broker_url", ["rabbitmq_url", "valkey_url"], indirect=True)
def test_what_a_listener_had_in_hand_when_it_died_comes_again(
    broker_url: str, queue: str, proxy: Callable[[str], Proxy]
) -> None:
    direct = BrokerSettings(url=broker_url)
    app = create_app(direct)
    line = proxy(broker_url)
    through = BrokerSettings(url=line.url)
    dying = open_consumer(create_app(through), through, 1000)
    sent = emit(app, 10)
    in_hand = take(dying, 10)
    dying.acknowledge(in_hand[:4])
    if isinstance(dying, AmqpConsumer):
        # An answer on the same channel: the acknowledgement is there.
        dying._channel.queue_declare(queue_name(direct), passive=True)

    with patch.object(redis_consumer, "VISIBILITY_SECONDS", 1):
        line.stop()
        with pytest.raises(BrokerUnavailable):
            until(lambda: dying.receive(1, 0.1), 30)
        successor = open_consumer(app, direct, 1000)
        again = take(successor, 6)

    assert sorted(uuids(again)) == sorted(sent[4:])
    successor.acknowledge(again)
    assert successor.receive(1, 0.2) == []
    successor.close()


def test_what_a_consumer_that_is_gone_had_in_hand_is_put_back_before_what_came_later(valkey_url: str) -> None:
    settings = BrokerSettings(url=valkey_url)
    app = create_app(settings)
    gone = open_consumer(app, settings, 1000)
    sent = emit(app, 30)
    gone.acknowledge(take(gone, 2))
    assert uuids(take(gone, 12)) == sent[2:14]

    successor = open_consumer(app, settings, 1000)
    successor.recover()

    assert uuids(take(successor, 28)) == sent[2:]
    assert not successor.wait(0.1)
    successor.close()
    gone.close()


def test_the_prefetch_bounds_what_is_in_hand(rabbitmq_url: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url)
    app = create_app(settings)
    consumer = open_consumer(app, settings, 7)
    emit(app, 20)

    assert len(consumer.receive(20, 0.5)) == 7
    consumer.close()


def test_the_event_queue_is_declared_as_documented(rabbitmq_url: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url)
    app = create_app(settings)
    open_consumer(app, settings, 10).close()

    arguments = event_queue_arguments(settings)
    assert arguments["x-queue-type"] == "quorum"
    assert arguments["x-single-active-consumer"] is True
    assert arguments["x-overflow"] == "drop-head"
    assert arguments["x-delivery-limit"] > 100_000
    with connect(app) as connection:  # a declaration that differs in anything would be refused
        channel = connection.default_channel
        channel.queue_declare("swh-sched-runner.events.single", durable=True, auto_delete=False, arguments=arguments)
        assert channel.queue_declare("swh-sched-runner.events.single.dead", passive=True).message_count == 0


def test_the_event_queue_can_be_declared_otherwise(rabbitmq_url: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url, event_queue="mine", queues={"mine": QueueSettings({})})
    app = create_app(settings)
    consumer = open_consumer(app, settings, 10)
    emit(app, 1)
    assert len(take(consumer, 1)) == 1
    consumer.close()

    documented = BrokerSettings(url=rabbitmq_url, event_queue="mine")
    with pytest.raises(QueueRefused, match=r"mine.*PRECONDITION_FAILED"):
        open_consumer(app, documented, 10)


def test_another_exchange_for_events_is_heeded(rabbitmq_url: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url, event_exchange="fleet.events")
    app = create_app(settings)
    consumer = open_consumer(app, settings, 10)
    sent = emit(app, 2)
    emit(create_app(BrokerSettings(url=rabbitmq_url)), 2)

    assert uuids(consumer.receive(10, 0.5)) == sent
    consumer.close()


def test_transient_events_outlive_a_broker_that_is_killed(mortal_rabbitmq: RabbitMQ) -> None:
    def registers() -> Iterable[Path]:
        return mortal_rabbitmq.directory.glob("mnesia/*/quorum/*/names.dets")

    settings = BrokerSettings(url=mortal_rabbitmq.url())
    app = create_app(settings)
    consumer = open_consumer(app, settings, 1000)
    sent = emit(app, 50)
    assert uuids(consumer.receive(50, 10)) == sent  # they have arrived
    # RabbitMQ 3.10 notes a new quorum queue with half a second's delay, and without that note it never comes back.
    until(lambda: any(re.search(rb"runner\.events\.single(?!\.dead)", names.read_bytes()) for names in registers()), 30)

    mortal_rabbitmq.kill()
    with pytest.raises(BrokerUnavailable):
        until(lambda: consumer.receive(1, 0.1), 30)
    with pytest.raises(BrokerUnavailable):
        consumer.receive(1, 0)
    consumer.close()
    mortal_rabbitmq.start()

    again = until(lambda: opened(app, settings), 30)
    assert again is not None
    assert uuids(take(again, 50)) == sent
    again.close()


def test_a_queue_that_is_deleted_under_the_listener_is_noticed(rabbitmq_url: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url)
    app = create_app(settings)
    consumer = open_consumer(app, settings, 10)
    with connect(app) as connection:
        connection.default_channel.queue_delete(queue_name(settings))

    with pytest.raises(BrokerUnavailable):
        until(lambda: consumer.receive(1, 0.1), 30)

    again = open_consumer(app, settings, 10)
    emit(app, 1)
    assert len(take(again, 1)) == 1
    again.close()


def test_what_is_no_envelope_of_kombu_comes_through_as_it_is(valkey_url: str) -> None:
    settings = BrokerSettings(url=valkey_url)
    app = create_app(settings)
    consumer = open_consumer(app, settings, 10)
    hostile = [
        b"",
        b"\xff",
        b"{}",
        b'{"body": 4}',
        b'{"body": "!", "properties": {"body_encoding": "base64"}}',
        b"[" * 9999,
    ]
    with connect(app) as connection, connection.default_channel.conn_or_acquire() as client:
        for message in hostile:
            client.lpush(settings.event_queue, message)

    assert [delivery.body for delivery in take(consumer, len(hostile))] == hostile
    consumer.close()


def test_a_list_that_nobody_reads_keeps_the_newest_events(valkey_url: str) -> None:
    settings = BrokerSettings(url=valkey_url)
    app = create_app(settings)
    with (
        patch("swh_sched_runner.worker.MAX_STORED_MESSAGES", 20),
        patch("swh_sched_runner.worker.TRIM_EVERY", 10),
    ):
        sent = emit(app, 60)

    consumer = open_consumer(app, settings, 10)
    assert uuids(take(consumer, 20)) == sent[-20:]
    assert consumer.receive(1, 0.1) == []
    consumer.close()


def opened(app: Celery, settings: BrokerSettings) -> EventConsumer | None:
    """A consumer, if one can be opened now."""
    try:
        return open_consumer(app, settings, 1000)
    except (BrokerUnavailable, QueueRefused):
        return None
