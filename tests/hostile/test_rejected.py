"""Rejected events are all there, with their reasons, and do what they would have done when they are made good."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from faults.attack import bodies as attack
from faults.attack.classes import CLASSES, Fate, Source
from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.broker.amqp.event_queue import queue_name
from swh_sched_runner.broker.interface import KEPT_BYTES
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.insight.rejected import list_rejected, read_rejected, rejected_ids
from swh_sched_runner.services.listener.replay import replay
from tests.hostile.test_events import (
    ODD,
    SETTINGS,
    Line,
    broker,
    dispatch,
    ended,
    event,
    heal,
    lines,
    publish_raw,
    put,
    refuse,
    runs_opened,
    sql,
    statuses,
)

__all__ = ["broker", "dispatch", "lines"]

# Pairs of runs, and hostile messages between their events.
FEW, MANY = (20, 200), (1_000, 10_000)
KEEPS_ALL = msgspec.structs.replace(SETTINGS, rejected_event_rows=100_000, rejected_event_bytes=2**34)
# What becomes of a good event on its way.
DAMAGED: list[Callable[[bytes], bytes]] = [
    lambda good: good[:-1],
    lambda good: b"\xff" + good,
    lambda good: good.replace(b'"timestamp": ', b'"timestamp": "x", "t": '),
    lambda good: good.replace(b'"uuid": ', b'"uid": '),
    lambda good: good.replace(b'"pid": 1', b'"pid": -1'),
    lambda good: b"[" * 1_000 + good + b"]" * 1_000,
    lambda good: good + b" " * SETTINGS.max_event_bytes,
]
STATE = """
select t.status::text, t.next_run, t.current_interval, t.retries_left,
       r.status::text, r.started, r.ended, r.evidence, r.metadata
from task_run r join task t on t.id = r.task
where r.backend_id = :run
"""


def end_of(run: str, number: int) -> bytes:
    """A different end for each."""
    match number % 4:
        case 0:
            return ended(run)
        case 1:
            return ended(run, result={"status": "failed", "error": f"fault {number}"})
        case 2:
            return ended(run, result={"status": "uneventful", "number": number})
        case _:
            return event("task-failed", run, exception="E()", traceback="Traceback …\nValueError: x")


def state(database: Database, run: str) -> tuple[Any, ...]:
    with database.engine.connect() as conn:
        return tuple(conn.execute(text(STATE), {"run": run}).one())


def hostile_bodies(dice: Random) -> Iterator[bytes]:
    assert attack.__file__  # which registers the classes
    source = Source(dice, ["nobody's"])
    makers = [
        each.make
        for each in CLASSES.values()
        # Of bytes that are no UTF-8 some stand where nobody looks.
        if each.fate is Fate.REJECTED and not each.heavy and each.name != "no-utf-8"
    ]
    while True:
        for make in makers:
            yield make(source).body


@pytest.mark.parametrize(
    ("pairs", "hostile"), [FEW, pytest.param(*MANY, marks=[pytest.mark.trial, pytest.mark.timeout(600)])]
)
def test_events_made_good_by_hand_do_what_they_would_have_done_in_time(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
    pairs: int,
    hostile: int,
) -> None:
    # given pairs of runs: the events of one come as they are, the end of the other is damaged, rubbish in between
    runs = runs_opened(backend, 2 * pairs)
    good, late = runs[:pairs], runs[pairs:]
    line = lines(dispatch, broker, KEEPS_ALL)
    rubbish = hostile_bodies(Random(7))
    damaged = {}
    bodies = []
    for number in range(pairs):
        bodies += [event("task-started", good[number]), event("task-started", late[number])]
        bodies += [end_of(good[number], number), DAMAGED[number % len(DAMAGED)](end_of(late[number], number))]
        damaged[bodies[-1][:KEPT_BYTES]] = end_of(late[number], number)
        bodies += [next(rubbish) for _ in range(hostile // pairs - 1)]
    # when
    for at in range(0, len(bodies), 1_000):
        put(broker, bodies[at : at + 1_000])
        line.round()
    line.listen_until(lambda: len(rejected_ids(database, None)) >= hostile, 400)
    line.listen_until(lambda: statuses(database).get("started") == pairs)
    # then each of them is there with its reason, whole unless it is too long
    listed = list_rejected(database, 2 * hostile)
    assert len(listed) == hostile
    assert all(row.reason for row in listed)
    assert [row.kept for row in listed if not row.whole] == [KEPT_BYTES] * len(range(6, pairs, len(DAMAGED)))
    assert {row.properties["routing_key"] for row in listed} == {queue_name(broker)}
    assert line.errors == []
    # and what was made good does what it would have done
    made_good = 0
    for row in listed:
        body = damaged.get((read_rejected(database, row.id).body or b"")[:KEPT_BYTES])
        if body is not None:
            [replayed] = replay(database, [row.id], body)
            assert (replayed.outcome, len(replayed.runs)) == ("applied", 1)
            made_good += 1
    assert made_good == pairs
    for number in range(pairs):
        assert state(database, late[number]) == state(database, good[number])
    # and the others are rejected as before
    left = rejected_ids(database, None)
    assert {replayed.outcome for replayed in replay(database, left)} == {"rejected"}
    assert rejected_ids(database, None) == left


def test_what_the_database_refused_can_be_replayed_once_it_takes_it(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
) -> None:
    # given two runs with the same events, one of which the database refuses; its end comes after a wait in hand
    refused, taken = runs_opened(backend, 2)
    line = lines(dispatch, broker)
    refuse(database, "P0001", when=f"new.backend_id = '{refused}'")
    for run in (refused, taken):
        put(broker, [event("task-received", run, retries=1), event("task-started", run), end_of(run, 2)])
    line.listen_until(lambda: line.heartbeat.trouble)
    line.listen_until(lambda: statuses(database) == {"scheduled": 1, "uneventful": 1})
    heal(database)
    sql(database, f"alter table task_run add constraint c check (backend_id <> '{refused}' or ended is null)")
    # when
    line.listen_until(lambda: rejected_ids(database, None))
    [event_id] = rejected_ids(database, None)
    row = read_rejected(database, event_id)
    # then all that was told of the run is one message, which the database refuses while the cause is there
    assert dict(row.properties) == {"run": refused}
    assert [told["type"] for told in json.loads(row.body or b"")] == ["task-received", "task-started", "task-result"]
    [replayed] = replay(database, [event_id])
    assert (replayed.outcome, replayed.runs) == ("rejected", ())
    assert "check constraint" in (replayed.reason or "")
    assert statuses(database) == {"scheduled": 1, "uneventful": 1}
    # and takes when it is gone
    sql(database, "alter table task_run drop constraint c")
    [replayed] = replay(database, [event_id])
    assert (replayed.outcome, list(replayed.runs)) == ("applied", [refused])
    assert state(database, refused) == state(database, taken)
    assert rejected_ids(database, None) == []


@pytest.mark.parametrize("name", ["routing key that isn't UTF-8", "headers nested 2,000 deep", "nothing at all"])
def test_what_surrounds_a_rejected_event_is_kept_as_far_as_it_can_be_read(
    lines: Callable[..., Line], database: Database, dispatch: Dispatch, broker: BrokerSettings, name: str
) -> None:
    routing_key, flags, properties = ODD[name]
    line = lines(dispatch, broker)

    publish_raw(broker, routing_key, flags, properties, b"rubbish")
    line.listen_until(lambda: rejected_ids(database, None))

    [row] = list_rejected(database, 10)
    assert row.properties == {
        "exchange": broker.event_exchange,
        "routing_key": routing_key.decode(errors="replace"),
    }
