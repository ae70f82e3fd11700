"""Lengths of queues, and how they are declared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import Celery

from swh_sched_runner.broker.celery.app import connect, create_app, kind_of
from swh_sched_runner.broker.factory import open_publisher
from swh_sched_runner.broker.interface import Publisher
from swh_sched_runner.broker.queues import QueueInfo, Queues
from swh_sched_runner.broker.redis import search as redis_search
from swh_sched_runner.broker.redis.connection import RedisLink
from swh_sched_runner.config.settings import BrokerSettings, QueueSettings
from swh_sched_runner.exc import BrokerUnavailable, DepthUnreadable, QueueRefused
from tests.broker.conftest import check_session, lock, messages, send_all
from tests.support.wait import until


def test_a_queue_that_does_not_exist_has_no_messages_and_is_not_made_by_the_look(app: Celery, queue: str) -> None:
    with Queues(app) as queues:
        assert queues.depth(queue) == 0
        assert queues.depth(queue) == 0


def test_an_empty_queue_has_no_messages(app: Celery, queue: str) -> None:
    with Queues(app) as queues:
        queues.declare(queue)
        assert queues.depth(queue) == 0


def test_the_depth_is_the_number_of_ready_messages(app: Celery, publisher: Publisher, queue: str) -> None:
    with lock(publisher, queue, None) as locked:
        assert locked is not None
        assert locked.capacity() is None
        send_all(locked, messages(7), check_session)

    with Queues(app) as queues:
        assert queues.depth(queue) == 7


def test_what_a_worker_holds_unacknowledged_is_not_counted(app: Celery, publisher: Publisher, queue: str) -> None:
    with lock(publisher, queue, None) as locked:
        assert locked is not None
        locked.capacity()
        send_all(locked, messages(3), check_session)

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

    with lock(publisher, queue, 3) as locked:
        assert locked is not None
        assert locked.capacity() == 2
        assert len(send_all(locked, messages(3), check_session)) == 2

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
    with connect(app) as session, Queues(app) as queues:
        session.default_channel.queue_declare(queue, exclusive=True)

        with pytest.raises(DepthUnreadable, match=rf"{queue}.*RESOURCE_LOCKED"):
            queues.depth(queue)
        assert queues.depth("another") == 0  # the connection goes on


def test_a_broker_that_is_away_is_an_error_and_never_zero() -> None:
    for url in ("amqp://127.0.0.1:9", "redis://127.0.0.1:9", "redis+socket:///nowhere/valkey.sock"):
        with Queues(create_app(BrokerSettings(url=url))) as queues, pytest.raises(BrokerUnavailable):
            queues.depth("load")


def test_the_publisher_declares_a_missing_queue_as_a_worker_would(rabbitmq_url: str, queue: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url, queues={queue: QueueSettings({"x-max-priority": 5})})
    app = create_app(settings)
    publisher = open_publisher(app, settings, 1)
    with lock(publisher, queue, 10) as locked:
        assert locked is not None
        assert locked.capacity() == 10
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

    with lock(publisher, queue, 10) as locked:
        assert locked is not None
        with pytest.raises(QueueRefused, match=rf"{queue}.*PRECONDITION_FAILED"):
            locked.capacity()

    with lock(publisher, "another", 10) as locked:  # the connection goes on
        assert locked is not None
        assert locked.capacity() == 10
    publisher.close()


def test_an_existing_queue_is_used_whatever_its_arguments(rabbitmq_url: str, queue: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url)
    app = create_app(settings)
    with connect(app) as connection:
        connection.default_channel.queue_declare(
            queue, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"}
        )
    publisher = open_publisher(app, settings, 1)

    with lock(publisher, queue, 10) as locked:
        assert locked is not None
        assert locked.capacity() == 10
        assert len(send_all(locked, messages(10), check_session)) == 10
        assert locked.capacity() == 0
    publisher.close()


@pytest.mark.parametrize("length", [230, 255])
def test_long_names_of_queues_work(publishers: Callable[[int], Publisher], length: int) -> None:
    publisher, other = publishers(1), publishers(2)
    name = "q" * length

    with lock(publisher, name, 10) as locked, lock(other, name, 10) as second:
        assert locked is not None
        assert second is None
        assert locked.capacity() == 10
        assert len(send_all(locked, messages(1), check_session)) == 1


def test_a_name_that_amqp_can_not_carry_is_refused(rabbitmq_url: str) -> None:
    with Queues(create_app(BrokerSettings(url=rabbitmq_url))) as queues:
        with pytest.raises(DepthUnreadable, match="longer than 255 bytes"):
            queues.depth("ü" * 128)
        with pytest.raises(QueueRefused, match="longer than 255 bytes"):
            queues.declare("ü" * 128)


def test_a_look_tells_depth_and_consumers_where_the_broker_knows_them(app: Celery, queue: str) -> None:
    counts_consumers = kind_of(app) == "amqp"
    with Queues(app) as queues, connect(app) as connection:
        missing = queues.info(queue, "a message")
        assert (missing.exists, missing.depth, missing.holds) == (not counts_consumers, 0, False)
        queues.declare(queue)
        for _ in range(3):
            app.send_task("load", queue=queue)
        until(lambda: queues.depth(queue) == 3)
        assert queues.info(queue) == QueueInfo(queue, True, 3, 0 if counts_consumers else None)
        if counts_consumers:
            connection.default_channel.basic_qos(0, 1, False)
            connection.default_channel.basic_consume(queue, callback=lambda message: None)
            until(lambda: queues.depth(queue) == 2)
            assert queues.info(queue, "a message") == QueueInfo(queue, True, 2, 1)


def test_on_redis_a_message_is_found_with_those_that_are_taken_before_it(valkey_url: str, queue: str) -> None:
    # given messages on two pages, and some of a priority that is taken first
    app = create_app(BrokerSettings(url=valkey_url))
    sent = [app.send_task("load", queue=queue, priority=9).id for _ in range(redis_search.PAGE + 20)]
    first = [app.send_task("load", queue=queue, priority=0).id for _ in range(5)]
    RedisLink(app).client.lpush(queue, "this is no message")

    with Queues(app) as queues:
        places = [queues.info(queue, message).ahead for message in (first[0], first[4], sent[0], sent[-1])]
        foreign = queues.info(queue, "another")

    # six of the first list go before the second one
    assert places == [0, 4, 6, 6 + redis_search.PAGE + 19]
    assert (foreign.holds, foreign.ahead) == (False, None)


def test_on_redis_a_queue_that_is_too_long_to_search_is_not_said_to_lack_a_message(
    valkey_url: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_search, "SEARCHED", 10)
    app = create_app(BrokerSettings(url=valkey_url))
    sent = [app.send_task("load", queue=queue).id for _ in range(redis_search.PAGE + 5)]

    with Queues(app) as queues:
        assert queues.info(queue, sent[3]).ahead == 3
        beyond = queues.info(queue, sent[-1])

    assert (beyond.depth, beyond.holds, beyond.ahead) == (redis_search.PAGE + 5, None, None)


def test_a_connected_worker_is_seen_on_rabbitmq_by_its_exclusive_queue(rabbitmq_url: str) -> None:
    app = create_app(BrokerSettings(url=rabbitmq_url))
    with connect(app) as worker, Queues(app) as queues:
        assert queues.worker_is_connected("one@here") is False
        worker.default_channel.queue_declare("one@here.celery.pidbox", exclusive=True)
        assert queues.worker_is_connected("one@here") is True
        assert queues.worker_is_connected("w" * 300) is None
    with Queues(app) as queues:
        assert queues.worker_is_connected("one@here") is False


def test_a_worker_can_not_be_seen_on_redis(valkey_url: str) -> None:
    with Queues(create_app(BrokerSettings(url=valkey_url))) as queues:
        assert queues.worker_is_connected("one@here") is None
