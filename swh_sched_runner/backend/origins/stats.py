"""Statistics of visits, a row for each url and visit type, and the queue positions of visit types.

The row of an origin's statistics is the lock of the origin: it stands from the first listing on, and whoever writes
rows of listed_origins, or what they mirror, holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping

from swh_sched_runner.backend import validate
from swh_sched_runner.backend.columns import column
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import SchedulerException
from swh_sched_runner.model import OriginVisitStats

INT_MAX = 2**31 - 1

_sql = Queries("origins/policies")


def upsert(conn: Connection, stats: Sequence[OriginVisitStats]) -> None:
    """Write statistics; a None keeps what is stored. A key twice raises ``SchedulerException``."""
    seen: set[tuple[str, str]] = set()
    for entry in stats:
        _check(entry)
        key = (entry.url, entry.visit_type)
        if key in seen:
            raise SchedulerException(reason=f"origin_visit_stats contains {entry.visit_type} of {entry.url!r} twice")
        seen.add(key)
    write(conn, stats)


def write(conn: Connection, stats: Sequence[OriginVisitStats]) -> None:
    """``upsert`` for statistics that are known to be right."""
    if not stats:
        return
    urls, visit_types = column([s.url for s in stats]), column([s.visit_type for s in stats])
    conn.execute(
        _sql.upsert_stats,
        {
            "urls": urls,
            "visit_types": visit_types,
            "last_successfuls": column([s.last_successful for s in stats]),
            "last_visits": column([s.last_visit for s in stats]),
            "last_visit_statuses": column([s.last_visit_status and s.last_visit_status.value for s in stats]),
            "last_scheduleds": column([s.last_scheduled for s in stats]),
            "last_snapshots": column([s.last_snapshot for s in stats]),
            "next_visit_queue_positions": column([s.next_visit_queue_position for s in stats]),
            "next_position_offsets": column([s.next_position_offset for s in stats]),
            "successive_visits": column([s.successive_visits for s in stats]),
        },
    )
    conn.execute(_sql.mirror_stats, {"urls": urls, "visit_types": visit_types})


def get(conn: Connection, keys: Iterable[Any]) -> list[OriginVisitStats]:
    """The statistics of these (url, visit_type), an entry each, in the order given; unknown ones are left out."""
    wanted: list[tuple[str, str]] = []
    for key in keys:
        if not isinstance(key, tuple | list) or len(key) != 2:
            validate.refuse("ids", "must contain pairs of url and visit type", key)
        wanted.append((validate.text("url", key[0]), validate.text("visit_type", key[1])))
    if not wanted:
        return []
    urls, visit_types = map(column, zip(*wanted, strict=True))
    rows = conn.execute(_sql.get_stats, {"urls": urls, "visit_types": visit_types}).mappings()
    return [_stats(row) for row in rows]


def hold(conn: Connection, urls: Sequence[str], visit_types: Sequence[str]) -> None:
    """Lock these origins until the transaction ends, listed or not; keys may come twice."""
    conn.execute(_sql.hold_stats, {"urls": column(urls), "visit_types": column(visit_types)})


def queue_positions(conn: Connection) -> dict[str, int]:
    """How far the queue of origins without last_update has come, by visit type."""
    return {row.visit_type: row.position for row in conn.execute(_sql.get_queue_positions)}


def set_queue_position(conn: Connection, visit_type: str, position: int) -> None:
    """Set how far the queue of a visit type has come."""
    conn.execute(
        _sql.set_queue_position,
        {
            "visit_type": validate.name("visit_type", visit_type),
            "position": validate.integer("position", position),
        },
    )


def _check(entry: Any) -> None:
    if not isinstance(entry, OriginVisitStats):
        validate.refuse("origin_visit_stats", "must contain OriginVisitStats objects", entry)
    validate.url("url", entry.url)
    validate.name("visit_type", entry.visit_type)
    for key in ("last_successful", "last_visit", "last_scheduled"):
        if (value := getattr(entry, key)) is not None:
            validate.timestamp(key, value)
    if entry.next_visit_queue_position is not None:
        validate.integer("next_visit_queue_position", entry.next_visit_queue_position)
    validate.integer("next_position_offset", entry.next_position_offset, least=-INT_MAX, most=INT_MAX)
    validate.integer("successive_visits", entry.successive_visits, least=-INT_MAX, most=INT_MAX)


def _stats(row: RowMapping) -> OriginVisitStats:
    snapshot = row["last_snapshot"]
    return OriginVisitStats(**dict(row) | {"last_snapshot": None if snapshot is None else bytes(snapshot)})
