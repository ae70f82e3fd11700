"""What operators decide about dispatch while it runs: pauses and limits; and how queues stand, for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import attrs
from sqlalchemy import Connection, Row

from swh_sched_runner.backend import validate
from swh_sched_runner.backend.wake import hold_off, wake
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import UnknownQueue, UnknownTaskType
from swh_sched_runner.model import UNCHANGED, Controls, Pause, QueueControls, Timestamp, TypeControls, Unchanged

# Tasks a second. One in eleven days, and more than any broker takes: beyond these a number is a mistake.
LEAST_RATE = 1e-6
MOST_RATE = 1e6
# Seconds that a run may take: from a millisecond to as long as an interval may be.
LEAST_RUN_SECONDS = 1e-3
MOST_RUN_SECONDS = validate.LONGEST_INTERVAL.total_seconds()
QUEUES_NAMED = 10

_sql = Queries("dispatch/limits")
_task_types = Queries("tasks/types")


@attrs.define(slots=True, frozen=True)
class InFlight:
    """Tasks of one type, with or without a priority, that were taken and whose runs have not ended."""

    type: str
    priority: bool
    tasks: int


@attrs.define(slots=True, frozen=True)
class Unconfirmed:
    """Messages to one queue that the broker has not confirmed: of ``runs``, which are in flight, and of ``visits``."""

    queue: str
    runs: int
    visits: int


@attrs.define(slots=True, frozen=True)
class Published:
    """When a queue was last published to, by which runner, if it lives, and how many messages a second leave it."""

    queue: str
    published: Timestamp
    drain_rate: float | None
    host: str | None
    pid: int | None


@attrs.define(slots=True, frozen=True)
class Standing:
    """How queues stand: what holds them back, what is under way, who publishes to them."""

    controls: Controls
    in_flight: list[InFlight]
    unconfirmed: list[Unconfirmed]
    published: list[Published]


def pause_task_type(conn: Connection, task_type: str, by: str | None, reason: str | None) -> Pause | None:
    """Take no more tasks of a type; answers the pause that was there before, and stays."""
    binds = {"task_type": validate.text("task_type", task_type), **_words(by, reason)}
    before = pause_of(_lock_type(conn, task_type))
    if before is None:
        conn.execute(_sql.pause_type, binds)
    return before


def resume_task_type(conn: Connection, task_type: str) -> Pause | None:
    """Take tasks of a type again; answers the pause that ended."""
    validate.text("task_type", task_type)
    hold_off(conn)
    before = pause_of(_lock_type(conn, task_type))
    if before is not None:
        conn.execute(_sql.resume_type, {"task_type": task_type})
        wake(conn)
    return before


def set_task_type_limits(
    conn: Connection,
    task_type: str,
    max_queue_length: int | Unchanged | None,
    max_in_flight: int | Unchanged | None,
    rate_limit: float | Unchanged | None,
    max_run_seconds: float | Unchanged | None,
    keep_runs: timedelta | Unchanged | None,
) -> None:
    """Set those limits of a type that are given."""
    validate.text("task_type", task_type)
    if not isinstance(max_queue_length, Unchanged):
        _count("max_queue_length", max_queue_length)
    if not isinstance(max_in_flight, Unchanged):
        _count("max_in_flight", max_in_flight)
    if not isinstance(rate_limit, Unchanged | None):
        rate_limit = validate.number("rate_limit", rate_limit, least=LEAST_RATE, most=MOST_RATE)
    if not isinstance(max_run_seconds, Unchanged | None):
        max_run_seconds = validate.number(
            "max_run_seconds", max_run_seconds, least=LEAST_RUN_SECONDS, most=MOST_RUN_SECONDS
        )
    if not isinstance(keep_runs, Unchanged | None):
        validate.interval("keep_runs", keep_runs)
    hold_off(conn)
    now = _lock_type(conn, task_type)
    binds = {
        "task_type": task_type,
        "max_in_flight": now.max_in_flight if max_in_flight is UNCHANGED else max_in_flight,
        "rate_limit": now.rate_limit if rate_limit is UNCHANGED else rate_limit,
        "max_run_seconds": now.max_run_seconds if max_run_seconds is UNCHANGED else max_run_seconds,
        "keep_runs": now.keep_runs if keep_runs is UNCHANGED else keep_runs,
    }
    conn.execute(_sql.set_type_limits, binds)
    if max_queue_length is not UNCHANGED:
        conn.execute(_task_types.set_max_queue_length, {"type": task_type, "max_queue_length": max_queue_length})
    wake(conn)


def pause_queue(conn: Connection, queue: str, by: str | None, reason: str | None) -> Pause | None:
    """Send nothing more to a queue; answers the pause that was there before, and stays."""
    binds = {"queue": validate.name("queue", queue), **_words(by, reason)}
    conn.execute(_sql.claim_queue, {"queue": queue})
    before = pause_of(conn.execute(_sql.lock_queue, {"queue": queue}).one())
    if before is None:
        conn.execute(_sql.pause_queue, binds)
    return before


def resume_queue(conn: Connection, queue: str) -> Pause | None:
    """Send messages to a queue again; answers the pause that ended."""
    validate.text("queue", queue)
    hold_off(conn)
    found = conn.execute(_sql.lock_queue, {"queue": queue}).first()
    before = None if found is None else pause_of(found)
    if before is not None:
        conn.execute(_sql.resume_queue, {"queue": queue})
        wake(conn)
    return before


def set_queue_limit(conn: Connection, queue: str, max_queue_length: int | None) -> None:
    """Set the limit of a queue, by all task types that share it."""
    validate.text("queue", queue)
    _count("max_queue_length", max_queue_length)
    hold_off(conn)
    if not conn.execute(_sql.set_queue_limit, {"queue": queue, "max_queue_length": max_queue_length}).all():
        raise unknown_queue(queue, conn.execute(_sql.queues_of_types).scalars())
    wake(conn)


def unknown_queue(queue: str, known: Iterable[str]) -> UnknownQueue:
    """The error for a name that is no queue: it says which is meant, or which there are."""
    names = list(known)
    near = difflib.get_close_matches(queue, names, n=1)
    if near:
        advice = f"did you mean {near[0]!r}?"
    elif names:
        more = f" and {len(names) - QUEUES_NAMED} more" if len(names) > QUEUES_NAMED else ""
        advice = f"known are {', '.join(map(repr, names[:QUEUES_NAMED]))}{more}"
    else:
        advice = "there are no task types yet"
    return UnknownQueue(value=queue, advice=advice)


def get(conn: Connection) -> Controls:
    """What holds task types and queues back."""
    return Controls(
        task_types=[
            TypeControls(
                type=row.type,
                queue=row.queue,
                max_queue_length=row.max_queue_length,
                max_in_flight=row.max_in_flight,
                rate_limit=row.rate_limit,
                pause=pause_of(row),
                max_run_seconds=row.max_run_seconds,
                keep_runs=row.keep_runs,
            )
            for row in conn.execute(_sql.type_controls)
        ],
        queues=[QueueControls(row.queue, pause_of(row)) for row in conn.execute(_sql.queue_controls)],
    )


def standing(conn: Connection) -> Standing:
    """How all queues stand, but for their length. Costs what is in flight, not what is due."""
    return Standing(
        controls=get(conn),
        in_flight=[InFlight(**row) for row in conn.execute(_sql.in_flight).mappings()],
        unconfirmed=[Unconfirmed(**row) for row in conn.execute(_sql.unconfirmed).mappings()],
        published=[Published(**row) for row in conn.execute(_sql.published).mappings()],
    )


def _lock_type(conn: Connection, task_type: str) -> Row[Any]:
    conn.execute(_sql.claim_type, {"task_type": task_type})
    found = conn.execute(_sql.lock_type, {"task_type": task_type}).first()
    if found is None:
        raise UnknownTaskType(value=task_type)
    return found


def pause_of(row: Row[Any]) -> Pause | None:
    """The pause that a row of controls tells of."""
    return None if row.paused is None else Pause(row.paused, row.paused_by, row.paused_reason)


def _words(by: str | None, reason: str | None) -> dict[str, str | None]:
    return {
        "by": None if by is None else validate.text("by", by),
        "reason": None if reason is None else validate.text("reason", reason),
    }


def _count(argument: str, value: int | None) -> None:
    if value is not None:
        validate.integer(argument, value, least=0)
