"""Runs of tasks: opening them, and recording their starts and ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

import attrs
from sqlalchemy import Connection

from swh_sched_runner.backend import validate
from swh_sched_runner.backend.columns import column
from swh_sched_runner.backend.workers import lives
from swh_sched_runner.backend.workers.life import WorkerKey
from swh_sched_runner.backend.workers.lives import Signs
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import DuplicateBackendId, UnknownTask
from swh_sched_runner.model import Evidence, TaskRun

CREATE_KEYS = ("task", "backend_id", "scheduled", "metadata")
KEYS = ("id", "task", "backend_id", "scheduled", "started", "ended", "metadata", "status")
# So many are told apart, and counted; the statement keeps no more.
MOST_EXECUTIONS = 1_000
END_STATUSES = ("eventful", "uneventful", "failed", "permfailed", "lost")

_sql = Queries("tasks/runs")


@attrs.define(slots=True, frozen=True)
class RunChange:
    """What became known of one run. ``started`` and ``ended`` are timestamps; ``noted`` is merged into its metadata.

    An end has ``status``, ``ended``, ``evidence``, and ``end_noted``, which is merged only if the end is applied.
    ``begun`` is its last start and ``waits_since`` the last sign that it waits for its message, by the clock of the
    worker; the later one holds. ``worker_noted`` is merged unless a later one of them is known already.
    ``executions`` are the hashes of its distinct starts, in order, ``begun_by`` the life that signed the last.
    """

    backend_id: str
    started: datetime | None = None
    status: str | None = None
    ended: datetime | None = None
    evidence: Evidence | None = None
    noted: Mapping[str, Any] = attrs.field(factory=dict)
    end_noted: Mapping[str, Any] = attrs.field(factory=dict)
    attempts: int | None = None
    begun: datetime | None = None
    waits_since: datetime | None = None
    worker_noted: Mapping[str, Any] | None = None
    executions: Sequence[int] = ()
    begun_by: WorkerKey | None = None


@attrs.define(slots=True, frozen=True)
class Recorded:
    """What ``record`` did: which runs are ours, and how many ended with which status."""

    known: frozenset[str]
    ended: Counter[str]


def schedule(
    conn: Connection, task_id: int, backend_id: str, metadata: dict[str, Any] | None, scheduled: datetime | None
) -> TaskRun:
    """Open one run and return it."""
    run = TaskRun(task=task_id, backend_id=backend_id, metadata={} if metadata is None else metadata)
    mass_schedule(conn, [run if scheduled is None else run | {"scheduled": scheduled}])
    return cast(TaskRun, get(conn, backend_id))


def mass_schedule(conn: Connection, task_runs: Sequence[TaskRun]) -> None:
    """Open runs, all or none."""
    rows = [_check(run) for run in task_runs]
    if not rows:
        return
    tasks, backend_ids, scheduled, metadata = map(list, zip(*rows, strict=True))
    repeated = next((backend_id for backend_id, count in Counter(backend_ids).items() if count > 1), None)
    if repeated is not None:
        raise DuplicateBackendId(value=repeated)
    opened = conn.execute(
        _sql.open_runs, {"tasks": tasks, "backend_ids": backend_ids, "scheduled": scheduled, "metadata": metadata}
    ).one()
    for task in tasks:
        if task not in set(opened.tasks):
            raise UnknownTask(value=task)
    taken = set(backend_ids) - set(opened.backend_ids)
    if taken:
        raise DuplicateBackendId(value=min(taken))


def start(
    conn: Connection, backend_id: str, metadata: dict[str, Any] | None, timestamp: datetime | None
) -> TaskRun | None:
    """Note a start and return the run."""
    change = RunChange(
        backend_id=validate.text("backend_id", backend_id),
        started=_timestamp(conn, timestamp),
        noted=_metadata(metadata),
    )
    record(conn, [change])
    return get(conn, backend_id)


def end(
    conn: Connection,
    backend_id: str,
    status: str,
    metadata: dict[str, Any] | None,
    timestamp: datetime | None,
    result: Any,
) -> TaskRun | None:
    """Note an end and return the run."""
    change = RunChange(
        backend_id=validate.text("backend_id", backend_id),
        status=validate.one_of("status", status, END_STATUSES),
        ended=_timestamp(conn, timestamp),
        evidence=Evidence.RESULT,
        end_noted=_metadata(metadata) | ({} if result is None else {"result": result}),
    )
    record(conn, [change])
    return get(conn, backend_id)


def get(conn: Connection, backend_id: str) -> TaskRun | None:
    """The run of a message, or None."""
    row = conn.execute(_sql.get_run, {"backend_id": backend_id}).mappings().first()
    return None if row is None else cast(TaskRun, dict(row))


def get_of_tasks(conn: Connection, task_ids: Sequence[int], limit: int | None) -> list[TaskRun]:
    """The runs of these tasks, in order of id."""
    binds = {
        "task_ids": validate.ids("task_ids", task_ids),
        "limit": None if limit is None else validate.integer("limit", limit, least=0),
    }
    return cast(list[TaskRun], [dict(row) for row in conn.execute(_sql.get_runs_of_tasks, binds).mappings()])


def record(
    conn: Connection,
    changes: Sequence[RunChange],
    *,
    from_events: bool = False,
    signs: Signs | None = None,
) -> Recorded:
    """Record starts and ends, one change a run, and move the tasks of runs that end.

    With ``from_events``, timestamps are clamped between the run's opening and now, the earliest start counts,
    and ``noted`` is merged into runs that have ended as well. The transaction is then for this alone, since its plans
    are. ``signs`` are recorded too: after tasks and runs are locked, and before runs are written, which name the lives.
    """
    if from_events:
        conn.execute(_sql.plan_by_index)
    ids = lock(conn, [change.backend_id for change in changes])
    workers = lives.record(conn, signs) if signs else {}
    known = [change for change in changes if change.backend_id in ids]
    if not known:
        return Recorded(known=frozenset(), ended=Counter())
    ended = conn.execute(_sql.record, _columns(known, ids, workers) | {"from_events": from_events})
    return Recorded(known=frozenset(ids), ended=Counter({row.status: row.runs for row in ended}))


def lock(conn: Connection, backend_ids: Sequence[str]) -> dict[str, int]:
    """Lock the tasks of these runs, then the runs, as every end does; answers the ids of those that are there."""
    if not backend_ids:
        return {}
    binds = {"backend_ids": column([validate.string("backend_id", backend_id) for backend_id in backend_ids])}
    found = conn.execute(_sql.lock_tasks_of_runs, binds).all()
    locked = set(conn.execute(_sql.lock_runs, {"ids": column([row.id for row in found])}).scalars()) if found else set()
    return {row.backend_id: row.id for row in found if row.id in locked}


def _columns(changes: Sequence[RunChange], ids: Mapping[str, int], workers: Mapping[WorkerKey, int]) -> dict[str, str]:
    texts: dict[int, str] = {}  # what many changes share is written once

    def json(noted: Mapping[str, Any] | None) -> str | None:
        if noted is None:
            return None
        if id(noted) not in texts:
            texts[id(noted)] = validate.json_text("metadata", dict(noted)) if noted else "{}"
        return texts[id(noted)]

    rows = [
        (
            ids[change.backend_id],
            change.started,
            change.status,
            change.ended,
            change.evidence,
            json(change.noted),
            json(change.end_noted),
            change.attempts,
            change.begun,
            change.waits_since,
            json(change.worker_noted),
            None if change.begun_by is None else workers.get(change.begun_by),
            f"{{{','.join(map(str, change.executions))}}}" if change.executions else None,
        )
        for change in changes
    ]
    names = (
        *("ids", "started", "statuses", "ended", "evidence", "noted", "end_noted", "attempts"),
        *("begun", "waits_since", "worker_noted", "workers", "executions"),
    )
    return dict(zip(names, map(column, zip(*rows, strict=True)), strict=True))


def _check(run: Mapping[str, Any]) -> tuple[int, str, datetime | None, str]:
    if not isinstance(run, Mapping):
        validate.refuse("task_run", "must be a dict", run)
    for key in run:
        if key not in CREATE_KEYS:
            validate.refuse("task_run", f"has keys among {', '.join(CREATE_KEYS)}", key)
    scheduled, metadata = run.get("scheduled"), run.get("metadata")
    return (
        validate.integer("task", run.get("task")),
        validate.name("backend_id", run.get("backend_id")),
        None if scheduled is None else validate.timestamp("scheduled", scheduled),
        validate.json_object("metadata", {} if metadata is None else metadata),
    )


def _metadata(value: dict[str, Any] | None) -> dict[str, Any]:
    if value is None:
        return {}
    validate.json_object("metadata", value)
    return value


def _timestamp(conn: Connection, timestamp: datetime | None) -> datetime:
    if timestamp is None:
        return cast(datetime, conn.execute(_sql.now).scalar_one())
    return validate.timestamp("timestamp", timestamp)
