"""Where everything stands, for people: what is due, in flight, in the outbox, and what failed last."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import attrs
from sqlalchemy import Connection, TextClause

from swh_sched_runner.backend.workers import lives
from swh_sched_runner.backend.workers.lives import WorkerMeasures
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.model import Timestamp

FAILURES_SHOWN = 10
# How many of the newest runs are searched for failures: 10 ms, and hours of a busy fleet.
FAILURES_WINDOW = 10_000

_sql = Queries("inspection/status")


@attrs.define(slots=True, frozen=True)
class Due:
    """Due tasks of one type and priority (None: without), ``oldest`` the timestamp since when the first is due."""

    type: str
    priority: str | None
    tasks: int
    oldest: Timestamp


@attrs.define(slots=True, frozen=True)
class InFlight:
    """Tasks of one type in flight: ``waiting`` for a worker, or ``started``; ``oldest`` since when."""

    type: str
    waiting: int
    started: int
    oldest: Timestamp | None


@attrs.define(slots=True, frozen=True)
class Failure:
    """A run that ended failed, permfailed or lost, and what it said."""

    run: int
    task: int
    type: str
    status: str
    backend_id: str | None
    ended: Timestamp | None
    error: str | None


@attrs.define(slots=True, frozen=True)
class Outbox:
    """Batches that the broker has not confirmed, the runs and visits in them, and events that were rejected unread."""

    batches: int
    runs: int
    visits: int
    oldest: Timestamp | None
    rejected: int

    @property
    def messages(self) -> int:
        """Messages in those batches."""
        return self.runs + self.visits


@attrs.define(slots=True, frozen=True)
class LivingService:
    """A service that lives: a runner, listener, rescuer, or the visits' scheduler; where, and since when."""

    service: str
    host: str
    pid: int
    since: Timestamp


@attrs.define(slots=True, frozen=True)
class Flow:
    """What is on its way: the outbox, and tasks in flight by type; and what workers' events lack."""

    outbox: Outbox
    in_flight: dict[str, int]
    workers: list[WorkerMeasures]


@attrs.define(slots=True, frozen=True)
class Overview:
    """All of it, as of one point in time."""

    backlog: list[Due]
    in_flight: list[InFlight]
    failures: list[Failure]
    outbox: Outbox


def overview(conn: Connection, now: datetime | None = None, failures: int = FAILURES_SHOWN) -> Overview:
    """Where everything stands. Costs what is due and in flight, not what the history holds."""
    return Overview(
        backlog=backlog(conn, now),
        in_flight=[InFlight(**row) for row in _rows(conn, _sql.in_flight)],
        failures=[Failure(**row) for row in _rows(conn, _sql.last_failures, window=FAILURES_WINDOW, limit=failures)],
        outbox=_outbox(conn),
    )


def backlog(conn: Connection, now: datetime | None = None) -> list[Due]:
    """What is due, of each type and priority."""
    return [Due(**row) for row in _rows(conn, _sql.backlog, now=now)]


def living_services(conn: Connection) -> list[LivingService]:
    """Services whose session holds its lock, those that came first, first."""
    return [LivingService(**row) for row in _rows(conn, _sql.living_services)]


def now(conn: Connection) -> datetime:
    """The time by the database's clock."""
    found: datetime = conn.execute(_sql.now).scalar_one()
    return found


def flow(conn: Connection, limit: timedelta) -> Flow:
    """What is on its way, for monitoring. A statement that takes longer than ``limit`` is ended."""
    milliseconds = str(limit // timedelta(milliseconds=1))
    conn.execute(Queries("db/session").set_for_now, {"name": "statement_timeout", "value": milliseconds})
    in_flight = {row.type: row.tasks for row in conn.execute(_sql.tasks_in_flight)}
    return Flow(_outbox(conn), in_flight, lives.measures(conn))


def _outbox(conn: Connection) -> Outbox:
    return Outbox(**_rows(conn, _sql.outbox)[0])


def _rows(conn: Connection, statement: TextClause, **binds: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in conn.execute(statement, binds).mappings()]
