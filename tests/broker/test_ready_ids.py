"""Which messages are ready in a queue: all are looked at, and stay what they were."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from kombu.entity import Queue

from swh_sched_runner.broker.amqp import inventory
from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.factory import open_publisher
from swh_sched_runner.broker.interface import Publisher
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.config.settings import BrokerSettings, QueueSettings
from swh_sched_runner.exc import BrokerUnavailable
from tests.broker.conftest import check_session, lock, messages
from tests.support.processes.workers import StartWorker
from tests.support.servers.proxy import Proxy
from tests.support.wait import until

amqp_only = pytest.mark.parametrize("broker_url", ["rabbitmq_url"], indirect=True)
redis_only = pytest.mark.parametrize("broker_url", ["valkey_url"], indirect=True)


@pytest.fixture(params=["rabbitmq_url", "valkey_url"])
def broker_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


def filled(publisher: Publisher, queue: str, count: int) -> list[str]:
    """So many messages in a queue that the publisher has locked: their ids, in order."""
    publisher.depth(queue)
    sent = messages(count)
    result = publisher.publish(queue, sent, None, check_session)
    publisher.wait_for_confirms(result)
    assert len(result.confirmed) == count
    return [message.id for message in sent]


def taken(app: Celery, queue: str) -> list[Any]:
    """All messages of a queue, in the order in which they come; they stay unacknowledged until the next look."""
    found = []
    with connect(app) as connection:
        bound = Queue(queue, no_declare=True)(connection.default_channel)
        while (message := bound.get()) is not None:
            found.append(message)
        for message in found:
            message.ack()
    return found


def test_all_ready_messages_are_seen_and_keep_their_order(app: Celery, publisher: Publisher, queue: str) -> None:
    assert publisher.lock(queue)
    sent = filled(publisher, queue, 1_500)

    for _ in range(3):
        assert publisher.ready_ids(queue, 2_000) == frozenset(sent)
        assert publisher.depth(queue) == 1_500  # ready again when it answers

    assert [message.headers["id"] for message in taken(app, queue)] == sent


@amqp_only
def test_what_was_looked_at_is_marked_as_redelivered_and_workers_run_it_all_the_same(
    app: Celery, publisher: Publisher, queue: str, broker_url: str, start_worker: StartWorker
) -> None:
    assert publisher.lock(queue)
    publisher.depth(queue)
    sent = messages(20, "echo")
    publisher.wait_for_confirms(publisher.publish(queue, sent, None, check_session))
    assert publisher.ready_ids(queue, 100) == {message.id for message in sent}

    worker = start_worker(broker_url, [queue])
    until(lambda: len(worker.executions()) == 20, 30)

    assert {task for task, _ in worker.executions()} == {message.id for message in sent}
    assert publisher.ready_ids(queue, 100) == frozenset()


def test_an_empty_queue_and_one_that_does_not_exist_have_no_messages(publisher: Publisher, queue: str) -> None:
    assert publisher.lock(queue)
    assert publisher.ready_ids(queue, 10) == frozenset()

    publisher.depth(queue)  # declares it
    assert publisher.ready_ids(queue, 10) == frozenset()


def test_more_messages_than_may_be_looked_at_tell_nothing(publisher: Publisher, queue: str) -> None:
    assert publisher.lock(queue)
    sent = filled(publisher, queue, 11)

    assert publisher.ready_ids(queue, 10) is None
    assert publisher.depth(queue) == 11
    assert publisher.ready_ids(queue, 11) == frozenset(sent)


def test_messages_of_other_programs_are_named_by_their_correlation_id_if_they_have_one(
    app: Celery, publisher: Publisher, queue: str
) -> None:
    assert publisher.lock(queue)
    publisher.depth(queue)
    with connect(app, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer(auto_declare=False)
        for fields in ({"correlation_id": "one"}, {}, {"headers": {"id": 7}}, {"headers": {"id": "two"}}):
            producer.publish({}, exchange="", routing_key=queue, **fields)

    assert publisher.ready_ids(queue, 10) == {"one", "two"}
    assert publisher.depth(queue) == 4


@amqp_only
def test_without_the_lock_nothing_is_looked_at(publisher: Publisher, queue: str) -> None:
    with pytest.raises(AssertionError, match="without the lock"):
        publisher.ready_ids(queue, 10)


@amqp_only
def test_messages_go_back_when_the_connection_breaks_in_the_middle_of_a_look(
    app: Celery, broker_url: str, proxy: Callable[..., Proxy], queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    between = proxy(broker_url)
    settings = BrokerSettings(url=between.url, confirm_timeout_seconds=5)
    publisher = open_publisher(create_app(settings), settings, 7)
    assert publisher.lock(queue)
    sent = filled(publisher, queue, 50)
    seen: list[str] = []

    def cut_at_the_tenth(headers: Any, properties: Any) -> str | None:
        seen.append(headers["id"])
        if len(seen) == 10:
            with Queues(app) as queues:
                assert queues.depth(queue) == 40
            between.stop()
        return None

    monkeypatch.setattr(inventory, "_id_of", cut_at_the_tenth)
    # when
    with pytest.raises(BrokerUnavailable):
        publisher.ready_ids(queue, 100)
    # then
    with Queues(app) as queues:
        until(lambda: queues.depth(queue) == 50, 20)
    assert seen == sent[:10]
    assert [message.headers["id"] for message in taken(app, queue)] == sent
    publisher.close()


@amqp_only
@pytest.mark.parametrize("configured", [True, False])
def test_a_queue_that_counts_deliveries_is_not_looked_at(
    rabbitmq_url: str, queue: str, configured: bool, app: Celery
) -> None:
    # given
    arguments = {"x-queue-type": "quorum"}
    settings = BrokerSettings(
        url=rabbitmq_url, queues={queue: QueueSettings(arguments)} if configured else {}, confirm_timeout_seconds=5
    )
    with connect(app) as connection:
        connection.default_channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
    publisher = open_publisher(create_app(settings), settings, 8)
    assert publisher.lock(queue)
    publisher.wait_for_confirms(publisher.publish(queue, messages(3), None, check_session))
    # when
    assert [publisher.ready_ids(queue, 10) for _ in range(5)] == [None] * 5
    # then: where the first message had to tell, that one was delivered once
    counts = sorted(message.headers.get("x-delivery-count", 0) for message in taken(app, queue))
    assert counts == ([0, 0, 0] if configured else [0, 0, 1])
    publisher.close()


@amqp_only
@pytest.mark.parametrize("why", ["another connection's own", "a single active consumer"])
def test_a_queue_that_gives_no_messages_this_way_tells_nothing(
    app: Celery, publisher: Publisher, queue: str, why: str
) -> None:
    with connect(app) as connection:
        channel = connection.default_channel
        if why == "a single active consumer":  # of a quorum queue
            arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True}
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
            channel.basic_consume(queue)
        else:
            channel.queue_declare(queue, exclusive=True, auto_delete=False)
        assert publisher.lock(queue)

        assert publisher.ready_ids(queue, 10) is None

    with lock(publisher, f"{queue}-other", None) as locked:  # the connection is as good as before
        assert locked is not None


@redis_only
def test_on_redis_messages_in_the_hands_of_workers_are_seen_too(
    app: Celery, publisher: Publisher, queue: str, broker_url: str
) -> None:
    assert publisher.lock(queue)
    sent = filled(publisher, queue, 3)
    with connect(app) as connection:
        bound = Queue(queue, no_declare=True)(connection.channel())
        held = bound.get()
        assert held is not None
        assert publisher.depth(queue) == 2
        found = publisher.ready_ids(queue, 10)
        assert found is not None
        assert found >= frozenset(sent)
        held.ack()
    after = publisher.ready_ids(queue, 10)
    assert after is not None
    assert frozenset(sent[1:]) <= after
    assert sent[0] not in after


@redis_only
def test_on_redis_the_lists_of_other_priorities_are_looked_at(app: Celery, publisher: Publisher, queue: str) -> None:
    identifier = str(uuid.uuid4())
    app.send_task("load", queue=queue, task_id=identifier, priority=6)
    assert publisher.lock(queue)

    found = publisher.ready_ids(queue, 10)

    assert found is not None
    assert identifier in found
