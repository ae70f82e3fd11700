"""A mark that has passed proves that all events before it are recorded."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.tasks.lost import Lost, Marks
from swh_sched_runner.broker.amqp.event_queue import (
    DEAD_ARGUMENTS,
    dead_queue_name,
    old_dead_queue_name,
    old_queue_arguments,
    queue_name,
)
from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.celery.events import mark_body
from swh_sched_runner.broker.factory import open_consumer, open_dead_letters, open_marker
from swh_sched_runner.broker.interface import EventMarker
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.broker.redis.connection import RedisLink
from swh_sched_runner.broker.redis.consumer import RedisConsumer
from swh_sched_runner.config import BrokerSettings, ListenerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import BrokerUnavailable, QueueRefused
from swh_sched_runner.insight.rejected import list_rejected
from swh_sched_runner.services.instruments import PREFIX, Instruments
from swh_sched_runner.services.listener.dead_letters import PREFETCH, DeadLetterReader
from swh_sched_runner.services.listener.listener import Listener
from swh_sched_runner.services.service import Heartbeat, Service
from tests.hostile.test_events import ended, heal, put, raw_channel, refuse, runs_opened, statuses
from tests.support.servers.proxy import Proxy
from tests.support.wait import until

SETTINGS = ListenerSettings(batch_size=100, flush_seconds=0.05, prefetch=200)


@pytest.fixture
def dispatch(database: Database) -> Dispatch:
    return Dispatch(database)


@pytest.fixture
def lost(database: Database) -> Lost:
    return Lost(database)


@pytest.fixture
def closing() -> Iterator[Callable[[Any], None]]:
    opened: list[Any] = []
    yield opened.append
    for each in opened:
        each.close()


@pytest.fixture
def listener(dispatch: Dispatch, app: Celery, settings: BrokerSettings, closing: Callable[[Service], None]) -> Listener:
    listener = Listener(dispatch, partial(open_consumer, app, settings, SETTINGS.prefetch), SETTINGS)
    closing(listener)
    return listener


@pytest.fixture
def marker(app: Celery, settings: BrokerSettings, closing: Callable[[EventMarker], None]) -> EventMarker:
    marker = open_marker(app, settings)
    closing(marker)
    return marker


@pytest.fixture
def instruments() -> Instruments:
    return Instruments()


@pytest.fixture
def reader(
    dispatch: Dispatch,
    rabbitmq_url: str,
    closing: Callable[[Any], None],
    app: Celery,
    settings: BrokerSettings,
    instruments: Instruments,
) -> DeadLetterReader:
    reader = DeadLetterReader(dispatch, partial(open_dead_letters, app, settings, PREFETCH), SETTINGS, instruments)
    closing(reader)
    return reader


amqp_only = pytest.mark.parametrize("broker_url", ["rabbitmq_url"], indirect=True)
redis_only = pytest.mark.parametrize("broker_url", ["valkey_url"], indirect=True)


@pytest.fixture(params=["rabbitmq_url", "valkey_url"])
def broker_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


def listen(listener: Service, condition: Callable[[], object] = lambda: True) -> None:
    """Rounds until the condition holds; one at least."""
    beat = Heartbeat()
    until(lambda: listener.run_once(beat) is not None and condition(), 40)


def drain(listener: Listener) -> None:
    """Rounds until three in a row brought nothing."""
    quiet = 0
    while quiet < 3:
        quiet = 0 if listener.run_once(Heartbeat()) else quiet + 1


def test_a_mark_passes_behind_a_thousand_events(
    settings: BrokerSettings,
    listener: Listener,
    marker: EventMarker,
    lost: Lost,
    backend: SchedulerBackend,
    database: Database,
) -> None:
    # given
    runs = runs_opened(backend, 1_000)
    push(settings, [ended(run) for run in runs])
    mark = lost.place_mark(dead_letters=False)
    # when
    marker.place(mark, dead_letters=False)
    # then
    assert not lost.mark_recorded(mark)
    recorded_at_the_mark: list[int] = []

    def has_passed() -> bool:
        passed = lost.mark_recorded(mark)
        if passed:
            recorded_at_the_mark.append(statuses(database).get("eventful", 0))
        return passed

    listen(listener, has_passed)
    assert recorded_at_the_mark == [1_000]


def push(settings: BrokerSettings, bodies: list[bytes]) -> None:
    """Events behind what is in the event queue."""
    assert settings.url is not None
    if settings.url.startswith("amqp"):
        put(settings, bodies)
        return
    app = create_app(settings)
    with connect(app) as connection:
        producer = connection.Producer(auto_declare=False)
        for body in bodies:
            producer.publish(
                body,
                exchange="",
                routing_key=settings.event_queue,
                content_type="application/json",
                content_encoding="utf-8",
            )
    app.close()


def test_a_mark_does_not_pass_while_an_event_before_it_waits_for_the_database(
    settings: BrokerSettings,
    listener: Listener,
    marker: EventMarker,
    lost: Lost,
    backend: SchedulerBackend,
    database: Database,
) -> None:
    # given a run that the database refuses for now
    first, second = runs_opened(backend, 2)
    refuse(database, "P0001", f"new.backend_id = '{first}'")
    push(settings, [ended(first), ended(second)])
    together = lost.place_mark(dead_letters=False)
    marker.place(together, dead_letters=False)
    # when
    listen(listener, lambda: statuses(database).get("eventful") == 1)
    behind = lost.place_mark(dead_letters=False)
    marker.place(behind, dead_letters=False)
    drain(listener)
    # then
    assert not lost.mark_recorded(together)
    assert not lost.mark_recorded(behind)
    # and those that come when nothing waits any more do pass
    heal(database)
    listen(listener, lambda: statuses(database).get("eventful") == 2)
    after = lost.place_mark(dead_letters=False)
    marker.place(after, dead_letters=False)
    listen(listener, lambda: lost.mark_recorded(after))
    assert not lost.mark_recorded(behind)


def test_a_mark_passes_when_what_came_with_it_was_rejected(
    settings: BrokerSettings,
    listener: Listener,
    marker: EventMarker,
    lost: Lost,
    database: Database,
) -> None:
    push(settings, [b'{"type": "task-started"}', b"no event"])
    mark = lost.place_mark(dead_letters=False)
    marker.place(mark, dead_letters=False)

    listen(listener, lambda: lost.mark_recorded(mark))

    assert len(list_rejected(database, 10)) == 2


def test_marks_that_nobody_placed_or_meant_for_the_other_queue_count_for_nothing(
    settings: BrokerSettings,
    listener: Listener,
    marker: EventMarker,
    lost: Lost,
    database: Database,
) -> None:
    other = lost.place_mark(dead_letters=True)
    mark = lost.place_mark(dead_letters=False)
    foreign = str(uuid.uuid4())
    push(
        settings,
        [
            mark_body(other, dead_letters=True),
            mark_body(other, dead_letters=False),
            mark_body(mark, dead_letters=True),
            mark_body(foreign, dead_letters=False),
            json.dumps({"type": "scheduler-mark", "id": "x", "dead_letters": False}).encode(),
        ],
    )
    last = lost.place_mark(dead_letters=False)
    marker.place(last, dead_letters=False)

    listen(listener, lambda: lost.mark_recorded(last))

    assert not lost.mark_recorded(other)
    assert not lost.mark_recorded(mark)
    assert not lost.mark_recorded(foreign)
    assert len(list_rejected(database, 10)) == 1


@amqp_only
def test_a_mark_passes_through_the_dead_letter_queue_behind_what_is_there(
    settings: BrokerSettings,
    reader: DeadLetterReader,
    marker: EventMarker,
    lost: Lost,
    backend: SchedulerBackend,
    database: Database,
    instruments: Instruments,
) -> None:
    # given
    [run] = runs_opened(backend, 1)
    put_dead(settings, ended(run))
    mark = lost.place_mark(dead_letters=True)
    refuse(database, "P0001", f"new.backend_id = '{run}'")
    # when
    marker.place(mark, dead_letters=True)
    beat = Heartbeat()
    until(lambda: reader.run_once(beat) and beat.trouble is not None and ready_dead(settings) == 0, 40)
    # then
    assert not lost.mark_recorded(mark)
    heal(database)
    listen(reader, lambda: statuses(database).get("eventful") == 1)
    after = lost.place_mark(dead_letters=True)
    marker.place(after, dead_letters=True)
    listen(reader, lambda: lost.mark_recorded(after))
    assert list_rejected(database, 10) == []
    assert instruments.registry.get_sample_value(f"{PREFIX}dead_letters_total", {"reason": "other"}) == 0


@amqp_only
def test_a_mark_that_fell_out_of_the_event_queue_counts_for_nothing(
    settings: BrokerSettings, reader: DeadLetterReader, marker: EventMarker, lost: Lost
) -> None:
    fallen = lost.place_mark(dead_letters=False)
    put_dead(settings, mark_body(fallen, dead_letters=False))
    swapped = lost.place_mark(dead_letters=True)
    put_dead(settings, mark_body(swapped, dead_letters=True))
    last = lost.place_mark(dead_letters=True)
    marker.place(last, dead_letters=True)

    listen(reader, lambda: lost.mark_recorded(last))

    assert not lost.mark_recorded(fallen)
    assert not lost.mark_recorded(swapped)


def put_dead(settings: BrokerSettings, body: bytes) -> None:
    """A message that fell out of the event queue by its length."""
    with raw_channel(settings) as channel:
        message = channel.prepare_message(body, headers={"x-first-death-reason": "maxlen"})
        getattr(channel, "basic_publish_confirm", channel.basic_publish)(
            message, exchange="", routing_key=dead_queue_name(settings)
        )


def ready_dead(settings: BrokerSettings) -> int:
    with raw_channel(settings) as channel:
        return int(channel.queue_declare(dead_queue_name(settings), passive=True).message_count)


@amqp_only
def test_no_mark_counts_while_another_listener_drains_the_old_event_queue(
    settings: BrokerSettings, app: Celery, marker: EventMarker, lost: Lost, dispatch: Dispatch
) -> None:
    # given an old event queue that another consumer has
    with raw_channel(settings) as channel:
        arguments = old_queue_arguments(settings)
        channel.queue_declare(settings.event_queue, durable=True, auto_delete=False, arguments=arguments)
        channel.basic_consume(settings.event_queue)
        listener = Listener(dispatch, partial(open_consumer, app, settings, SETTINGS.prefetch), SETTINGS)
        early = lost.place_mark(dead_letters=False)
        marker.place(early, dead_letters=False)
        # when
        until(lambda: listener.run_once(Heartbeat()), 20)
        drain(listener)
        # then
        assert not lost.mark_recorded(early)
        channel.queue_delete(settings.event_queue)
    try:
        passed: list[str] = []

        def passes() -> bool:
            passed.append(lost.place_mark(dead_letters=False))
            marker.place(passed[-1], dead_letters=False)
            drain(listener)
            return any(lost.mark_recorded(mark) for mark in passed)

        until(passes, 30)
        assert not lost.mark_recorded(early)
    finally:
        listener.close()


@amqp_only
def test_no_mark_counts_while_the_old_dead_letter_queue_is_read(
    settings: BrokerSettings, app: Celery, marker: EventMarker, lost: Lost, dispatch: Dispatch, closing: Any
) -> None:
    with raw_channel(settings) as channel:
        arguments = old_queue_arguments(settings)
        channel.queue_declare(settings.event_queue, durable=True, auto_delete=False, arguments=arguments)
        channel.queue_declare(old_dead_queue_name(settings), durable=True, auto_delete=False, arguments=DEAD_ARGUMENTS)
        reader = DeadLetterReader(dispatch, partial(open_dead_letters, app, settings, PREFETCH), SETTINGS)
        closing(reader)
        early = lost.place_mark(dead_letters=True)
        marker.place(early, dead_letters=True)
        until(lambda: reader.run_once(Heartbeat()) and ready_dead(settings) == 0)
        reader.run_once(Heartbeat())
        assert not lost.mark_recorded(early)
        channel.queue_delete(settings.event_queue)

    with Queues(app) as queues:
        listen(reader, lambda: not queues.info(old_dead_queue_name(settings)).exists)
    mark = lost.place_mark(dead_letters=True)
    marker.place(mark, dead_letters=True)
    listen(reader, lambda: lost.mark_recorded(mark))
    assert not lost.mark_recorded(early)


@amqp_only
def test_a_mark_for_a_queue_that_is_gone_is_refused(
    settings: BrokerSettings, marker: EventMarker, lost: Lost, app: Celery
) -> None:
    with raw_channel(settings) as channel:
        channel.queue_delete(queue_name(settings))

    with pytest.raises(QueueRefused, match="does not exist"):
        marker.place(str(uuid.uuid4()), dead_letters=False)
    marker.place(str(uuid.uuid4()), dead_letters=True)  # the connection is as good as before
    open_marker(app, settings).close()  # declares it


def test_a_marker_whose_connection_is_cut_says_so(
    broker_url: str, proxy: Callable[..., Proxy], closing: Callable[[EventMarker], None]
) -> None:
    between = proxy(broker_url)
    settings = BrokerSettings(url=between.url, confirm_timeout_seconds=5)
    marker = open_marker(create_app(settings), settings)
    closing(marker)
    marker.place(str(uuid.uuid4()), dead_letters=False)
    between.stop()

    with pytest.raises(BrokerUnavailable):
        until(lambda: marker.place(str(uuid.uuid4()), dead_letters=False), 10)


@redis_only
def test_a_mark_needs_the_lock_of_the_one_listener_in_its_transaction(
    settings: BrokerSettings, lost: Lost, dispatch: Dispatch, database: Database
) -> None:
    lock = dispatch.open_listener_lock(settings.event_queue)
    mark = lost.place_mark(dead_letters=False)
    marks = Marks(frozenset([mark]), lock=lock.held)

    dispatch.record_events([], (), None, marks)
    assert not lost.mark_recorded(mark)  # the lock was not taken

    assert lock.take()
    with database.engine.begin() as conn:  # as an administrator does
        conn.execute(text("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"))
    until(lambda: _advisory_locks(database) == 0)
    dispatch.record_events([], (), None, marks)
    assert not lost.mark_recorded(mark)
    lock.close()

    again = dispatch.open_listener_lock(settings.event_queue)
    assert again.take()
    dispatch.record_events([], (), None, Marks(frozenset([mark]), lock=again.held))
    assert lost.mark_recorded(mark)
    again.close()


def _advisory_locks(database: Database) -> int:
    with database.engine.connect() as conn:
        return int(conn.execute(text("select count(*) from pg_locks where locktype = 'advisory'")).scalar_one())


@redis_only
def test_no_mark_counts_while_another_consumer_has_messages_in_hand(
    settings: BrokerSettings, app: Celery, listener: Listener, marker: EventMarker, lost: Lost
) -> None:
    # given a listener at work, and another one that was paused when it lost its lock, and takes an event now
    drain(listener)
    paused = open_consumer(app, settings, 10)
    push(settings, [ended("of-nobody")])
    assert len(paused.receive(10, 0)) == 1
    assert paused.in_order
    # when
    mark = lost.place_mark(dead_letters=False)
    marker.place(mark, dead_letters=False)
    drain(listener)
    # then
    assert not lost.mark_recorded(mark)
    paused.close()
    drain(listener)
    after = lost.place_mark(dead_letters=False)
    marker.place(after, dead_letters=False)
    listen(listener, lambda: lost.mark_recorded(after))


@redis_only
def test_a_mark_is_pushed_where_workers_push_their_events(
    settings: BrokerSettings, app: Celery, marker: EventMarker
) -> None:
    push(settings, [b"{}"])
    marker.place(str(uuid.uuid4()), dead_letters=False)
    push(settings, [b"[]"])

    consumer = open_consumer(app, settings, 10)
    assert isinstance(consumer, RedisConsumer)
    first, mark, last = (delivery.body for delivery in consumer.receive(3, 5))
    assert (first, last) == (b"{}", b"[]")
    assert json.loads(mark)["type"] == "scheduler-mark"
    consumer.close()
    link = RedisLink(app)
    link.client.delete(link.key(settings.event_queue))
    link.close()
