"""The outbox, and the rest of the interface for services: dispatcher sessions, and what events say of runs.

A batch is written in the same statement that takes its tasks and opens their runs, before anything is sent; it
goes when the broker has confirmed every message. Until then its messages are sent again, always under their ids.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs
import msgspec
from sqlalchemy import Connection, Row

from swh_sched_runner.backend.dispatch import ready, visit_batches
from swh_sched_runner.backend.dispatch.listener_lock import ListenerLock
from swh_sched_runner.backend.dispatch.ready import QueueState, ReadySnapshot, TaskGroup
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.backend.dispatch.visit_batches import VisitPlan
from swh_sched_runner.backend.events import rejected as rejected_events
from swh_sched_runner.backend.events.rejected import Rejection
from swh_sched_runner.backend.tasks import lost, runs
from swh_sched_runner.backend.tasks.lost import Marks
from swh_sched_runner.backend.tasks.runs import Recorded, RunChange
from swh_sched_runner.backend.workers import lives
from swh_sched_runner.backend.workers.lives import Signs
from swh_sched_runner.db.engine import Database
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import MessageUnsendable
from swh_sched_runner.model import Evidence

NO_ARGUMENTS = "its arguments are not a JSON object with a list args and an object kwargs"
WITHDRAWN = "the task was disabled or rescheduled before this run was sent"

_sql = Queries("dispatch/outbox")


# A frozen class of attrs takes ten times as long to make, and this is made for each message.
class OutboxMessage(msgspec.Struct, frozen=True, gc=False):
    """A message in the outbox: its id, and what it carries."""

    backend_id: str
    args: list[Any]
    kwargs: dict[str, Any]


@attrs.define(slots=True, frozen=True)
class Batch:
    """Messages of one Celery task to one queue. ``max_queue_length`` is the queue's, None for no limit.

    ``unsendable``: runs that were ended as failed, since their arguments make no message; why, by id.
    """

    id: int
    queue: str
    backend_name: str
    max_queue_length: int | None
    messages: list[OutboxMessage]
    unsendable: Mapping[str, str] = attrs.field(factory=dict)


@attrs.define(slots=True, frozen=True)
class OpenBatch:
    """A batch of the outbox. ``due``: it may be sent again now."""

    id: int
    queue: str
    due: bool = True


@attrs.define(slots=True, frozen=True)
class QueueSeen:
    """A queue as its lease counts it: ready messages, and how many workers take a second (None: unknown)."""

    queue: str
    depth: int | None
    drain_rate: float | None


@attrs.define(slots=True, frozen=True)
class OpenRun:
    """A run without an end. ``unconfirmed``: it is in an open batch; ``worker_pid``: of the worker that started it."""

    id: int
    backend_id: str
    backend_name: str
    priority: bool
    started: bool
    worker_pid: int | None
    unconfirmed: bool


class Dispatch:
    """The outbox and the record of events; shares the pool of its ``Database``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def open_session(self, service: str = "runner") -> DispatcherSession:
        """Open a dispatcher session, on a connection of its own; raises ``ConfigurationError`` behind a pooler.

        ``service`` is what people read in the table: runner, listener, visits, rescuer or recovery.
        """
        return DispatcherSession(self._db.engine, service)

    def ready_snapshot(self, task_types: Sequence[str] = (), now: datetime | None = None) -> ReadySnapshot:
        """Where tasks wait, and what holds them back. Empty ``task_types`` means all."""
        return self._db.read(ready.snapshot, task_types, now)

    def open_batch(
        self, session_id: int, queue: str, group: TaskGroup, num_tasks: int, now: datetime | None = None
    ) -> Batch | None:
        """Take up to ``num_tasks`` due tasks, open their runs and put their messages in the outbox.

        None if nothing is due, or an operator's control holds all of it back. Without messages if none of the tasks
        can be sent.
        """
        return self._db.run(_open_batch, session_id, queue, group, num_tasks, now)

    def visit_queue(self, task_type: str) -> tuple[str, int | None] | None:
        """Queue and max_queue_length of the visits that tasks of this type make; None if there is no such type."""
        return self._db.run(visit_batches.queue_of, task_type)

    def open_visit_batch(self, session_id: int, queue: str, plan: VisitPlan, most: int) -> Batch | None:
        """Take up to ``most`` origins by the plan and put a visit of each in the outbox, in one transaction.

        None if there are none, or an operator's control holds them back.
        """
        return self._db.run(_open_visit_batch, session_id, queue, plan, most)

    def close_batch(
        self,
        session_id: int,
        batch: int,
        unconfirmed: Iterable[str] = (),
        seen: QueueSeen | None = None,
        *,
        unsendable: Mapping[str, str] | None = None,
        progress: bool = True,
    ) -> None:
        """Keep the ``unconfirmed`` ids of the batch in the outbox; without any, the batch is done.

        ``seen`` is what the lease of the queue found when the rest was confirmed. ``unsendable`` are ids that can
        never be sent: their runs end as failed, with the reason. Without ``progress`` the batch waits longer for its
        next try.
        """
        self._db.run(_close_batch, session_id, batch, list(unconfirmed), seen, unsendable or {}, progress=progress)

    def open_batches(self, session_id: int) -> list[OpenBatch]:
        """The open batches of this session, one after the other; those for a paused queue wait until it is resumed."""
        return self._db.read(_open_batches, session_id)

    def note_attempt(self, session_id: int, batch: int) -> None:
        """The batch is about to be sent again."""
        self._db.run(_note_attempt, session_id, batch)

    def read_batch(self, session_id: int, batch: OpenBatch) -> Batch | None:
        """What of the batch must still be sent; None if nothing is left, and the batch is closed then.

        Runs whose task was disabled or scheduled anew meanwhile end as failed.
        """
        return self._db.run(_read_batch, session_id, batch)

    def tasks_of_batch(self, batch: int) -> list[int]:
        """The ids of the tasks in a batch of runs that is open."""
        return self._db.read(_tasks_of_batch, batch)

    def other_sessions(self, session_id: int) -> list[int]:
        """Who else has open batches."""
        return self._db.read(_other_sessions, session_id)

    def queue_state(self, session_id: int, queue: str) -> QueueState:
        """What is known of a queue: how its last lease left it, and whether somebody else's batch for it is open."""
        return self._db.read(ready.queue_state, session_id, queue)

    def take_over(self, old: int, new: int) -> int:
        """Take over the batches of a session that is proven gone; answers how many."""
        return self._db.run(_take_over, old, new)

    def open_runs(self) -> list[OpenRun]:
        """All runs without an end, in order of id."""
        return self._db.run(_open_runs)

    def put_in_outbox(self, runs_by_queue: Mapping[str, Sequence[int]]) -> None:
        """Put messages of runs that were opened before in the outbox; the next runner takes the batches over."""
        if runs_by_queue:
            session = self.open_session("recovery")
            try:
                self._db.run(_put_in_outbox, session.id, runs_by_queue)
            finally:
                session.close()

    def open_listener_lock(self, queue: str) -> ListenerLock:
        """A connection that may become the one listener of an event queue; raises ``ConfigurationError``."""
        return ListenerLock(self._db.engine, queue)

    def record_events(
        self,
        changes: Sequence[RunChange],
        rejected: Sequence[Rejection] = (),
        signs: Signs | None = None,
        marks: Marks | None = None,
    ) -> Recorded:
        """Record what events say of runs, one change a run, and of workers; and keep what could not be read.

        ``marks`` are noted with it: all before them is recorded then. All or nothing. Raises ``DataRefused`` or
        ``InvalidArgument`` where a value is wrong, ``StatementRefused`` where the database takes none for now.
        """
        return self._db.run(_record_events, changes, rejected, signs, marks)

    def compare_at_rest(self) -> None:
        """Compare what heartbeats count with the starts that came; when all events that there are were recorded."""
        self._db.run(lives.compare_at_rest)

    def trim_rejected_events(self, rows: int, size: int, seconds: float) -> int:
        """Drop what was rejected, oldest first, beyond so many rows, bytes of bodies and seconds; answers how many."""
        return self._db.run(rejected_events.trim, rows, size, seconds)


def _open_batch(
    conn: Connection, session_id: int, queue: str, group: TaskGroup, num_tasks: int, now: datetime | None
) -> Batch | None:
    allowed = ready.acquire_quota(conn, group.task_type, num_tasks)
    if allowed.tasks <= 0:
        return None
    binds = {
        "session_id": session_id,
        "queue": queue,
        "task_type": group.task_type,
        "with_priority": group.priority,
        "num_tasks": allowed.tasks,
        "now": now,
        "id_prefix": _uuid7_prefix(),
    }
    rows = conn.execute(_sql.open_batch, binds).all()
    if not rows:
        return None
    ready.consume_quota(conn, group.task_type, allowed, len(rows))
    messages, unsendable = _messages(conn, rows)
    if not messages:
        _close_batch(conn, session_id, rows[0].batch, [], None)
    return Batch(rows[0].batch, queue, group.backend_name, group.max_queue_length, messages, unsendable)


def _open_visit_batch(conn: Connection, session_id: int, queue: str, plan: VisitPlan, most: int) -> Batch | None:
    opened = visit_batches.open_batch(conn, session_id, queue, plan, most)
    if opened is None:
        return None
    messages = [OutboxMessage(visit.id, [], visit.kwargs) for visit in opened.visits]
    return Batch(opened.id, queue, opened.backend_name, opened.max_queue_length, messages)


def _uuid7_prefix() -> str:
    """How the ids of runs begin: a UUID of version 7 has the milliseconds since 1970, its version, then chance.

    See RFC 9562, 5.7.
    """
    milliseconds = f"{time.time_ns() // 1_000_000:012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7"


def _messages(conn: Connection, rows: Iterable[Row[Any]]) -> tuple[list[OutboxMessage], dict[str, str]]:
    """The messages of these runs, and why others make none: their arguments were written by somebody else.

    Those runs end as failed.
    """
    messages: list[OutboxMessage] = []
    unsendable: dict[str, str] = {}
    for row in rows:
        found = row.arguments
        args, kwargs = (found.get("args") or [], found.get("kwargs") or {}) if isinstance(found, dict) else (None, None)
        if isinstance(args, list) and isinstance(kwargs, dict):
            messages.append(OutboxMessage(row.backend_id, args, kwargs))
        else:
            unsendable[row.backend_id] = str(MessageUnsendable(reason=NO_ARGUMENTS))
    _end_unsendable(conn, unsendable)
    return messages, unsendable


def _end_unsendable(conn: Connection, reasons: Mapping[str, str]) -> None:
    """The runs end as failed. An end that a message sent before brings about corrects this one."""
    if not reasons:
        return
    now = conn.execute(Queries("tasks/runs").now).scalar_one()
    changes = [
        RunChange(backend_id, status="failed", ended=now, evidence=Evidence.LOST, end_noted={"reason": reason})
        for backend_id, reason in reasons.items()
    ]
    runs.record(conn, changes)


def _close_batch(
    conn: Connection,
    session_id: int,
    batch: int,
    unconfirmed: list[str],
    seen: QueueSeen | None,
    unsendable: Mapping[str, str] | None = None,
    *,
    progress: bool = True,
) -> None:
    _end_unsendable(conn, unsendable or {})
    binds: dict[str, Any] = {"session_id": session_id, "batch": batch}
    if unconfirmed:
        conn.execute(_sql.keep_unconfirmed, binds | {"unconfirmed": unconfirmed, "progress": progress})
    else:
        conn.execute(_sql.close_batch, binds)
    if seen is not None:
        ready.note_published(conn, session_id, seen.queue, seen.depth, seen.drain_rate)


def _open_batches(conn: Connection, session_id: int) -> list[OpenBatch]:
    return [
        OpenBatch(row.id, row.queue, row.due) for row in conn.execute(_sql.open_batches, {"session_id": session_id})
    ]


def _note_attempt(conn: Connection, session_id: int, batch: int) -> None:
    conn.execute(_sql.note_attempt, {"session_id": session_id, "batch": batch})


def _read_batch(conn: Connection, session_id: int, batch: OpenBatch) -> Batch | None:
    binds = {"session_id": session_id, "batch": batch.id}
    rows = conn.execute(_sql.unconfirmed_runs, binds).all() or conn.execute(_sql.unconfirmed_visits, binds).all()
    _end_unsendable(conn, {row.backend_id: WITHDRAWN for row in rows if row.withdrawn})
    wanted = [row for row in rows if not row.withdrawn]
    messages, unsendable = _messages(conn, wanted)
    if not messages:
        _close_batch(conn, session_id, batch.id, [], None)
        return None
    return Batch(batch.id, batch.queue, wanted[0].backend_name, wanted[0].max_queue_length, messages, unsendable)


def _tasks_of_batch(conn: Connection, batch: int) -> list[int]:
    return list(conn.execute(_sql.tasks_of_batch, {"batch": batch}).scalars())


def _other_sessions(conn: Connection, session_id: int) -> list[int]:
    return list(conn.execute(_sql.other_sessions, {"session_id": session_id}).scalars())


def _take_over(conn: Connection, old: int, new: int) -> int:
    taken_over = len(conn.execute(_sql.take_over_batches, {"old": old, "new": new}).all())
    conn.execute(_sql.forget_session, {"session_id": old})
    return taken_over


def _open_runs(conn: Connection) -> list[OpenRun]:
    return [OpenRun(**row) for row in conn.execute(_sql.open_runs).mappings()]


def _put_in_outbox(conn: Connection, session_id: int, runs_by_queue: Mapping[str, Sequence[int]]) -> None:
    batches = [{"session_id": session_id, "queue": queue, "runs": list(ids)} for queue, ids in runs_by_queue.items()]
    conn.execute(_sql.put_in_outbox, batches)


def _record_events(
    conn: Connection,
    changes: Sequence[RunChange],
    rejected: Sequence[Rejection],
    signs: Signs | None,
    marks: Marks | None,
) -> Recorded:
    rejected_events.insert(conn, rejected)
    recorded = runs.record(conn, changes, from_events=True, signs=signs)
    if marks is not None:
        lost.record_marks(conn, marks)
    return recorded
