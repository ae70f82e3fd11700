"""Views and functions in the shape of the program that had an adopted database before, in a schema of their own."""

from __future__ import annotations

from sqlalchemy import Connection

from swh_sched_runner.db.adopt import preflight
from swh_sched_runner.db.queries import Queries

SCHEMA = "swh_scheduler_compat"
FORKS_FROM, FIRST_VISITS_FROM = 37, 38

_sql = Queries("db/compat")


def make(conn: Connection) -> int:
    """Make them for the version that the database had before, and answer that; what stands is made anew in place.

    Raises ``AdoptionRefused`` where no such version is kept.
    """
    version = preflight.version(conn)
    views = (
        _sql.task_type,
        _sql.task,
        _sql.task_run,
        _sql.listers_38 if version >= FIRST_VISITS_FROM else _sql.listers_33,
        _sql.listed_origins_37 if version >= FORKS_FROM else _sql.listed_origins_33,
        _sql.origin_visit_stats,
        _sql.visit_scheduler_queue_position,
        _sql.scheduler_metrics,
    )
    allowed = (_sql.update_task, _sql.update_task_trigger, _sql.mktemp_task, _sql.create_tasks, _sql.update_metrics)
    looks = (_sql.peek_no_priority, _sql.peek_one_priority, _sql.peek_any_priority)
    refused = (
        _sql.refuse_run,
        _sql.refuse_run_trigger,
        _sql.grab,
        _sql.grab_priority,
        _sql.schedule_run,
        _sql.mktemp_run,
        _sql.schedule_runs,
        _sql.start_run,
        _sql.end_run,
    )
    conn.execute(_sql.create_schema)
    for statement in (*views, _sql.refuse, _sql.wake, *allowed, *looks, *refused):
        conn.execute(statement)
    conn.execute(_sql.describe_schema)
    conn.execute(_sql.open_schema)
    for grant in conn.execute(_sql.compose_grants, {"schema": SCHEMA}).scalar_one():
        conn.exec_driver_sql(grant, execution_options={"no_parameters": True})
    return version


def drop(conn: Connection) -> bool:
    """Drop the schema with all that is in it; False if there was none."""
    stood: bool = conn.execute(_sql.stands).scalar_one()
    conn.execute(_sql.drop_schema)
    return stood
