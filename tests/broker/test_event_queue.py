"""The move of the event queue on RabbitMQ to the one that only one listener takes from."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import count
from typing import Any
from unittest.mock import patch

import amqp
import pytest
from celery import Celery

from swh_sched_runner import worker
from swh_sched_runner.broker.amqp import consumer as amqp_consumer
from swh_sched_runner.broker.amqp import event_queue
from swh_sched_runner.broker.amqp.connection import AmqpLink, counts
from swh_sched_runner.broker.amqp.event_queue import old_queue_arguments, queue_name
from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.factory import open_consumer
from swh_sched_runner.broker.interface import EventConsumer
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import BrokerUnavailable, QueueRefused
from tests.broker.test_consumer import emit, take, uuids
from tests.support.wait import until


@pytest.fixture(autouse=True)
def quick_looks() -> Iterator[None]:
    with patch.object(event_queue, "LOOK_SECONDS", 0.05), patch.object(event_queue, "REMIND_SECONDS", 0.2):
        yield


def settings_of(url: str, name: str) -> BrokerSettings:
    return BrokerSettings(url=url, event_queue=name, event_exchange=f"{name}.exchange")


def make_old_queue(app: Celery, settings: BrokerSettings, arguments: dict[str, Any] | None = None) -> None:
    """As a listener of the release before left it."""
    arguments = old_queue_arguments(settings) if arguments is None else arguments
    with connect(app) as connection:
        channel = connection.default_channel
        channel.exchange_declare(settings.event_exchange, "topic", durable=True, auto_delete=False)
        channel.queue_declare(settings.event_queue, durable=True, auto_delete=False, arguments=arguments)
        for key in worker.EVENT_KEYS:
            channel.queue_bind(settings.event_queue, settings.event_exchange, key)


def depth(app: Celery, queue: str) -> int | None:
    """None where it doesn't exist."""
    link = AmqpLink(app)
    try:
        counted = counts(link, queue)
        return None if counted is None else counted[0]
    finally:
        link.close()


def test_what_the_old_queue_holds_comes_first_and_it_is_deleted_once_empty(rabbitmq_url: str) -> None:
    # given a backlog in the old queue
    settings = settings_of(rabbitmq_url, "moved")
    app = create_app(settings)
    make_old_queue(app, settings)
    before = emit(app, 30)
    until(lambda: depth(app, "moved") == 30)
    # when a listener comes, and workers go on
    consumer = open_consumer(app, settings, 1_000)
    after = emit(app, 10)
    # then the backlog comes first, and stays there until it is acknowledged
    first = take(consumer, 30)
    assert uuids(first) == before
    assert consumer.receive(1, 0.3) == []
    assert depth(app, "moved") == 0
    consumer.acknowledge(first)
    rest = take(consumer, 10)
    assert uuids(rest) == after
    assert depth(app, "moved") is None
    consumer.acknowledge(rest)
    consumer.close()
    assert depth(app, queue_name(settings)) == 0


def test_a_second_listener_takes_new_events_and_goes_on_with_a_move_that_was_left(rabbitmq_url: str) -> None:
    settings = settings_of(rabbitmq_url, "shared")
    app = create_app(settings)
    make_old_queue(app, settings)
    before = emit(app, 5)
    until(lambda: depth(app, "shared") == 5)
    draining, other = open_consumer(app, settings, 100), open_consumer(app, settings, 100)
    after = emit(app, 3)
    assert uuids(take(other, 3)) == after
    assert uuids(take(draining, 5)) == before

    draining.close()  # with all of it in hand
    with pytest.raises(BrokerUnavailable, match="nobody drains the queue shared"):
        until(lambda: other.receive(1, 0.1), 10)
    other.close()

    successor = open_consumer(app, settings, 100)
    again = take(successor, 5)
    successor.acknowledge(again)
    assert uuids(again) == before
    assert uuids(take(successor, 3)) == after
    assert depth(app, "shared") is None
    successor.close()


def test_a_queue_of_the_old_name_that_is_not_ours_is_left_alone(rabbitmq_url: str) -> None:
    settings = settings_of(rabbitmq_url, "theirs")
    app = create_app(settings)
    make_old_queue(app, settings, {"x-max-length": 5})
    sent = emit(app, 2)

    with pytest.raises(QueueRefused, match=r"theirs.*PRECONDITION_FAILED"):
        open_consumer(app, settings, 10)

    assert len(sent) == 2
    assert until(lambda: depth(app, "theirs")) == 2


class MortalLink(AmqpLink):
    """A connection that is cut at its nth frame, before or after that is written."""

    at = 0
    after = False
    cut = False

    def __init__(self, app: Celery) -> None:
        super().__init__(app)
        numbers = count(1)
        write = self.connection.frame_writer

        def write_or_die(*arguments: Any) -> None:
            if dies := next(numbers) == type(self).at:
                type(self).cut = True
            if not dies or self.after:
                write(*arguments)
            if dies:
                self.connection.sock.shutdown(socket.SHUT_RDWR)
                if not self.after:
                    raise ConnectionResetError("cut")

        self.connection.frame_writer = write_or_die


def listen(consumer: EventConsumer, seen: set[str], done: Any) -> None:
    """Receive and acknowledge until ``done``, like a listener whose database takes all."""
    while not done():
        deliveries = consumer.receive(3, 0.02)
        consumer.acknowledge(deliveries)
        seen |= set(uuids(deliveries))


def test_a_move_that_is_cut_off_at_any_frame_loses_nothing(rabbitmq_url: str) -> None:
    for number in range(1, 100):
        settings = settings_of(rabbitmq_url, f"cut-{number}")
        app = create_app(settings)
        make_old_queue(app, settings)
        sent = set(emit(app, 8))
        until(lambda app=app, settings=settings: depth(app, settings.event_queue) == 8)
        seen: set[str] = set()
        MortalLink.at, MortalLink.after, MortalLink.cut = number, number % 2 == 0, False
        consumer: EventConsumer | None = None
        try:
            with patch.object(amqp_consumer, "AmqpLink", MortalLink):
                consumer = open_consumer(app, settings, 100)
            sent |= set(emit(app, 4))
            listen(consumer, seen, lambda seen=seen, sent=sent: seen >= sent)
        except (BrokerUnavailable, amqp.exceptions.ConnectionError):
            assert MortalLink.cut
        finally:
            if consumer is not None:
                consumer.close()
        sent |= set(emit(app, 2)) if depth(app, queue_name(settings)) is not None else set()

        finish(app, settings, seen, sent)

        app.close()
        if not MortalLink.cut:
            assert number > 20
            return
    raise AssertionError("the move never ends")


def finish(app: Celery, settings: BrokerSettings, seen: set[str], sent: set[str]) -> None:
    """Listen as a supervised service does until all is seen and the old queue is gone."""

    def gone_on() -> bool:
        try:
            consumer = open_consumer(app, settings, 100)
        except BrokerUnavailable:
            return False
        try:
            listen(consumer, seen, lambda: seen >= sent and depth(app, settings.event_queue) is None)
        except BrokerUnavailable:
            return False
        finally:
            consumer.close()
        return True

    until(gone_on, 30)
