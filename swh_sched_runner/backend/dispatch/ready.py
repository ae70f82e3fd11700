"""Task groups: the due tasks of a type, with or without a priority, and what holds them back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import attrs
from sqlalchemy import Connection

from swh_sched_runner.db.queries import Queries

ThrottleReason = Literal["paused", "in_flight", "rate"]

_sql = Queries("dispatch/ready")


@attrs.define(slots=True, frozen=True)
class TaskGroup:
    """Tasks of one type, with or without a priority.

    Equal are those of the same tasks: ``due_in_seconds`` (negative: due since) and what holds the group back change.
    """

    task_type: str
    backend_name: str
    max_queue_length: int | None
    priority: bool
    due_in_seconds: float = attrs.field(default=0.0, eq=False)
    throttled: ThrottleReason | None = attrs.field(default=None, eq=False)
    throttled_seconds: float | None = attrs.field(default=None, eq=False)


@attrs.define(slots=True, frozen=True)
class ReadySnapshot:
    """Task groups with tasks that wait, those with a priority first, and queues that nothing may be sent to.

    ``taken`` is when it was read, by ``time.monotonic``.
    """

    groups: list[TaskGroup]
    paused_queues: set[str]
    taken: float = attrs.field(factory=time.monotonic, eq=False)

    @property
    def age_seconds(self) -> float:
        """How long ago it was read."""
        return time.monotonic() - self.taken

    def due(self) -> list[TaskGroup]:
        """The groups with tasks that are due by now."""
        age = self.age_seconds
        return [group for group in self.groups if group.due_in_seconds <= age]


@attrs.define(slots=True, frozen=True)
class Quota:
    """How many tasks of a type may be taken now, and the tokens of its rate, if it has one."""

    tasks: int
    tokens: float | None = None
    refilled: datetime | None = None


@attrs.define(slots=True, frozen=True)
class QueueState:
    """What the last lease found of a queue ``seconds`` ago (None: never leased), its ``drain_rate`` a second.

    ``others_unconfirmed``: another session has an open batch for it, whose messages may still be on their way.
    """

    depth: int | None
    drain_rate: float | None
    seconds: float | None
    others_unconfirmed: bool


def snapshot(conn: Connection, task_types: Sequence[str], now: datetime | None = None) -> ReadySnapshot:
    """All groups that have tasks waiting. Empty ``task_types`` means all; without groups no queue counts as paused."""
    rows = conn.execute(_sql.groups, {"task_types": list(task_types) or None, "now": now}).all()
    groups = [
        TaskGroup(
            row.task_type,
            row.backend_name,
            row.max_queue_length,
            row.priority,
            row.due_in_seconds,
            *_throttle(row.paused, row.at_cap, row.token_in_seconds),
        )
        for row in rows
    ]
    return ReadySnapshot(groups, set(rows[0].paused_queues) if rows else set())


def _throttle(paused: bool, at_cap: bool, token_in_seconds: float | None) -> tuple[ThrottleReason | None, float | None]:
    if paused:
        return "paused", None
    if at_cap:
        return "in_flight", None
    return ("rate", token_in_seconds) if token_in_seconds else (None, None)


def paused_queues(conn: Connection) -> set[str]:
    """Queues that nothing is sent to."""
    return set(conn.execute(_sql.paused_queues).scalars())


def acquire_quota(conn: Connection, task_type: str, wanted: int, *, runs: bool = True) -> Quota:
    """How many of ``wanted`` tasks the controls of their type let pass; other grabs of a type with limits wait then.

    Without ``runs`` nothing is in flight that could be counted.
    """
    controls = conn.execute(_sql.lock_type, {"task_type": task_type}).first()
    if controls is None:
        return Quota(wanted)
    allowed = 0 if controls.paused else wanted
    if controls.max_in_flight is not None and runs and allowed:
        binds = {"task_type": task_type, "limit": controls.max_in_flight}
        allowed = min(allowed, controls.max_in_flight - conn.execute(_sql.in_flight, binds).scalar_one())
    if controls.rate_limit is None:
        return Quota(allowed)
    return Quota(min(allowed, int(controls.tokens)), controls.tokens, controls.refilled)


def consume_quota(conn: Connection, task_type: str, allowed: Quota, taken: int) -> None:
    """Note what a grab has taken of its quota, in the same transaction."""
    if allowed.tokens is not None and taken:
        binds = {"task_type": task_type, "tokens": allowed.tokens - taken, "refilled": allowed.refilled}
        conn.execute(_sql.take_tokens, binds)


def queue_state(conn: Connection, session_id: int, queue: str) -> QueueState:
    """What was seen of a queue last."""
    row = conn.execute(_sql.queue_state, {"session_id": session_id, "queue": queue}).one()
    return QueueState(row.depth, row.drain_rate, row.seconds, row.others_unconfirmed)


def note_published(conn: Connection, session_id: int, queue: str, depth: int | None, drain_rate: float | None) -> None:
    """Note what the lease of a queue found."""
    conn.execute(
        _sql.note_published, {"session_id": session_id, "queue": queue, "depth": depth, "drain_rate": drain_rate}
    )
