"""What fell out of the event queue is applied or rejected, beside the listener and after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from amqp import Message
from celery import Celery

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.broker.amqp.event_queue import dead_queue_name, event_queue_arguments, queue_name
from swh_sched_runner.broker.factory import open_consumer, open_dead_letters
from swh_sched_runner.config import BrokerSettings, ListenerSettings
from swh_sched_runner.config.settings import QueueSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import DatabaseUnavailable
from swh_sched_runner.insight.rejected import list_rejected, read_rejected
from swh_sched_runner.services.instruments import PREFIX, Instruments
from swh_sched_runner.services.listener.dead_letters import PREFETCH, DeadLetterReader
from swh_sched_runner.services.listener.listener import Listener
from swh_sched_runner.services.listener.replay import replay
from swh_sched_runner.services.service import Heartbeat, Service
from tests.hostile.test_events import ODD, ended, heal, publish_raw, put, raw_channel, refuse, runs_opened, statuses
from tests.support.processes.programs import Programs, terminate
from tests.support.wait import until

DEFAULTS = BrokerSettings()
QUEUE = queue_name(DEFAULTS)
DEAD = dead_queue_name(DEFAULTS)
SETTINGS = ListenerSettings(batch_size=100, flush_seconds=0.2, prefetch=200)


def settings(url: str, **arguments: int) -> BrokerSettings:
    """An event queue with other limits than ours."""
    changed = {f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}
    arguments = event_queue_arguments(DEFAULTS) | changed
    return BrokerSettings(url=url, queues={DEFAULTS.event_queue: QueueSettings(arguments)})


@pytest.fixture
def broker_url(rabbitmq_url: str) -> str:
    return rabbitmq_url


@pytest.fixture
def broker(broker_url: str) -> BrokerSettings:
    return settings(broker_url, max_length_bytes=10_000, delivery_limit=2)


@pytest.fixture
def instruments() -> Instruments:
    return Instruments()


@pytest.fixture
def make_reader(
    dispatch: Dispatch,
    app: Celery,
    broker: BrokerSettings,
    instruments: Instruments,
    closing: Callable[[Service], None],
) -> Callable[..., DeadLetterReader]:
    def make(dispatch: Dispatch = dispatch) -> DeadLetterReader:
        reader = DeadLetterReader(dispatch, partial(open_dead_letters, app, broker, PREFETCH), SETTINGS, instruments)
        closing(reader)
        return reader

    return make


@pytest.fixture
def make_listener(
    dispatch: Dispatch, app: Celery, broker: BrokerSettings, closing: Callable[[Service], None]
) -> Callable[[], Listener]:
    def make() -> Listener:
        listener = Listener(dispatch, partial(open_consumer, app, broker, SETTINGS.prefetch), SETTINGS)
        closing(listener)
        return listener

    return make


def rounds(service: Service, condition: Callable[[], object], heartbeat: Heartbeat | None = None) -> None:
    beat = heartbeat or Heartbeat()
    until(lambda: service.run_once(beat) is not None and condition(), 40)


def put_dead(broker: BrokerSettings, bodies: list[bytes], **headers: str) -> None:
    """Messages in the dead-letter queue, with the headers that the broker would add."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with raw_channel(broker) as channel:
        publish = getattr(channel, "basic_publish_confirm", channel.basic_publish)
        for body in bodies:
            publish(Message(body, application_headers=named), exchange="", routing_key=DEAD)


def ready(broker: BrokerSettings, queue: str) -> int:
    with raw_channel(broker) as channel:
        return int(channel.queue_declare(queue, passive=True).message_count)


def died(instruments: Instruments, reason: str) -> float:
    return instruments.registry.get_sample_value(f"{PREFIX}dead_letters_total", {"reason": reason}) or 0.0


def test_events_that_fell_out_by_length_are_applied(
    make_reader: Callable[..., DeadLetterReader],
    make_listener: Callable[[], Listener],
    backend: SchedulerBackend,
    database: Database,
    broker: BrokerSettings,
    instruments: Instruments,
) -> None:
    # given more ends than the event queue takes, and no listener
    runs = runs_opened(backend, 150)
    make_reader().close()  # it has declared the queues
    put(broker, [*map(ended, runs), b"rubbish"])
    until(lambda: ready(broker, DEAD) + ready(broker, QUEUE) == 151)
    fell_out = ready(broker, DEAD)
    assert 0 < fell_out < 151
    # when
    reader = make_reader()
    rounds(reader, lambda: statuses(database).get("eventful") == fell_out)
    # then the reader applies what fell out, the listener the rest
    assert died(instruments, "maxlen") == fell_out
    assert ready(broker, QUEUE) == 151 - fell_out
    listener = make_listener()
    rounds(listener, lambda: statuses(database) == {"eventful": 150})
    assert [row.properties["routing_key"] for row in list_rejected(database, 10)] == [QUEUE]
    until(lambda: ready(broker, DEAD) == 0)


def test_a_message_that_was_delivered_too_often_is_rejected_and_can_be_replayed(
    make_reader: Callable[..., DeadLetterReader],
    backend: SchedulerBackend,
    database: Database,
    broker: BrokerSettings,
    instruments: Instruments,
) -> None:
    # given a message that was given back until the broker had enough of it
    [run] = runs_opened(backend, 1)
    make_reader().close()  # it has declared the queues
    put(broker, [ended(run)])

    def give_back() -> bool:
        with raw_channel(broker) as channel:  # with one consumer at a time, a queue can't be asked for a message
            channel.basic_consume(
                QUEUE, callback=lambda message: channel.basic_reject(message.delivery_tag, requeue=True)
            )
            with suppress(TimeoutError):
                channel.connection.drain_events(timeout=1)
        return ready(broker, DEAD) == 1

    until(give_back, 20)
    # when
    reader = make_reader()
    rounds(reader, lambda: list_rejected(database, 10))
    # then
    [row] = list_rejected(database, 10)
    assert row.reason == "it was dead-lettered: delivery_limit"
    assert (row.properties["first_death_queue"], row.properties["first_routing_key"]) == (QUEUE, QUEUE)
    assert died(instruments, "delivery_limit") == 1
    assert statuses(database) == {"scheduled": 1}
    [replayed] = replay(database, [row.id])
    assert (replayed.outcome, statuses(database)) == ("applied", {"eventful": 1})


def test_all_but_good_events_are_rejected_with_the_reason_and_the_body(
    make_reader: Callable[..., DeadLetterReader],
    backend: SchedulerBackend,
    database: Database,
    broker: BrokerSettings,
    instruments: Instruments,
) -> None:
    [run] = runs_opened(backend, 1)
    reader = make_reader()
    put_dead(broker, [ended(run)])
    put_dead(broker, [ended(run)], x_first_death_reason="made up")
    put_dead(broker, [b"rubbish"], x_first_death_reason="maxlen")

    rounds(reader, lambda: len(list_rejected(database, 10)) == 3)

    rows = [read_rejected(database, row.id) for row in reversed(list_rejected(database, 10))]
    assert [row.reason[:30] for row in rows] == [
        "it was put there without a rea",
        "it was dead-lettered: made up",
        "not JSON: Expecting value: lin",
    ]
    assert [row.body for row in rows] == [ended(run), ended(run), b"rubbish"]
    assert (died(instruments, "other"), died(instruments, "maxlen")) == (2, 1)
    assert statuses(database) == {"scheduled": 1}
    until(lambda: ready(broker, DEAD) == 0)


@pytest.mark.parametrize("name", ["headers nested 2,000 deep", "header with a text that isn't UTF-8", "header decimal"])
def test_headers_of_any_kind_hide_no_death(
    make_reader: Callable[..., DeadLetterReader],
    backend: SchedulerBackend,
    database: Database,
    broker: BrokerSettings,
    name: str,
) -> None:
    [run] = runs_opened(backend, 1)
    reader = make_reader()
    publish_raw(broker, *ODD[name], ended(run))
    put(broker, [b"x" * 9_900])  # which pushes it out

    rounds(reader, lambda: statuses(database) == {"eventful": 1})

    assert list_rejected(database, 10) == []


def test_dead_letters_stay_in_the_broker_until_they_are_committed(
    make_reader: Callable[..., DeadLetterReader],
    backend: SchedulerBackend,
    database: Database,
    broker: BrokerSettings,
) -> None:
    class Away(Dispatch):
        def record_events(self, *_: Any) -> Any:
            raise DatabaseUnavailable(reason="on purpose")

        def trim_rejected_events(self, *_: Any) -> int:
            return 0

    [run] = runs_opened(backend, 1)
    failing = make_reader(Away(database))
    put_dead(broker, [ended(run)], x_first_death_reason="maxlen")
    heartbeat = Heartbeat()

    rounds(failing, lambda: heartbeat.trouble is not None, heartbeat)
    assert "on purpose" in str(heartbeat.trouble)
    failing.close()
    until(lambda: ready(broker, DEAD) == 1)

    rounds(make_reader(), lambda: statuses(database) == {"eventful": 1})


def test_what_the_database_refuses_for_now_waits_in_hand_while_its_neighbours_go_on(
    make_reader: Callable[..., DeadLetterReader],
    backend: SchedulerBackend,
    database: Database,
    broker: BrokerSettings,
) -> None:
    # given a trigger of somebody's that refuses one run, which a list names beside an element that is none
    runs = runs_opened(backend, 10)
    reader, heartbeat = make_reader(), Heartbeat()
    refuse(database, "P0001", when="new.backend_id = 'run-3'")
    bodies = [b"[" + ended(run) + b", 17]" if run == "run-3" else ended(run) for run in runs]
    put_dead(broker, bodies, x_first_death_reason="maxlen")
    # when
    rounds(reader, lambda: statuses(database) == {"eventful": 9, "scheduled": 1}, heartbeat)
    rounds(reader, lambda: heartbeat.trouble is not None, heartbeat)
    # then it is recorded once it can be, and the element is rejected once
    heal(database)
    rounds(reader, lambda: statuses(database) == {"eventful": 10}, heartbeat)
    assert heartbeat.trouble is None
    assert len(list_rejected(database, 10)) == 1
    until(lambda: ready(broker, DEAD) == 0)


def test_a_reader_holds_so_many_dead_letters_at_most_and_the_listener_goes_on(
    make_reader: Callable[..., DeadLetterReader],
    make_listener: Callable[[], Listener],
    backend: SchedulerBackend,
    database: Database,
    broker: BrokerSettings,
    instruments: Instruments,
) -> None:
    # given more dead letters than a reader takes, which are refused for now
    runs = runs_opened(backend, PREFETCH + 60)
    refuse(database, "53100", when="new.backend_id <> 'run-0'")
    put_later = [ended(run) for run in runs[1:]]
    reader, listener, heartbeat = make_reader(), make_listener(), Heartbeat()
    put_dead(broker, put_later, x_first_death_reason="maxlen")
    rounds(reader, lambda: heartbeat.trouble is not None and died(instruments, "maxlen") == PREFETCH, heartbeat)
    # when
    put(broker, [ended("run-0")])
    rounds(listener, lambda: statuses(database).get("eventful") == 1)
    # then
    assert ready(broker, DEAD) == len(put_later) - PREFETCH
    heal(database)
    rounds(reader, lambda: statuses(database) == {"eventful": len(runs)}, heartbeat)


def test_how_many_messages_wait_is_measured(
    make_reader: Callable[..., DeadLetterReader], broker: BrokerSettings, instruments: Instruments
) -> None:
    reader = make_reader()
    put(broker, [b"x" * 10] * 3)

    def length(queue: str) -> float | None:
        return instruments.registry.get_sample_value(f"{PREFIX}event_queue_length", {"queue": queue})

    rounds(reader, lambda: length(QUEUE) == 3)

    assert length(DEAD) == 0


def test_the_command_listen_reads_dead_letters_beside_events(
    tmp_path: Path,
    make_reader: Callable[..., DeadLetterReader],
    backend: SchedulerBackend,
    database: Database,
    database_url: str,
    broker: BrokerSettings,
) -> None:
    dead, late = runs_opened(backend, 2)
    make_reader().close()  # it has declared the queues
    put_dead(broker, [ended(dead)], x_first_death_reason="maxlen")
    put(broker, [ended(late)])
    configuration = tmp_path / "config.toml"
    arguments = ", ".join(
        f'"{name}" = {json.dumps(value)}' for name, value in broker.queues[DEFAULTS.event_queue].arguments.items()
    )
    configuration.write_text(f'[broker.queues."{DEFAULTS.event_queue}"]\narguments = {{ {arguments} }}\n')
    assert broker.url is not None
    variables = {
        "SWH_SCHED_RUNNER_CONFIG": str(configuration),
        "SWH_SCHED_RUNNER_DATABASE__URL": database_url,
        "SWH_SCHED_RUNNER_BROKER__URL": broker.url,
    }
    programs = Programs(tmp_path, variables)
    try:
        process = programs.start("listen", "--web-port", "0")
        until(lambda: statuses(database) == {"eventful": 2}, 60)
        assert terminate(process) == 0
    finally:
        programs.close()
    assert "dead letters recorded" in programs.log("listen")
