"""Counts of origins, for each lister and visit type."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, TextClause

from swh_sched_runner.backend import validate
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.model import SchedulerMetrics

_sql = Queries("origins/metrics")


def update(conn: Connection, lister_id: UUID | str | None, timestamp: datetime | None) -> list[SchedulerMetrics]:
    """Count the origins of that lister, or of all, and return the counts in key order."""
    now = None if timestamp is None else validate.timestamp("timestamp", timestamp)
    counted = _read(conn, _sql.update_metrics, lister_id=_id(lister_id), now=now)
    return sorted(counted, key=lambda metrics: (metrics.lister_id, metrics.visit_type))


def get(conn: Connection, lister_id: UUID | str | None, visit_type: str | None) -> list[SchedulerMetrics]:
    """What was counted last, in key order; filters combine."""
    checked = None if visit_type is None else validate.text("visit_type", visit_type)
    return _read(conn, _sql.get_metrics, lister_id=_id(lister_id), visit_type=checked)


def _id(lister_id: UUID | str | None) -> str | None:
    return None if lister_id is None else str(validate.uuid("lister_id", lister_id))


def _read(conn: Connection, statement: TextClause, **binds: str | datetime | None) -> list[SchedulerMetrics]:
    return [SchedulerMetrics(**row) for row in conn.execute(statement, binds).mappings()]
