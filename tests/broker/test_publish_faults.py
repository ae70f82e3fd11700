"""Refusals, silence and deaths during publishing: what is not confirmed stays open, and no lock outlives its holder."""

from __future__ import annotations

import os
from collections.abc import Callable
from unittest.mock import patch

import pytest
from celery import Celery

from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.celery.messages import SizeLimit
from swh_sched_runner.broker.factory import open_publisher
from swh_sched_runner.broker.interface import Publisher
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.broker.redis.publisher import RedisPublisher
from swh_sched_runner.config.settings import BrokerSettings, QueueSettings
from swh_sched_runner.embedded.valkey import Valkey
from swh_sched_runner.exc import BrokerUnavailable
from tests.broker.conftest import check_session, lock, messages, send_all
from tests.support.servers.proxy import Proxy
from tests.support.servers.rabbitmq import RabbitMQ
from tests.support.wait import until


def send(publisher: Publisher, queue: str, count: int, bound: int | None = None) -> set[str]:
    """Publish fresh messages, and return the ids that were confirmed."""
    with lock(publisher, queue, bound) as locked:
        assert locked is not None
        locked.capacity()
        return send_all(locked, messages(count), check_session)


def depth(app: Celery, queue: str) -> int:
    with Queues(app) as queues:
        return queues.depth(queue)


def opened(app: Celery, settings: BrokerSettings, session_id: int) -> Publisher | None:
    """A publisher, if it can be opened now."""
    try:
        return open_publisher(app, settings, session_id)
    except BrokerUnavailable:
        return None


def test_a_message_that_has_no_queue_is_not_confirmed(rabbitmq_url: str, queue: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url)
    publisher = open_publisher(create_app(settings), settings, 1)
    with lock(publisher, queue, None) as locked:
        assert locked is not None
        locked.capacity()
        with connect(create_app(settings)) as connection:
            connection.default_channel.queue_delete(queue)

        assert send_all(locked, messages(10), check_session) == set()

        assert locked.capacity() is None  # declares it again
        assert len(send_all(locked, messages(10), check_session)) == 10
    publisher.close()


def test_a_message_that_the_broker_refuses_is_not_confirmed(rabbitmq_url: str, queue: str) -> None:
    arguments = {"x-max-length": 4, "x-overflow": "reject-publish"}
    settings = BrokerSettings(url=rabbitmq_url, queues={queue: QueueSettings(arguments)})
    publisher = open_publisher(create_app(settings), settings, 1)

    confirmed = send(publisher, queue, 10)

    assert len(confirmed) == 4
    publisher.check()  # and the connection goes on
    assert send(publisher, f"{queue}-another", 10)
    publisher.close()


def test_a_message_too_large_for_the_broker_leaves_its_fate_open(rabbitmq_url: str, queue: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url, confirm_timeout_seconds=5)
    limit = SizeLimit(200 * 1024 * 1024)
    publisher = open_publisher(create_app(settings), settings, 1, limit=limit)
    (large,) = messages(1)
    large.args[0] = "x" * (135 * 1024 * 1024)

    with lock(publisher, queue, None) as locked:
        assert locked is not None
        locked.capacity()
        assert send_all(locked, [large], check_session) == set()

    with pytest.raises(BrokerUnavailable), lock(publisher, queue, None):
        pass
    assert limit.bytes == 134_217_728  # it has said so


def test_a_broker_killed_during_the_sending_leaves_the_unconfirmed_open(mortal_rabbitmq: RabbitMQ, queue: str) -> None:
    settings = BrokerSettings(url=mortal_rabbitmq.url(), confirm_timeout_seconds=10)
    app = create_app(settings)
    publisher = open_publisher(app, settings, 1)
    sent = messages(3000)
    chunks: list[None] = []

    def kill_at_the_fifth_chunk() -> None:
        chunks.append(None)
        if len(chunks) == 5:
            mortal_rabbitmq.kill()

    with lock(publisher, queue, None) as locked:
        assert locked is not None
        locked.capacity()
        confirmed = send_all(locked, sent, kill_at_the_fifth_chunk)

    assert confirmed < {message.id for message in sent}
    with pytest.raises(BrokerUnavailable):
        publisher.check()
    with pytest.raises(BrokerUnavailable), lock(publisher, queue, None):
        pass
    publisher.close()

    mortal_rabbitmq.start()
    successor = open_publisher(app, settings, 1)
    assert depth(app, queue) >= len(confirmed)  # persistent: what was confirmed is there
    assert len(send(successor, queue, 10)) == 10
    successor.close()


def test_a_confirm_that_never_comes_ends_the_connection_and_the_lock_with_it(
    rabbitmq_url: str, proxy: Callable[[str], Proxy], queue: str
) -> None:
    silent = proxy(rabbitmq_url)
    settings = BrokerSettings(url=silent.url, confirm_timeout_seconds=0.5)
    publisher = open_publisher(create_app(settings), settings, 1)
    with lock(publisher, queue, None) as locked:
        assert locked is not None
        locked.capacity()
        assert len(send_all(locked, messages(10), check_session)) == 10
        silent.mute_answers()
        assert send_all(locked, messages(10), check_session) == set()

    with pytest.raises(BrokerUnavailable, match="no confirm for 10 messages"):
        publisher.check()
    silent.stop()  # the network is back: both ends know
    direct = BrokerSettings(url=rabbitmq_url)
    other = open_publisher(create_app(direct), direct, 2)
    assert until(lambda: other.session_is_gone(1))
    with lock(other, queue, None) as locked:
        assert locked is not None
    other.close()


def test_a_broker_short_of_memory_is_sent_nothing_more(
    request: pytest.FixtureRequest, rabbitmq_url: str, queue: str
) -> None:
    if os.environ.get("TEST_AMQP_URL"):
        pytest.skip("the broker of TEST_AMQP_URL is not ours to starve")
    rabbitmq_server: RabbitMQ = request.getfixturevalue("rabbitmq_server")
    settings = BrokerSettings(url=rabbitmq_url, confirm_timeout_seconds=0.5)
    app = create_app(settings)
    publisher = open_publisher(app, settings, 1)
    send(publisher, queue, 1)
    rabbitmq_server.control("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        assert send(publisher, queue, 100) == set()  # the broker says that it takes nothing when it is sent something
        with pytest.raises(BrokerUnavailable), lock(publisher, queue, None):
            pass
    finally:
        rabbitmq_server.control("set_vm_memory_high_watermark", "0.5")

    successor = until(lambda: opened(app, settings, 1))
    assert successor is not None
    assert len(send(successor, queue, 100)) == 100
    successor.close()


def test_a_former_connection_that_the_broker_still_keeps_bars_its_session(
    rabbitmq_url: str, proxy: Callable[[str], Proxy]
) -> None:
    silent = proxy(rabbitmq_url)
    settings = BrokerSettings(url=silent.url)
    former = open_publisher(create_app(settings), settings, 1)  # kept: it must not end as garbage
    direct = BrokerSettings(url=rabbitmq_url)
    app = create_app(direct)

    with pytest.raises(BrokerUnavailable, match="another connection uses the name of session 1"):
        open_publisher(app, direct, 1)

    silent.stop()

    publisher = until(lambda: opened(app, direct, 1))
    assert publisher is not None
    publisher.close()
    former.close()


def test_a_valkey_that_went_away_is_noticed_by_the_check(own_valkey: Valkey) -> None:
    settings = BrokerSettings(url=own_valkey.url())
    publisher = open_publisher(create_app(settings), settings, 1)
    publisher.check()
    own_valkey.stop()

    def broken() -> bool:
        try:
            publisher.check()
        except BrokerUnavailable:
            return True
        return False

    until(broken)
    publisher.close()


def test_a_push_is_never_tried_twice_by_itself(valkey_url: str, proxy: Callable[[str], Proxy], queue: str) -> None:
    """The answer is lost, the push is not: a second one would run every task twice."""
    silent = proxy(valkey_url)
    settings = BrokerSettings(url=silent.url)
    publisher = open_publisher(create_app(settings), settings, 1)
    with lock(publisher, queue, None) as locked:
        assert locked is not None
        assert len(send_all(locked, messages(1), check_session)) == 1
        silent.drop_at_next_answer()
        assert send_all(locked, messages(5), check_session) == set()

    assert depth(create_app(BrokerSettings(url=valkey_url)), queue) == 6


def test_a_lock_of_redis_whose_holder_died_ends_by_itself(valkey_url: str, queue: str) -> None:
    settings = BrokerSettings(url=valkey_url)
    app = create_app(settings)
    one, other = open_publisher(app, settings, 1), open_publisher(app, settings, 2)
    assert isinstance(one, RedisPublisher)
    with patch("swh_sched_runner.broker.redis.publisher.LOCK_MILLISECONDS", 200):
        lost = lock(one, queue, 10)
        assert lost.__enter__() is not None  # and never leaves

    def free() -> bool:
        with lock(other, queue, 10) as locked:
            return locked is not None

    assert not free()
    assert until(free)
    for publisher in (one, other):
        publisher.close()
