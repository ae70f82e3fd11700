"""Locks, limits, confirms, and the proof that a session is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from celery import Celery

from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.factory import open_publisher
from swh_sched_runner.broker.interface import Publisher
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import BrokerUnavailable, SessionLost
from tests.broker.conftest import check_session, lock, messages, send_all
from tests.support.wait import until

Open = Callable[[int], Publisher]


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


def test_one_runner_at_a_time_fills_a_queue(publishers: Open, queue: str) -> None:
    one, other = publishers(1), publishers(2)
    with lock(one, queue, 10) as locked:
        assert locked is not None
        with lock(other, queue, 10) as second:
            assert second is None
        with lock(other, f"{queue}-another", 10) as elsewhere:
            assert elsewhere is not None

    with lock(other, queue, 10) as locked:
        assert locked is not None


def test_a_publisher_that_fails_releases_the_queue(publishers: Open, queue: str) -> None:
    one, other = publishers(1), publishers(2)
    with pytest.raises(RuntimeError, match="in the middle"), lock(one, queue, 10):
        raise RuntimeError("in the middle")

    with lock(other, queue, 10) as locked:
        assert locked is not None


def test_what_was_sent_is_confirmed_and_ready(app: Celery, publisher: Publisher, queue: str) -> None:
    sent = messages(1500)
    with lock(publisher, queue, 2000) as locked:
        assert locked is not None
        assert locked.capacity() == 2000
        assert send_all(locked, sent, check_session) == {message.id for message in sent}
        assert locked.capacity() == 500
    assert depth(app, queue) == 1500


def test_nothing_to_send_confirms_nothing(publisher: Publisher, queue: str) -> None:
    assert send(publisher, queue, 0) == set()


def test_there_is_no_capacity_in_a_queue_above_its_limit(app: Celery, publisher: Publisher, queue: str) -> None:
    send(publisher, queue, 5)

    with lock(publisher, queue, 3) as locked:
        assert locked is not None
        assert locked.capacity() == 0


def test_redis_takes_no_message_beyond_the_limit_whatever_is_sent(valkey_url: str, queue: str) -> None:
    settings = BrokerSettings(url=valkey_url)
    app = create_app(settings)
    publisher = open_publisher(app, settings, 1)
    sent = messages(500)

    with lock(publisher, queue, 320) as locked:
        assert locked is not None
        confirmed = send_all(locked, sent, check_session)

    assert confirmed == {message.id for message in sent[:320]}
    assert depth(app, queue) == 320
    publisher.close()


def test_many_publishers_at_once_never_exceed_the_limit(
    app: Celery, settings: BrokerSettings, publishers: Open, queue: str
) -> None:
    bound, seen, stop = 300, [0], threading.Event()
    drained: list[int] = [0]

    def run(session_id: int) -> None:
        publisher = publishers(session_id)
        while not stop.is_set():
            publisher.check()
            with lock(publisher, queue, bound) as locked:
                if locked is not None and (capacity := locked.capacity()):
                    send_all(locked, messages(capacity), check_session)

    def consume() -> None:
        with connect(app) as connection:
            channel = connection.channel()
            while not stop.is_set():
                if channel.basic_get(queue, no_ack=True) is not None:
                    drained[0] += 1

    publishers(10)
    send(publishers(11), queue, 0, bound)
    threads = [threading.Thread(target=run, args=(session,)) for session in (1, 2, 3)]
    threads.append(threading.Thread(target=consume))
    for thread in threads:
        thread.start()
    try:
        with Queues(app) as queues:
            until(lambda: seen.append(queues.depth(queue)) or drained[0] >= 900, 60, what="900 messages drained")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert 0 < max(seen) <= bound


def test_a_lost_lock_session_stops_the_sending_at_the_next_chunk(app: Celery, publishers: Open, queue: str) -> None:
    publisher = publishers(7)
    calls = iter([None, SessionLost(session_id=7)])

    def lost_after_the_first_chunk() -> None:
        if (error := next(calls)) is not None:
            raise error

    with lock(publisher, queue, None) as locked:
        assert locked is not None
        locked.capacity()
        with pytest.raises(SessionLost):
            send_all(locked, messages(1000), lost_after_the_first_chunk)

    assert depth(app, queue) < 1000


@pytest.mark.parametrize("broker_url", ["rabbitmq_url"], indirect=True)
def test_a_session_is_gone_when_its_connection_is_and_can_not_come_back(publishers: Open) -> None:
    old, successor, third = publishers(1), publishers(2), publishers(3)
    assert not successor.session_is_gone(1)
    assert not successor.session_is_gone(2)  # itself

    old.close()

    assert until(lambda: successor.session_is_gone(1))
    assert successor.session_is_gone(1)
    assert not third.session_is_gone(1)  # one successor only
    with pytest.raises((BrokerUnavailable, SessionLost)):
        publishers(1)
    successor.release(1)
    assert publishers(1) is not None


def test_on_redis_a_session_that_was_taken_for_gone_pushes_nothing_any_more(valkey_url: str, queue: str) -> None:
    settings = BrokerSettings(url=valkey_url)
    app = create_app(settings)
    old, successor = open_publisher(app, settings, 1), open_publisher(app, settings, 2)
    with lock(old, queue, None) as locked:
        assert locked is not None
        assert len(send_all(locked, messages(1), check_session)) == 1
        # While it pauses here, a successor takes over.
        assert successor.session_is_gone(1)
        successor.release(1)
        with pytest.raises(SessionLost):
            send_all(locked, messages(1), check_session)

    assert depth(app, queue) == 1
    with pytest.raises(SessionLost):
        open_publisher(app, settings, 1)
    for publisher in (old, successor):
        publisher.close()
