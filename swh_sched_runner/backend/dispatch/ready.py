"""Lanes: the due tasks of a type, with or without a priority, and what holds them back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import attrs
from sqlalchemy import Connection

from swh_sched_runner.db.queries import Queries

Hold = Literal["paused", "in_flight", "rate"]

_sql = Queries("dispatch/ready")


@attrs.define(slots=True, frozen=True)
class Lane:
    """Tasks of one type, with or without a priority.

    Equal are those of the same tasks: ``due_in_seconds`` (negative: due since) and what holds the lane back change.
    """

    task_type: str
    backend_name: str
    max_queue_length: int | None
    priority: bool
    due_in_seconds: float = attrs.field(default=0.0, eq=False)
    held: Hold | None = attrs.field(default=None, eq=False)
    held_seconds: float | None = attrs.field(default=None, eq=False)


@attrs.define(slots=True, frozen=True)
class Look:
    """Lanes with tasks that wait, those with a priority first, and queues that nothing may be sent to."""

    lanes: list[Lane]
    paused_queues: set[str]


@attrs.define(slots=True, frozen=True)
class Allowance:
    """How many tasks of a type may be taken now, and the tokens of its rate, if it has one."""

    tasks: int
    tokens: float | None = None
    refilled: datetime | None = None


@attrs.define(slots=True, frozen=True)
class QueueState:
    """What the last filler saw of a queue ``seconds`` ago (None: never filled), its ``drain_rate`` a second.

    ``promised_by_others``: somebody else's batch for it is open, whose messages may still be on their way.
    """

    depth: int | None
    drain_rate: float | None
    seconds: float | None
    promised_by_others: bool


def look(conn: Connection, task_types: Sequence[str], now: datetime | None = None) -> Look:
    """All lanes that have tasks waiting. Empty ``task_types`` means all; without lanes no queue counts as paused."""
    rows = conn.execute(_sql.lanes, {"task_types": list(task_types) or None, "now": now}).all()
    lanes = [
        Lane(
            row.task_type,
            row.backend_name,
            row.max_queue_length,
            row.priority,
            row.due_in_seconds,
            *_hold(row.paused, row.at_cap, row.token_in_seconds),
        )
        for row in rows
    ]
    return Look(lanes, set(rows[0].paused_queues) if rows else set())


def _hold(paused: bool, at_cap: bool, token_in_seconds: float | None) -> tuple[Hold | None, float | None]:
    if paused:
        return "paused", None
    if at_cap:
        return "in_flight", None
    return ("rate", token_in_seconds) if token_in_seconds else (None, None)


def paused_queues(conn: Connection) -> set[str]:
    """Queues that nothing is sent to."""
    return set(conn.execute(_sql.paused_queues).scalars())


def allowance(conn: Connection, task_type: str, wanted: int, *, runs: bool = True) -> Allowance:
    """How many of ``wanted`` tasks the controls of their type let pass; other grabs of a type with limits wait then.

    Without ``runs`` nothing is in flight that could be counted.
    """
    controls = conn.execute(_sql.lock_type, {"task_type": task_type}).first()
    if controls is None:
        return Allowance(wanted)
    allowed = 0 if controls.paused else wanted
    if controls.max_in_flight is not None and runs and allowed:
        binds = {"task_type": task_type, "limit": controls.max_in_flight}
        allowed = min(allowed, controls.max_in_flight - conn.execute(_sql.in_flight, binds).scalar_one())
    if controls.rate_limit is None:
        return Allowance(allowed)
    return Allowance(min(allowed, int(controls.tokens)), controls.tokens, controls.refilled)


def use(conn: Connection, task_type: str, allowed: Allowance, taken: int) -> None:
    """Note what a grab has taken of its allowance, in the same transaction."""
    if allowed.tokens is not None and taken:
        binds = {"task_type": task_type, "tokens": allowed.tokens - taken, "refilled": allowed.refilled}
        conn.execute(_sql.take_tokens, binds)


def queue_state(conn: Connection, owner: int, queue: str) -> QueueState:
    """What was seen of a queue last."""
    row = conn.execute(_sql.queue_state, {"owner": owner, "queue": queue}).one()
    return QueueState(row.depth, row.drain_rate, row.seconds, row.promised_by_others)


def queue_filled(conn: Connection, owner: int, queue: str, depth: int | None, drain_rate: float | None) -> None:
    """Note what the filler of a queue saw of it."""
    conn.execute(_sql.queue_filled, {"owner": owner, "queue": queue, "depth": depth, "drain_rate": drain_rate})
