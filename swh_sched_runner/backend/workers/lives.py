"""Rows of ``worker``: what workers sign is recorded, lives are listed, forgotten and removed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection

from swh_sched_runner.backend import validate
from swh_sched_runner.backend.columns import column
from swh_sched_runner.backend.workers.leaving import Ends
from swh_sched_runner.backend.workers.life import Life, Lives, Starts, WorkerKey, WorkerSign
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import UnknownWorker, WorkerAlive

# Key of the advisory lock of who writes lives.
LIVES_LOCK = 0x5C4ED_0002
# A worker's heartbeats come every two seconds; a busy solo worker has none, and may be forgotten.
SIGN_SECONDS = 30.0
KEPT_SECONDS = 86_400.0
# Longer than a worker keeps events back and a heartbeat waits in its queue.
REST_SECONDS = 12.0

_sql = Queries("workers/lives")
_COLUMNS = [field.name for field in attrs.fields(Life) if field.name != "pool"]


@attrs.frozen
class Signs:
    """What a batch of messages says of workers."""

    signs: Sequence[WorkerSign] = ()
    starts: Sequence[Starts] = ()
    ends: Sequence[Ends] = ()


@attrs.frozen
class Uninspected:
    """A life whose pool and queues are not known."""

    id: int
    hostname: str
    pid: int | None


@attrs.frozen
class Inspected:
    """What a life answered: its pool, whether a task blocks it, its broker heartbeat in seconds, its queues."""

    id: int
    pool: str
    blocks: bool
    heartbeat: float | None
    queues: Sequence[str] | None


@attrs.frozen
class LifeListed:
    """A life as it is listed, and what it executes."""

    id: int
    hostname: str
    pid: int | None
    life: str | None
    began: datetime
    online: datetime | None
    first_sign: datetime
    last_sign: datetime | None
    processed: int | None
    active: int | None
    software: str | None
    version: str | None
    pool: str | None
    blocks: bool | None
    heartbeat: float | None
    queues: list[str] | None
    is_leaving: bool | None
    clock_offset: float | None
    audit_from: int | None
    missing: int | None
    ended: datetime | None
    ended_by: str | None
    executing: list[dict[str, Any]]


@attrs.frozen
class WorkerMeasures:
    """Executions of a worker without a task-started, and how late its heartbeats arrive; None where that is unknown."""

    hostname: str
    missing_events: int | None
    clock_offset_seconds: float | None


def lock(conn: Connection) -> None:
    """Until the end of the transaction nobody else writes lives. Comes after the locks of tasks and runs."""
    conn.execute(_sql.lock_all, {"key": LIVES_LOCK})


def record(conn: Connection, said: Signs) -> dict[WorkerKey, int]:
    """Record what workers signed; answers the rows of the lives that started something."""
    keys = {sign.key for sign in said.signs} | {start.key for start in said.starts}
    hostnames = {key.hostname for key in keys}
    # Ends are counted of lives that shut down; of the others no row is touched.
    hostnames |= _leaving(conn, {end.hostname for end in said.ends} - hostnames)
    if not hostnames:
        return {}
    lock(conn)
    binds = {
        "hostnames": column(sorted(hostnames)),
        "lives": column(sorted({key.life for key in keys if key.life is not None})),
        "pids": column(sorted({key.pid for key in keys if key.pid is not None})),
    }
    known = [Life(**row) for row in conn.execute(_sql.lock_lives, binds).mappings()]
    before = {life.id: attrs.evolve(life) for life in known}
    lives = Lives(known, _now(conn))
    started = lives.take_in(said.signs, said.starts, said.ends)
    changed = [life for life in lives.all() if life.id is None or life != before[life.id]]
    _write(conn, changed)
    return {key: life.id for key, life in started.items() if life.id is not None}


def _leaving(conn: Connection, hostnames: Collection[str]) -> set[str]:
    if not hostnames:
        return set()
    return set(conn.execute(_sql.leaving, {"hostnames": column(sorted(hostnames))}).scalars())


def compare_at_rest(conn: Connection) -> None:
    """Compare the heartbeats that waited long enough; to be called when all events that there are were recorded."""
    lives = [Life(**row) for row in conn.execute(_sql.lock_samples, {"seconds": REST_SECONDS}).mappings()]
    for life in lives:
        life.compare_sample(all_recorded=True)
    _write(conn, lives)


def _write(conn: Connection, lives: Sequence[Life]) -> None:
    if not lives:
        return
    texts: dict[str, Callable[[Any], str]] = {
        "clock_offset": str,
        "recent_starts": column,
        "left_starts": column,
        "left_ends": column,
    }
    binds = {}
    for name in _COLUMNS:
        values = [getattr(life, name) for life in lives]
        write = texts.get(name)
        binds[name] = column([value if value is None or write is None else write(value) for value in values])
    written = {(row.hostname, row.pid, row.life, row.began): row.id for row in conn.execute(_sql.write, binds)}
    for life in lives:
        life.id = written[(*life.key, life.began)]


def uninspected(conn: Connection) -> list[Uninspected]:
    """Lives to ask; each is named once a minute until it answers."""
    return [Uninspected(**row) for row in conn.execute(_sql.uninspected).mappings()]


def record_answers(conn: Connection, answers: Sequence[Inspected]) -> None:
    """Record what lives answered."""
    if not answers:
        return
    binds = {
        "ids": column([answer.id for answer in answers]),
        "pools": column([answer.pool for answer in answers]),
        "blocks": column([answer.blocks for answer in answers]),
        "heartbeats": column([None if answer.heartbeat is None else str(answer.heartbeat) for answer in answers]),
        "queues": column(
            [None if answer.queues is None else validate.json_text("queues", list(answer.queues)) for answer in answers]
        ),
    }
    conn.execute(_sql.inspected, binds)


def list_lives(conn: Connection, *, everything: bool = False) -> list[LifeListed]:
    """Lives that are not over, or all that are kept."""
    return [LifeListed(**row) for row in conn.execute(_sql.list, {"all": everything}).mappings()]


def measures(conn: Connection) -> list[WorkerMeasures]:
    """What monitoring shows of each worker."""
    rows = conn.execute(_sql.measures)
    return [WorkerMeasures(r.hostname, None if r.missing is None else int(r.missing), r.clock_offset) for r in rows]


def forget(conn: Connection, hostname: str, *, force: bool) -> int:
    """End the lives of a worker by an operator's word; answers how many.

    Raises ``UnknownWorker``, and ``WorkerAlive`` while it shows signs of life, unless that is forced.
    """
    binds = {"hostname": validate.text("hostname", hostname), "force": force, "seconds": SIGN_SECONDS}
    row = conn.execute(_sql.forget, binds).one()
    if row.seconds is not None:
        raise WorkerAlive(hostname=hostname, seconds=round(row.seconds))
    if not row.lives:
        raise UnknownWorker(hostname=hostname)
    return int(row.forgotten)


def trim(conn: Connection) -> int:
    """Remove the rows of lives that are over for a day and that no run in flight names; answers how many."""
    return len(conn.execute(_sql.trim, {"seconds": KEPT_SECONDS}).all())


def _now(conn: Connection) -> datetime:
    now: datetime = conn.execute(Queries("tasks/runs").now).scalar_one()
    return now
