"""Tasks: creation, search, peek and grab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, Row, TextClause

from swh_sched_runner.backend import validate
from swh_sched_runner.backend.columns import column
from swh_sched_runner.backend.tasks import types
from swh_sched_runner.backend.wake import SLEEP_LOCK, hold_off, wake
from swh_sched_runner.config.settings import MAX_ARGUMENTS_BYTES, MAX_ARGUMENTS_DEPTH
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import UnknownTaskType
from swh_sched_runner.model import POLICIES, PRIORITIES, STATUSES, Task

CREATE_KEYS = ("type", "arguments", "next_run", "policy", "status", "retries_left", "priority")
KEYS = (*CREATE_KEYS, "id", "current_interval")
_KNOWN = frozenset(KEYS)

# First key of the advisory locks of creation; any number will do, as long as it stays.
CREATION_LOCK = 0x5C4ED
# From so many tasks on a call takes all slots of creation, instead of reading the arguments once more for them.
LARGE = 1_000

_sql = Queries("tasks/tasks")


def create(
    conn: Connection,
    tasks: Sequence[Task],
    policy: str,
    max_arguments_bytes: int = MAX_ARGUMENTS_BYTES,
    max_arguments_depth: int = MAX_ARGUMENTS_DEPTH,
) -> list[Task]:
    """Create the tasks that do not exist yet; return each distinct task once, in order of first appearance."""
    return [_task(row) for row in _create(conn, tasks, policy, max_arguments_bytes, max_arguments_depth)]


def add(conn: Connection, task: Task, max_arguments_bytes: int, max_arguments_depth: int) -> tuple[Task, bool]:
    """Create the task unless it exists; answers whether it was created."""
    (row,) = _create(conn, [task], POLICIES[0], max_arguments_bytes, max_arguments_depth)
    return _task(row), row.is_new


def _task(row: Row[Any]) -> Task:
    return cast(Task, dict(zip(KEYS, row, strict=False)))  # without what says how it came about, at the end


def _create(
    conn: Connection, tasks: Sequence[Task], policy: str, max_arguments_bytes: int, max_arguments_depth: int
) -> Sequence[Row[Any]]:
    validate.one_of("policy", policy, POLICIES)
    rows = [_check(task, policy, max_arguments_bytes, max_arguments_depth) for task in tasks]
    if not rows:
        return []
    first = rows[0]
    types, texts, next_runs, policies, statuses, priorities, retries_left = zip(*rows, strict=True)
    binds = {
        "arguments": "\n".join(texts),  # JSON has line breaks as \\n only
        "type": first[0],
        "types": _unless_all(types, first[0]),
        "next_run": first[2],
        "next_runs": _unless_all(next_runs, first[2]),
        "policy": policy,
        "policies": _unless_all(policies, policy),
        "statuses": _unless_all(statuses, STATUSES[0]),
        "priorities": _unless_all(priorities, None),
        "retries_left": _unless_all(retries_left, None),
    }
    lock = _sql.lock_creation if len(rows) < LARGE else _sql.lock_all_creation
    conn.execute(lock, {"lock_class": CREATION_LOCK, "sleep_lock": SLEEP_LOCK, "arguments": binds["arguments"]})
    created = conn.execute(_sql.create_tasks, binds).all()
    if not created or created[0].known < len(rows):  # asked only then: a round trip less for each call
        _refuse_types(conn, rows)
    wake(conn, min(next_runs))
    return created


def _unless_all(values: Sequence[Any], default: Any) -> str:
    """A column of values, empty where the default says it all."""
    return column([] if values.count(default) == len(values) else values)


def set_status(conn: Connection, ids: Sequence[int], status: str, next_run: datetime | None) -> None:
    """An operator's decision: from now on no open run moves these tasks."""
    checked_ids = validate.ids("task_ids", ids)
    checked_status = validate.one_of("status", status, STATUSES)
    timestamp = None if next_run is None else validate.timestamp("next_run", next_run)
    if not checked_ids:
        return
    hold_off(conn)
    conn.execute(_sql.set_status, {"ids": checked_ids, "status": checked_status, "next_run": timestamp})
    if checked_status == "next_run_not_scheduled":
        wake(conn, timestamp)


def search(
    conn: Connection,
    ids: Sequence[int] | None,
    task_type: str | None,
    status: str | None,
    priority: str | None,
    policy: str | None,
    before: datetime | None,
    after: datetime | None,
    limit: int | None,
) -> list[Task]:
    """Tasks that meet all given conditions, in order of id."""
    return _read(
        conn,
        _sql.search_tasks,
        ids=None if ids is None else validate.ids("task_id", ids),
        task_type=None if task_type is None else validate.text("task_type", task_type),
        status=None if status is None else validate.one_of("status", status, STATUSES),
        priority=None if priority is None else validate.one_of("priority", priority, PRIORITIES),
        policy=None if policy is None else validate.one_of("policy", policy, POLICIES),
        before=None if before is None else validate.timestamp("before", before),
        after=None if after is None else validate.timestamp("after", after),
        limit=_limit("limit", limit),
    )


def get(conn: Connection, ids: Sequence[int]) -> list[Task]:
    """The tasks of these ids, in order of id."""
    return search(conn, ids, None, None, None, None, None, None, None) if ids else []


def peek_ready(conn: Connection, task_type: str, now: datetime | None, num_tasks: int | None) -> list[Task]:
    """Due tasks without priority, in order of next_run."""
    return _ready(conn, _sql.peek_ready, task_type, now, num_tasks)


def peek_ready_priority(conn: Connection, task_type: str, now: datetime | None, num_tasks: int | None) -> list[Task]:
    """Due tasks with a priority, in order of priority, then next_run."""
    return _ready(conn, _sql.peek_ready_priority, task_type, now, num_tasks)


def grab_ready(conn: Connection, task_type: str, now: datetime | None, num_tasks: int | None) -> list[Task]:
    """Take due tasks without priority, in order of next_run."""
    return _ready(conn, _sql.grab_ready, task_type, now, num_tasks)


def grab_ready_priority(conn: Connection, task_type: str, now: datetime | None, num_tasks: int | None) -> list[Task]:
    """Take due tasks with a priority, in order of priority, then next_run."""
    return _ready(conn, _sql.grab_ready_priority, task_type, now, num_tasks)


def _ready(
    conn: Connection, statement: TextClause, task_type: str, now: datetime | None, num_tasks: int | None
) -> list[Task]:
    return _read(
        conn,
        statement,
        task_type=validate.text("task_type", task_type),
        now=None if now is None else validate.timestamp("timestamp", now),
        num_tasks=_limit("num_tasks", num_tasks),
    )


def _read(conn: Connection, statement: TextClause, **binds: Any) -> list[Task]:
    rows = conn.execute(statement, binds)
    keys = tuple(rows.keys())
    return cast(list[Task], [dict(zip(keys, row, strict=True)) for row in rows.all()])


def _limit(argument: str, value: int | None) -> int | None:
    return None if value is None else validate.integer(argument, value, least=0)


_Row = tuple[str, str, datetime, str, str, str | None, int | None]


def _check(task: Mapping[str, Any], policy: str, most_bytes: int, most_depth: int) -> _Row:
    if not isinstance(task, dict | Mapping):
        validate.refuse("task", "must be a dict", task)
    if not task.keys() <= _KNOWN:  # id and current_interval, of a task that was read, are decided anew
        validate.refuse("task", f"has keys among {', '.join(CREATE_KEYS)}", min(task.keys() - _KNOWN, key=str))
    priority, retries_left = task.get("priority"), task.get("retries_left")
    return (
        validate.name("type", task.get("type")),
        _check_arguments(task.get("arguments"), most_bytes, most_depth),
        validate.timestamp("next_run", task.get("next_run")),
        validate.one_of("policy", task.get("policy") or policy, POLICIES),
        validate.one_of("status", task.get("status") or "next_run_not_scheduled", STATUSES),
        None if priority is None else validate.one_of("priority", priority, PRIORITIES),
        None if retries_left is None else validate.integer("retries_left", retries_left, least=0),
    )


def _check_arguments(value: Any, most_bytes: int, most_depth: int) -> str:
    """The arguments as JSON, with both keys, so that equal ones are found equal; only such as can be sent."""
    if not isinstance(value, dict | Mapping) or not value.keys() <= {"args", "kwargs"}:
        validate.refuse("arguments", 'must be a dict with "args" and "kwargs"', value)
    args, kwargs = value.get("args", []), value.get("kwargs", {})
    if not isinstance(args, list | tuple):
        validate.refuse("arguments.args", "must be a list", args)
    if not isinstance(kwargs, dict | Mapping) or not all(isinstance(key, str) for key in kwargs):
        validate.refuse("arguments.kwargs", "must be a dict with strings as keys", kwargs)
    both = {"args": args, "kwargs": kwargs}
    return validate.sendable("arguments", both, validate.json_text("arguments", both), most_bytes, most_depth)


def _refuse_types(conn: Connection, rows: Sequence[_Row]) -> None:
    """Raise for a task whose type is unknown, or has no interval though the task needs one."""
    known = {row["type"]: row for row in types.get_all(conn)}
    for task_type, _, _, policy, *_ in rows:
        if task_type not in known:
            raise UnknownTaskType(value=task_type)
        if policy == "recurring" and known[task_type]["default_interval"] is None:
            validate.refuse(
                "policy", f"recurring needs a task type with a default_interval, {task_type} has none", policy
            )
