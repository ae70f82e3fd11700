"""What the database knows of why a task is not running."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection, Row

from swh_sched_runner.backend import validate
from swh_sched_runner.backend.dispatch.limits import pause_of
from swh_sched_runner.config import queue_name
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import UnknownTask
from swh_sched_runner.model import Pause, Timestamp

# How far tasks are counted: 10 ms of an index. Who waits behind more doesn't need the number.
COUNTED = 10_000

_sql = Queries("inspection/explain")
_ready = Queries("dispatch/ready")


@attrs.define(slots=True, frozen=True)
class Run:
    """The run that owns a task. ``moved``: its end is what the task's state comes from.

    ``worker`` is the one that told last of it, ``error`` what a failure said, ``attempts`` None unless told.
    ``undecided``: why the rescuer can't tell whether it is lost, if that is so.
    """

    id: int
    backend_id: str
    status: str
    scheduled: Timestamp | None
    started: Timestamp | None
    ended: Timestamp | None
    moved: bool
    worker: str | None
    attempts: int | None
    error: str | None
    undecided: str | None = None


@attrs.define(slots=True, frozen=True)
class Unconfirmed:
    """The open batch of a run, and its dispatcher session: ``alive`` while that is there."""

    batch: int
    queue: str
    opened: Timestamp
    session_id: int
    host: str
    pid: int
    alive: bool


@attrs.define(slots=True, frozen=True)
class QueueFacts:
    """What is known of a queue: its pause, what the last runner to publish to it saw, its oldest open batch.

    ``published_depth`` is the depth when ``published``, ``drain_rate`` in messages a second; None where not known.
    """

    pause: Pause | None
    published: Timestamp | None
    published_depth: int | None
    drain_rate: float | None
    oldest_batch: Timestamp | None


@attrs.define(slots=True, frozen=True)
class Ahead:
    """Due tasks of the same group that are taken before this one: of a ``higher`` priority, and ``earlier`` ones.

    ``more``: they were counted no further than ``COUNTED``.
    """

    higher: int
    earlier: int
    more: bool

    @property
    def tasks(self) -> int:
        """All of them."""
        return self.higher + self.earlier


@attrs.define(slots=True, frozen=True)
class TaskFacts:
    """A task, and all that may keep it from running, at the time ``now`` of the database's clock.

    ``max_queue_length`` of its queue and the other limits are None where there is none. ``in_flight`` tasks of its type
    are counted where ``max_in_flight`` limits them; ``tokens``: what ``rate_limit`` (a second) lets pass now.
    ``ahead`` is None unless the task is due. ``run_id`` is None where no run owns the task, ``run`` also where that
    run was archived and deleted; ``unconfirmed`` unless its message is in the outbox. ``living_runners`` hold
    their locks.
    """

    task: int
    type: str
    status: str
    policy: str
    priority: str | None
    next_run: Timestamp
    queue: str
    max_queue_length: int | None
    now: datetime
    type_pause: Pause | None
    max_in_flight: int | None
    in_flight: int | None
    rate_limit: float | None
    tokens: float | None
    of_queue: QueueFacts
    ahead: Ahead | None
    run_id: int | None
    run: Run | None
    unconfirmed: Unconfirmed | None
    living_runners: int

    @property
    def waiting(self) -> bool:
        """Whether it is up to a runner to take it, now or later."""
        return self.status == "next_run_not_scheduled"

    @property
    def due(self) -> bool:
        """Whether a runner would take it now."""
        return self.waiting and self.next_run <= self.now


def read(conn: Connection, task_id: int, priority_queue: str, now: datetime | None = None) -> TaskFacts:
    """What is known of a task. ``priority_queue`` is the template of the configuration. Raises ``UnknownTask``.

    Costs index probes, open batches, and counts of up to ``COUNTED`` tasks, whatever the tables hold.
    """
    binds = {"task_id": validate.integer("task_id", task_id), "now": now}
    row = conn.execute(_sql.task, binds).first()
    if row is None:
        raise UnknownTask(value=task_id)
    unconfirmed = _unconfirmed(conn, row)
    queue = queue_name(row.backend_name, priority_queue, priority=row.priority is not None)
    if unconfirmed is not None:
        queue = unconfirmed.queue
    return TaskFacts(
        task=row.id,
        type=row.type,
        status=row.status,
        policy=row.policy,
        priority=row.priority,
        next_run=row.next_run,
        queue=queue,
        max_queue_length=row.max_queue_length,
        now=row.now,
        type_pause=pause_of(row),
        max_in_flight=row.max_in_flight,
        in_flight=_in_flight(conn, row),
        rate_limit=row.rate_limit,
        tokens=row.tokens,
        of_queue=_queue(conn, queue),
        ahead=_ahead(conn, row),
        run_id=row.run_id,
        run=_run(row),
        unconfirmed=unconfirmed,
        living_runners=conn.execute(_sql.living_runners).scalar_one(),
    )


def _run(row: Row[Any]) -> Run | None:
    if row.run is None:
        return None
    return Run(
        id=row.run,
        backend_id=row.backend_id,
        status=row.run_status,
        scheduled=row.scheduled,
        started=row.started,
        ended=row.ended,
        moved=row.moved,
        worker=row.worker,
        attempts=row.attempts,
        error=row.error,
        undecided=row.undecided,
    )


def _unconfirmed(conn: Connection, row: Row[Any]) -> Unconfirmed | None:
    if row.run is None or row.ended is not None:
        return None
    found = conn.execute(_sql.outbox_batch, {"run": row.run}).mappings().first()
    return None if found is None else Unconfirmed(**found)


def _queue(conn: Connection, queue: str) -> QueueFacts:
    row = conn.execute(_sql.queue, {"queue": queue}).one()
    return QueueFacts(pause_of(row), row.published, row.depth, row.drain_rate, row.oldest_batch)


def _in_flight(conn: Connection, row: Row[Any]) -> int | None:
    if row.max_in_flight is None:
        return None
    binds = {"task_type": row.type, "limit": min(row.max_in_flight, 10**9) + COUNTED}
    return int(conn.execute(_ready.in_flight, binds).scalar_one())


def _ahead(conn: Connection, row: Row[Any]) -> Ahead | None:
    if row.status != "next_run_not_scheduled" or row.next_run > row.now:
        return None
    binds = {"task_type": row.type, "next_run": row.next_run, "task_id": row.id, "limit": COUNTED + 1}
    if row.priority is None:
        higher, earlier = 0, conn.execute(_sql.ahead, binds).scalar_one()
    else:
        higher, earlier = conn.execute(
            _sql.ahead_with_priority, binds | {"priority": row.priority, "now": row.now}
        ).one()
    return Ahead(min(higher, COUNTED), min(earlier, COUNTED), max(higher, earlier) > COUNTED)
