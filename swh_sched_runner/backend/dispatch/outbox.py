"""The door of the services: who may send, batches of promised messages, and what events say of runs.

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
from swh_sched_runner.backend.dispatch.ready import Lane, Look, QueueState
from swh_sched_runner.backend.dispatch.session import Owner
from swh_sched_runner.backend.dispatch.visit_batches import VisitPlan
from swh_sched_runner.backend.tasks import runs
from swh_sched_runner.backend.tasks.runs import Recorded, RunChange
from swh_sched_runner.db.engine import Database
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import MessageUnsendable
from swh_sched_runner.model import Evidence

NO_ARGUMENTS = "its arguments are no JSON object with a list of args and an object of kwargs that can be read"
WITHDRAWN = "the task was disabled or scheduled anew before this run was sent"

_sql = Queries("dispatch/outbox")


# A frozen class of attrs takes ten times as long to make, and this is made for each message.
class Promise(msgspec.Struct, frozen=True, gc=False):
    """A message that was promised: its id, and what it carries."""

    backend_id: str
    args: list[Any]
    kwargs: dict[str, Any]


@attrs.define(slots=True, frozen=True)
class Batch:
    """Messages of one Celery task to one queue. ``bound`` is the queue's, None if unbounded.

    ``unsendable``: runs that were ended as failed, since their arguments make no message; why, by id.
    """

    id: int
    queue: str
    backend_name: str
    bound: int | None
    promises: list[Promise]
    unsendable: Mapping[str, str] = attrs.field(factory=dict)


@attrs.define(slots=True, frozen=True)
class OpenBatch:
    """A batch of the ledger that is not confirmed yet. ``due``: it may be sent again now."""

    id: int
    queue: str
    due: bool = True


@attrs.define(slots=True, frozen=True)
class QueueSeen:
    """A queue as its filler saw it: messages ready by its count, and how many workers take a second (None: unknown)."""

    queue: str
    depth: int | None
    drain_rate: float | None


@attrs.define(slots=True, frozen=True)
class OpenRun:
    """A run without an end. ``promised``: it is in an open batch; ``worker_pid``: of the worker that started it."""

    id: int
    backend_id: str
    backend_name: str
    priority: bool
    started: bool
    worker_pid: int | None
    promised: bool


class Dispatch:
    """The ledger and the record of events; shares the pool of its ``Database``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def open_owner(self, service: str = "runner") -> Owner:
        """Become an owner of batches, with a session of its own; raises ``ConfigurationError`` behind a pooler.

        ``service`` is what people read in the table of owners: runner, visits or recovery.
        """
        return Owner(self._db.engine, service)

    def look(self, task_types: Sequence[str] = (), now: datetime | None = None) -> Look:
        """Where tasks wait, and what holds them back. Empty ``task_types`` means all."""
        return self._db.read(ready.look, task_types, now)

    def open_batch(
        self, owner: int, queue: str, lane: Lane, num_tasks: int, now: datetime | None = None
    ) -> Batch | None:
        """Take up to ``num_tasks`` due tasks, open their runs and promise their messages.

        None if nothing is due, or an operator's control holds all of it back. Without promises if none of the tasks
        can be sent.
        """
        return self._db.run(_open_batch, owner, queue, lane, num_tasks, now)

    def visit_queue(self, task_type: str) -> tuple[str, int | None] | None:
        """Queue and bound of the visits that tasks of this type make; None if there is no such type."""
        return self._db.run(visit_batches.queue_of, task_type)

    def open_visit_batch(self, owner: int, queue: str, plan: VisitPlan) -> OpenBatch | None:
        """Take origins by the plan and promise a visit of each, in one transaction; None if there are none."""
        batch = self._db.run(visit_batches.open_batch, owner, queue, plan)
        return None if batch is None else OpenBatch(batch, queue)

    def close_batch(
        self,
        owner: int,
        batch: int,
        unconfirmed: Iterable[str] = (),
        seen: QueueSeen | None = None,
        *,
        unsendable: Mapping[str, str] | None = None,
        progress: bool = True,
    ) -> None:
        """Keep the ``unconfirmed`` ids of the batch as promises; without any, the batch is done.

        ``seen`` is how the queue looked to its filler when the rest was confirmed. ``unsendable`` are ids that can
        never be sent: their runs end as failed, with the reason. Without ``progress`` the batch waits longer for its
        next try.
        """
        self._db.run(_close_batch, owner, batch, list(unconfirmed), seen, unsendable or {}, progress=progress)

    def open_batches(self, owner: int) -> list[OpenBatch]:
        """What this owner has promised, in turn; what is for a paused queue waits until that is resumed."""
        return self._db.read(_open_batches, owner)

    def note_attempt(self, owner: int, batch: int) -> None:
        """The batch is about to be sent again."""
        self._db.run(_note_attempt, owner, batch)

    def read_batch(self, owner: int, batch: OpenBatch) -> Batch | None:
        """What of the batch must still be sent; None if nothing is left, and the batch is closed then.

        Runs whose task was disabled or scheduled anew meanwhile end as failed.
        """
        return self._db.run(_read_batch, owner, batch)

    def other_owners(self, owner: int) -> list[int]:
        """Who else has open batches."""
        return self._db.read(_other_owners, owner)

    def queue_state(self, owner: int, queue: str) -> QueueState:
        """What is known of a queue: how its last filler left it, and whether somebody else's batch for it is open."""
        return self._db.read(ready.queue_state, owner, queue)

    def adopt(self, old: int, new: int) -> int:
        """Take over the batches of an owner that is proven gone; answers how many."""
        return self._db.run(_adopt, old, new)

    def open_runs(self) -> list[OpenRun]:
        """All runs without an end, in order of id."""
        return self._db.run(_open_runs)

    def promise_again(self, runs_by_queue: Mapping[str, Sequence[int]]) -> None:
        """Promise messages of runs that were opened before; the next runner takes the batches over."""
        if runs_by_queue:
            owner = self.open_owner("recovery")
            try:
                self._db.run(_promise_again, owner.id, runs_by_queue)
            finally:
                owner.close()

    def record_events(self, changes: Sequence[RunChange], set_aside: Sequence[tuple[str, bytes]] = ()) -> Recorded:
        """Record what events say, one change a run, and keep what could not be read: ``(reason, body)``.

        All or nothing. Raises ``DataRefused`` or ``InvalidArgument`` where a value is wrong, ``StatementRefused`` where
        the database takes none for now.
        """
        return self._db.run(_record_events, changes, set_aside)

    def trim_set_aside(self, rows: int, size: int, seconds: float) -> int:
        """Drop what was set aside, oldest first, beyond so many rows, bytes of bodies and seconds; answers how many."""
        return self._db.run(_trim_set_aside, rows, size, seconds)


def _open_batch(
    conn: Connection, owner: int, queue: str, lane: Lane, num_tasks: int, now: datetime | None
) -> Batch | None:
    allowed = ready.allowance(conn, lane.task_type, num_tasks)
    if allowed.tasks <= 0:
        return None
    statement = _sql.open_priority_batch if lane.priority else _sql.open_batch
    binds = {
        "owner": owner,
        "queue": queue,
        "task_type": lane.task_type,
        "num_tasks": allowed.tasks,
        "now": now,
        "moment": _moment(),
    }
    rows = conn.execute(statement, binds).all()
    if not rows:
        return None
    ready.use(conn, lane.task_type, allowed, len(rows))
    promises, unsendable = _promises(conn, rows)
    if not promises:
        _close_batch(conn, owner, rows[0].batch, [], None)
    return Batch(rows[0].batch, queue, lane.backend_name, lane.max_queue_length, promises, unsendable)


def _moment() -> str:
    """How the ids of runs begin: a UUID of version 7 has the milliseconds since 1970, its version, then chance.

    See RFC 9562, 5.7.
    """
    milliseconds = f"{time.time_ns() // 1_000_000:012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7"


def _promises(conn: Connection, rows: Iterable[Row[Any]]) -> tuple[list[Promise], dict[str, str]]:
    """The messages of these runs, and why others make none: their arguments were written by somebody else.

    Those runs end as failed.
    """
    promises: list[Promise] = []
    unsendable: dict[str, str] = {}
    for row in rows:
        found = row.arguments
        args, kwargs = (found.get("args") or [], found.get("kwargs") or {}) if isinstance(found, dict) else (None, None)
        if isinstance(args, list) and isinstance(kwargs, dict):
            promises.append(Promise(row.backend_id, args, kwargs))
        else:
            unsendable[row.backend_id] = str(MessageUnsendable(reason=NO_ARGUMENTS))
    _end_unsendable(conn, unsendable)
    return promises, unsendable


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
    owner: int,
    batch: int,
    unconfirmed: list[str],
    seen: QueueSeen | None,
    unsendable: Mapping[str, str] | None = None,
    *,
    progress: bool = True,
) -> None:
    _end_unsendable(conn, unsendable or {})
    binds: dict[str, Any] = {"owner": owner, "batch": batch}
    if unconfirmed:
        conn.execute(_sql.keep_unconfirmed, binds | {"unconfirmed": unconfirmed, "progress": progress})
    else:
        conn.execute(_sql.close_batch, binds)
    if seen is not None:
        ready.queue_filled(conn, owner, seen.queue, seen.depth, seen.drain_rate)


def _open_batches(conn: Connection, owner: int) -> list[OpenBatch]:
    return [OpenBatch(row.id, row.queue, row.due) for row in conn.execute(_sql.open_batches, {"owner": owner})]


def _note_attempt(conn: Connection, owner: int, batch: int) -> None:
    conn.execute(_sql.note_attempt, {"owner": owner, "batch": batch})


def _read_batch(conn: Connection, owner: int, batch: OpenBatch) -> Batch | None:
    binds = {"owner": owner, "batch": batch.id}
    rows = conn.execute(_sql.promised_runs, binds).all() or conn.execute(_sql.promised_visits, binds).all()
    _end_unsendable(conn, {row.backend_id: WITHDRAWN for row in rows if row.withdrawn})
    wanted = [row for row in rows if not row.withdrawn]
    promises, unsendable = _promises(conn, wanted)
    if not promises:
        _close_batch(conn, owner, batch.id, [], None)
        return None
    return Batch(batch.id, batch.queue, wanted[0].backend_name, wanted[0].max_queue_length, promises, unsendable)


def _other_owners(conn: Connection, owner: int) -> list[int]:
    return list(conn.execute(_sql.other_owners, {"owner": owner}).scalars())


def _adopt(conn: Connection, old: int, new: int) -> int:
    adopted = len(conn.execute(_sql.adopt_batches, {"old": old, "new": new}).all())
    conn.execute(_sql.forget_owner, {"owner": old})
    return adopted


def _open_runs(conn: Connection) -> list[OpenRun]:
    return [OpenRun(**row) for row in conn.execute(_sql.open_runs).mappings()]


def _promise_again(conn: Connection, owner: int, runs_by_queue: Mapping[str, Sequence[int]]) -> None:
    batches = [{"owner": owner, "queue": queue, "runs": list(ids)} for queue, ids in runs_by_queue.items()]
    conn.execute(_sql.promise_again, batches)


def _record_events(conn: Connection, changes: Sequence[RunChange], set_aside: Sequence[tuple[str, bytes]]) -> Recorded:
    if set_aside:
        reasons, bodies = zip(*set_aside, strict=True)
        conn.execute(_sql.set_aside, {"reasons": list(reasons), "bodies": list(bodies)})
    return runs.record(conn, changes, from_events=True)


def _trim_set_aside(conn: Connection, rows: int, size: int, seconds: float) -> int:
    return len(conn.execute(_sql.trim_set_aside, {"rows": rows, "size": size, "seconds": seconds}).all())
