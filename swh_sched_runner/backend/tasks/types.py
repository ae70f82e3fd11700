"""Task types."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

from sqlalchemy import Connection

from swh_sched_runner.backend import validate
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.model import TaskType

KEYS = (
    "type",
    "description",
    "backend_name",
    "default_interval",
    "min_interval",
    "max_interval",
    "backoff_factor",
    "max_queue_length",
    "num_retries",
    "retry_delay",
)

_sql = Queries("tasks/types")


def create(conn: Connection, task_type: TaskType) -> None:
    """Create a task type unless it exists."""
    checked = check(task_type)
    created = conn.execute(_sql.create_task_type, {key: checked.get(key) for key in KEYS}).first()
    if created and "max_queue_length" in checked:
        conn.execute(_sql.set_max_queue_length, {key: checked[key] for key in ("type", "max_queue_length")})


def get(conn: Connection, task_type_name: str) -> TaskType | None:
    """The task type of that name, or None."""
    found = _get(conn, [validate.text("task_type_name", task_type_name)])
    return found[0] if found else None


def get_all(conn: Connection) -> list[TaskType]:
    """All task types, in order of name."""
    return _get(conn, None)


def _get(conn: Connection, names: list[str] | None) -> list[TaskType]:
    return cast(list[TaskType], [dict(row) for row in conn.execute(_sql.get_task_types, {"names": names}).mappings()])


def check(task_type: Mapping[str, Any]) -> dict[str, Any]:
    """The task type as given, if it can be stored and worked with; raises ``InvalidArgument`` else."""
    if not isinstance(task_type, Mapping):
        validate.refuse("task_type", "must be a dict", task_type)
    for key in task_type:
        if key not in KEYS:
            validate.refuse("task_type", f"has keys among {', '.join(KEYS)}", key)
    validate.plain_name("type", task_type.get("type"))
    validate.queue("backend_name", task_type.get("backend_name"))
    validate.text("description", task_type.get("description"))
    given = {key: value for key, value in task_type.items() if value is not None}
    for key in ("default_interval", "min_interval", "max_interval", "retry_delay"):
        if key in given:
            validate.interval(key, given[key])
    if given.get("default_interval") == timedelta(0):
        validate.refuse("default_interval", "must be above 0, or its tasks run without end", given["default_interval"])
    for key, most in (("max_queue_length", 2**63 - 1), ("num_retries", validate.MOST_RETRIES)):
        if key in given:
            validate.integer(key, given[key], least=0, most=most)
    factor = given.get("backoff_factor", 1)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= sys.float_info.max:
        validate.refuse("backoff_factor", "must be a number above 0", factor)
    if "min_interval" in given and "max_interval" in given and given["min_interval"] > given["max_interval"]:
        validate.refuse(
            "min_interval", f"must not exceed max_interval ({given['max_interval']})", given["min_interval"]
        )
    return dict(task_type)
