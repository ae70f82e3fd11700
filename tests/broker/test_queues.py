"""Lengths of queues, and how they are declared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import Celery

from swh_sched_runner.broker.app import connect, create_app
from swh_sched_runner.broker.publish import Publisher, open_publisher
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.broker.redis_link import RedisLink
from swh_sched_runner.config.settings import BrokerSettings, QueueSettings
from swh_sched_runner.exc import BrokerUnavailable, DepthUnreadable, QueueRefused
from tests.broker.conftest import messages, still_owner


def test_a_queue_that_does_not_exist_has_no_messages_and_is_not_made_by_the_look(app: Celery, queue: str) -> None:
    with Queues(app) as queues:
        assert queues.depth(queue) == 0
        assert queues.depth(queue) == 0


def test_an_empty_queue_has_no_messages(app: Celery, queue: str) -> None:
    with Queues(app) as queues:
        queues.declare(queue)
        assert queues.depth(queue) == 0


def test_the_depth_is_the_number_of_ready_messages(app: Celery, publisher: Publisher, queue: str) -> None:
    with publisher.fill(queue, None) as filler:
        assert filler is not None
        assert filler.room() is None
        filler.send(messages(7), still_owner)

    with Queues(app) as queues:
        assert queues.depth(queue) == 7


def test_what_a_worker_holds_unacknowledged_is_not_counted(app: Celery, publisher: Publisher, queue: str) -> None:
    with publisher.fill(queue, None) as filler:
        assert filler is not None
        filler.room()
        filler.send(messages(3), still_owner)

    with connect(app) as connection, Queues(app) as queues:
        connection.default_channel.basic_get(queue)
        assert queues.depth(queue) == 2


def test_on_redis_messages_of_every_priority_are_counted(valkey_url: str, queue: str) -> None:
    app = create_app(BrokerSettings(url=valkey_url))
    for priority in (0, 3, 6, 9):
        app.send_task("load", queue=queue, priority=priority)

    with Queues(app) as queues:
        assert queues.depth(queue) == 4


def test_on_redis_a_key_prefix_is_heeded(valkey_url: str, queue: str) -> None:
    settings = BrokerSettings(url=valkey_url, transport_options={"global_keyprefix": "fleet:"})
    app = create_app(settings)
    app.send_task("load", queue=queue)
    publisher = open_publisher(app, settings, 1)

    with publisher.fill(queue, 3) as filler:
        assert filler is not None
        assert filler.room() == 2
        assert len(filler.send(messages(3), still_owner)) == 2

    with connect(app) as connection, Queues(app) as queues:
        assert queues.depth(queue) == 3
        assert connection.default_channel._size(queue) == 3
    publisher.close()


def test_a_length_that_redis_cannot_tell_is_an_error_and_never_zero(valkey_url: str, queue: str) -> None:
    app = create_app(BrokerSettings(url=valkey_url))
    RedisLink(app).client.set(queue, "this is no list")

    with Queues(app) as queues, pytest.raises(DepthUnreadable, match=queue):
        queues.depth(queue)


def test_a_length_that_rabbitmq_refuses_to_tell_is_an_error_and_never_zero(rabbitmq_url: str, queue: str) -> None:
    app = create_app(BrokerSettings(url=rabbitmq_url))
    with connect(app) as owner, Queues(app) as queues:
        owner.default_channel.queue_declare(queue, exclusive=True)

        with pytest.raises(DepthUnreadable, match=rf"{queue}.*RESOURCE_LOCKED"):
            queues.depth(queue)
        assert queues.depth("another") == 0  # the connection goes on


def test_a_broker_that_is_away_is_an_error_and_never_zero() -> None:
    for url in ("amqp://127.0.0.1:9", "redis://127.0.0.1:9", "redis+socket:///nowhere/valkey.sock"):
        with Queues(create_app(BrokerSettings(url=url))) as queues, pytest.raises(BrokerUnavailable):
            queues.depth("load")


def test_the_filler_declares_a_missing_queue_as_a_worker_would(rabbitmq_url: str, queue: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url, queues={queue: QueueSettings({"x-max-priority": 5})})
    app = create_app(settings)
    publisher = open_publisher(app, settings, 1)
    with publisher.fill(queue, 10) as filler:
        assert filler is not None
        assert filler.room() == 10
    publisher.close()

    with connect(app) as connection:
        channel = connection.default_channel
        # A declaration that differs in anything would be refused.
        channel.exchange_declare(queue, "direct", durable=True, auto_delete=False)
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-max-priority": 5})
        channel.basic_publish(channel.prepare_message(b"through the exchange"), exchange=queue, routing_key=queue)
        assert channel.basic_get(queue, no_ack=True) is not None


def test_a_queue_that_can_not_be_declared_is_named_with_the_reason(rabbitmq_url: str, queue: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url)
    app = create_app(settings)
    with connect(app) as connection:
        connection.default_channel.exchange_declare(queue, "topic", durable=True, auto_delete=False)
    publisher = open_publisher(app, settings, 1)

    with publisher.fill(queue, 10) as filler:
        assert filler is not None
        with pytest.raises(QueueRefused, match=rf"{queue}.*PRECONDITION_FAILED"):
            filler.room()

    with publisher.fill("another", 10) as filler:  # the connection goes on
        assert filler is not None
        assert filler.room() == 10
    publisher.close()


def test_an_existing_queue_is_used_whatever_its_arguments(rabbitmq_url: str, queue: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url)
    app = create_app(settings)
    with connect(app) as connection:
        connection.default_channel.queue_declare(
            queue, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"}
        )
    publisher = open_publisher(app, settings, 1)

    with publisher.fill(queue, 10) as filler:
        assert filler is not None
        assert filler.room() == 10
        assert len(filler.send(messages(10), still_owner)) == 10
        assert filler.room() == 0
    publisher.close()


@pytest.mark.parametrize("length", [230, 255])
def test_long_names_of_queues_work(publishers: Callable[[int], Publisher], length: int) -> None:
    publisher, other = publishers(1), publishers(2)
    name = "q" * length

    with publisher.fill(name, 10) as filler, other.fill(name, 10) as second:
        assert filler is not None
        assert second is None
        assert filler.room() == 10
        assert len(filler.send(messages(1), still_owner)) == 1


def test_a_name_that_amqp_can_not_carry_is_refused(rabbitmq_url: str) -> None:
    with Queues(create_app(BrokerSettings(url=rabbitmq_url))) as queues:
        with pytest.raises(DepthUnreadable, match="longer than 255 bytes"):
            queues.depth("ü" * 128)
        with pytest.raises(QueueRefused, match="longer than 255 bytes"):
            queues.declare("ü" * 128)
