"""The archive: runs of tasks that are done with, to be read, stored elsewhere, and deleted."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping

from swh_sched_runner.backend import validate
from swh_sched_runner.db.queries import Queries

MOST_ROWS = 2**31 - 2

_sql = Queries("tasks/archive")


def get_page(
    conn: Connection, after_ts: str | datetime, before_ts: str | datetime, limit: int, page_token: str | None
) -> dict[str, Any]:
    """A page of runs to archive, in order of their timestamp and id."""
    after, before = _timestamp("after_ts", after_ts), _timestamp("before_ts", before_ts)
    validate.integer("limit", limit, least=1, most=MOST_ROWS)
    timestamp, run = (after, 0) if page_token is None else max((after, 0), _place(page_token))
    # One more than asked for: whether there is another page.
    binds = {"timestamp": timestamp, "run": run, "before": before, "limit": limit + 1}
    rows = conn.execute(_sql.filter_task_to_archive, binds).mappings().all()
    page: dict[str, Any] = {"tasks": [_row(row) for row in rows[:limit]]}
    if len(rows) > limit:
        page["next_page_token"] = _token(page["tasks"][-1])
    return page


def delete(conn: Connection, archived: Sequence[Mapping[str, int]]) -> None:
    """Delete these runs, and those of their tasks that have no run left."""
    pairs = [_pair(entry) for entry in archived]
    if not pairs:
        return
    tasks, runs = map(list, zip(*pairs, strict=True))
    binds = {"tasks": tasks, "runs": runs}
    conn.execute(_sql.lock_archived_tasks, binds)
    if stray := conn.execute(_sql.other_task, binds).first():
        validate.refuse("task_run_id", f"must be a run of the task, and this one is of task {stray.task}", stray.run)
    conn.execute(_sql.delete_runs, binds)
    conn.execute(_sql.delete_tasks, binds)


def _row(row: RowMapping) -> dict[str, Any]:
    given = row["arguments"]
    if not isinstance(given, dict):  # others wrote it: no arguments, but a row to keep
        given = {"args": [given]}
    args = given.get("args") or []
    flat = {
        "args": dict(enumerate(args if isinstance(args, list) else [args])),
        "kwargs": json.dumps(given.get("kwargs") or {}),
    }
    return dict(row) | {"arguments": flat}


def _token(row: Mapping[str, Any]) -> str:
    place = [(row["started"] or row["scheduled"]).isoformat(), row["task_run_id"]]
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _place(token: Any) -> tuple[datetime, int]:
    try:
        timestamp, run = json.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
        return validate.timestamp("page_token", datetime.fromisoformat(timestamp)), validate.integer("page_token", run)
    except (AttributeError, TypeError, ValueError):
        validate.refuse("page_token", "must be the next_page_token of the page before", token)


def _timestamp(argument: str, value: Any) -> datetime:
    """``value``, or the timestamp that it is the ISO 8601 text of; without a time zone such a text is UTC."""
    if not isinstance(value, str):
        return validate.timestamp(argument, value)
    try:
        timestamp = datetime.fromisoformat(value)
    except ValueError:
        validate.refuse(argument, "must be a timestamp in ISO 8601, or a datetime", value)
    return validate.timestamp(argument, timestamp if timestamp.tzinfo is not None else timestamp.replace(tzinfo=UTC))


def _pair(entry: Any) -> tuple[int, int]:
    if not isinstance(entry, Mapping):
        validate.refuse("task_ids", "must contain dicts with task_id and task_run_id", entry)
    return (
        validate.integer("task_id", entry.get("task_id")),
        validate.integer("task_run_id", entry.get("task_run_id")),
    )
