"""What an operator does to tasks: change, run now, disable, enable, respawn, delete."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import attrs
from sqlalchemy import Connection, Row

from swh_sched_runner.backend import validate
from swh_sched_runner.backend.columns import column
from swh_sched_runner.backend.tasks import runs
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.backend.wake import hold_off, wake
from swh_sched_runner.db.engine import Database
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import UnknownTaskType
from swh_sched_runner.model import PRIORITIES, STATUSES, UNCHANGED, Evidence, Unchanged

Verb = Literal["set", "run-now", "disable", "enable", "respawn", "delete"]
Result = Literal["changed", "unchanged", "in flight", "disabled", "completed", "oneshot", "unknown", "passed over"]

FORCIBLE = ("run-now", "respawn")
IN_FLIGHT = "next_run_scheduled"
# So many tasks are locked and changed in one transaction.
PAGE = 1_000

_sql = Queries("tasks/operations")
_types = Queries("tasks/types")


@attrs.define(slots=True, frozen=True)
class Conditions:
    """Which tasks are meant: those that meet all that is given. The last two are about the newest run that has ended.

    ``failed_since``: it failed or was lost, at most so long ago. ``error``: it failed, and its error has this text.
    """

    task_type: str | None = None
    status: str | None = None
    before: datetime | None = None
    failed_since: timedelta | None = None
    error: str | None = None


@attrs.define(slots=True, frozen=True)
class Operation:
    """What is to be done. ``interval``, ``priority`` and ``retries`` are for ``set``, ``next_run`` for ``respawn`` too.

    ``force`` ends the runs of a task in flight as lost before it runs now or is respawned; ``by`` says who wanted it.
    """

    verb: Verb
    interval: timedelta | None = None
    next_run: datetime | None = None
    priority: str | Unchanged | None = UNCHANGED
    retries: int | None = None
    force: bool = False
    by: str | None = None


@attrs.define(slots=True, frozen=True)
class Outcome:
    """What became of one task, or would.

    ``changed``; ``unchanged``, since it was so already; ``passed over``, since it met the conditions no longer; or why
    it was refused. ``run`` is its newest open run, ``since`` when that started or else was dispatched; ``ended`` are
    the messages of the runs that were ended.
    """

    task: int
    result: Result
    run: int | None = None
    since: datetime | None = None
    ended: tuple[str, ...] = ()


class TaskOperations:
    """Changes tasks at an operator's word; shares the pool of its ``Database``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def select(self, conditions: Conditions) -> list[int]:
        """The tasks that meet these conditions, in order of id. Raises ``UnknownTaskType``."""
        return self._db.read(_select, conditions)

    def apply(
        self,
        operation: Operation,
        ids: Sequence[int],
        conditions: Conditions | None = None,
        *,
        dry_run: bool = False,
    ) -> list[Outcome]:
        """Do it to these tasks, at most ``PAGE``, in one transaction; answers what became of each, in order of id.

        Each task is judged when it is locked: neither a grab nor an end comes between. A task that was selected by
        ``conditions`` must meet them still. With ``dry_run`` nothing is locked or written.
        """
        checked = _check(operation)
        wanted = sorted(set(validate.ids("task_ids", ids)))
        if dry_run:
            return self._db.read(_judge, checked, wanted, conditions)
        return self._db.run(_apply, checked, wanted, conditions)


def _check(operation: Operation) -> Operation:
    if operation.interval is not None and validate.interval("interval", operation.interval) == timedelta(0):
        validate.refuse("interval", "must be above 0, or the task runs without end", operation.interval)
    if operation.next_run is not None:
        validate.timestamp("next_run", operation.next_run)
    if isinstance(operation.priority, str):
        validate.one_of("priority", operation.priority, PRIORITIES)
    if operation.retries is not None:
        validate.integer("retries", operation.retries, least=0, most=validate.MOST_RETRIES)
    return operation


def _select(conn: Connection, conditions: Conditions) -> list[int]:
    found = _meeting(conn, conditions, None)
    task_type = conditions.task_type
    if not found and task_type is not None and not conn.execute(_types.get_task_types, {"names": [task_type]}).first():
        raise UnknownTaskType(value=task_type)
    return found


def _meeting(conn: Connection, conditions: Conditions, ids: Sequence[int] | None) -> list[int]:
    given = conditions
    binds = {
        "ids": None if ids is None else column(ids),
        "task_type": None if given.task_type is None else validate.text("task_type", given.task_type),
        "status": None if given.status is None else validate.one_of("status", given.status, STATUSES),
        "before": None if given.before is None else validate.timestamp("before", given.before),
        "failed_since": None if given.failed_since is None else validate.interval("failed_since", given.failed_since),
        "error": None if given.error is None else validate.text("error", given.error),
    }
    return list(conn.execute(_sql.select_tasks, binds).scalars())


def _apply(conn: Connection, operation: Operation, ids: Sequence[int], conditions: Conditions | None) -> list[Outcome]:
    """Locks tasks, then runs, as grabs and ends do."""
    hold_off(conn)
    conn.execute(_sql.lock_tasks_to_delete if operation.verb == "delete" else _sql.lock_tasks, {"ids": column(ids)})
    outcomes = _judge(conn, operation, ids, conditions)
    changed = [outcome for outcome in outcomes if outcome.result == "changed"]
    if changed:
        _end_as_lost(conn, operation, changed)
        _write(conn, operation, changed)
    return outcomes


def _judge(conn: Connection, operation: Operation, ids: Sequence[int], conditions: Conditions | None) -> list[Outcome]:
    standings = {row.id: row for row in conn.execute(_sql.standings, {"ids": column(ids)})}
    meeting = set(ids) if conditions is None else set(_meeting(conn, conditions, ids))
    outcomes = []
    for task in ids:
        row = standings.get(task)
        if row is None:
            outcomes.append(Outcome(task, "unknown" if conditions is None else "passed over"))
        elif task not in meeting:
            outcomes.append(Outcome(task, "passed over"))
        else:
            result = _result(operation, row)
            ended = tuple(row.backend_ids or ()) if result == "changed" and operation.verb in FORCIBLE else ()
            outcomes.append(Outcome(task, result, row.run, row.since, ended))
    return outcomes


def _result(operation: Operation, row: Row[Any]) -> Result:
    """What the operation does to a task that stands so."""
    in_flight = row.status == IN_FLIGHT or row.run is not None
    match operation.verb:
        case "set" if operation.interval is not None and row.policy == "oneshot":
            return "oneshot"
        case "set" if operation.next_run is not None and in_flight:  # its end would write another one
            return "in flight"
        case "run-now" | "respawn" | "delete" if in_flight and not (operation.force and operation.verb in FORCIBLE):
            return "in flight"
        case "run-now" | "enable" if row.status == "completed":
            return "completed"
        case "run-now" if row.status == "disabled":
            return "disabled"
        case "disable" if row.status in ("disabled", "completed"):
            return "unchanged"
        case "enable" if row.status != "disabled":
            return "unchanged"
    return "changed"


def _end_as_lost(conn: Connection, operation: Operation, changed: Sequence[Outcome]) -> None:
    messages = [message for outcome in changed for message in outcome.ended]
    if not messages:
        return
    now = conn.execute(_sql.clock).scalar_one()
    reason = f"ended by {operation.by or 'an operator'}, who had its task run again"
    lost = [
        RunChange(message, status="lost", ended=now, evidence=Evidence.LOST, end_noted={"reason": reason})
        for message in messages
    ]
    runs.record(conn, lost)


def _write(conn: Connection, operation: Operation, changed: Sequence[Outcome]) -> None:
    ids = {"ids": column([outcome.task for outcome in changed])}
    match operation.verb:
        case "set":
            conn.execute(
                _sql.change,
                ids
                | {
                    "interval": operation.interval,
                    "next_run": operation.next_run,
                    "set_priority": operation.priority is not UNCHANGED,
                    "priority": None if operation.priority is UNCHANGED else operation.priority,
                    "retries": operation.retries,
                },
            )
        case "run-now" | "respawn":
            conn.execute(_sql.schedule, ids | {"next_run": operation.next_run, "earliest": operation.verb == "run-now"})
        case "disable":
            conn.execute(_sql.disable, ids)
        case "enable":
            conn.execute(_sql.enable, ids | {"runs": column([outcome.run for outcome in changed])})
        case "delete":
            conn.execute(_sql.delete_runs, ids)
            conn.execute(_sql.delete_tasks, ids)
    if operation.verb not in ("disable", "delete"):
        wake(conn, operation.next_run)
