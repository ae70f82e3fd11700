"""Workers' lives: which there are, what each executes, whether events of theirs are missing; forgetting them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

import attrs

from swh_sched_runner.backend.workers.lives import LifeListed
from swh_sched_runner.backend.workers.registry import Workers
from swh_sched_runner.db.engine import Database

# Clocks further off are worth a look; they decide nothing.
MOST_OFFSET_SECONDS = 5.0
State = Literal["online", "leaving", "succeeded", "closed", "left", "silent", "forgotten"]


@attrs.define(slots=True, frozen=True)
class Executing:
    """A run that a life executes, and for how long."""

    task: int
    task_type: str
    backend_id: str
    duration: timedelta


@attrs.define(slots=True, frozen=True)
class WorkerLife:
    """One run of a worker process. ``state``: online, leaving after a worker-offline, or how it ended.

    ``clock_offset_seconds``: how late its heartbeats arrive by its own clock. ``missing_events``: executions that it
    began without a task-started, counted from the Lamport clock ``audited_from`` on; None while that isn't known.
    """

    hostname: str
    pid: int | None
    life: str | None
    state: State
    online: datetime
    last_sign: datetime
    executing: list[Executing]
    processed: int | None
    pool: str | None
    blocks: bool | None
    heartbeat_seconds: float | None
    queues: list[str] | None
    software: str | None
    version: str | None
    clock_offset_seconds: float | None
    clock_is_off: bool
    audited_from: int | None
    missing_events: int | None
    ended: datetime | None


def list_workers(database: Database, *, everything: bool = False) -> list[WorkerLife]:
    """Lives that are not over, or all that are kept, by host name and beginning."""
    return [_life(row) for row in Workers(database).list(everything=everything)]


def forget_worker(database: Database, hostname: str, *, force: bool) -> int:
    """End the lives of a worker by an operator's word; answers how many.

    Raises ``UnknownWorker``, and ``WorkerAlive`` while it shows signs of life, unless that is forced.
    """
    return Workers(database).forget(hostname, force=force)


def _life(row: LifeListed) -> WorkerLife:
    state: State = row.ended_by or ("leaving" if row.is_leaving else "online")  # type: ignore[assignment]
    return WorkerLife(
        hostname=row.hostname,
        pid=row.pid,
        life=row.life,
        state=state,
        online=row.online or row.began,
        last_sign=row.last_sign or row.first_sign,
        executing=[
            Executing(run["task"], run["task_type"], run["backend_id"], timedelta(seconds=run["seconds"]))
            for run in row.executing
        ],
        processed=row.processed,
        pool=row.pool,
        blocks=row.blocks,
        heartbeat_seconds=row.heartbeat,
        queues=row.queues,
        software=row.software,
        version=row.version,
        clock_offset_seconds=row.clock_offset,
        clock_is_off=row.clock_offset is not None and abs(row.clock_offset) > MOST_OFFSET_SECONDS,
        audited_from=row.audit_from,
        missing_events=row.missing,
        ended=row.ended,
    )
