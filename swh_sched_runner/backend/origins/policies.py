"""Which origins are visited next: the policies of ``grab_next_visits``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, TextClause

from swh_sched_runner.backend import validate
from swh_sched_runner.backend.origins import listers
from swh_sched_runner.backend.origins.origins import listed_origin
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import UnknownPolicy, shown
from swh_sched_runner.model import ListedOrigin

POLICIES = (
    "oldest_scheduled_first",
    "never_visited_oldest_update_first",
    "already_visited_order_by_lag",
    "origins_without_last_update",
    "stop_after_success",
    "first_visits_after_listing",
)

# The cut-off of a cooldown that is off: everything lies before it.
OFF = "infinity"
# What lies before every timestamp that was ever written.
NEVER = datetime.min.replace(tzinfo=UTC)

_sql = Queries("origins/policies")


def grab_next(
    conn: Connection,
    visit_type: str,
    count: int,
    policy: str,
    *,
    enabled: bool = True,
    lister_uuid: UUID | str | None = None,
    lister_name: str | None = None,
    lister_instance_name: str | None = None,
    timestamp: datetime | None = None,
    absolute_cooldown: timedelta | None = timedelta(hours=12),
    scheduled_cooldown: timedelta | None = timedelta(days=7),
    failed_cooldown: timedelta | None = timedelta(days=14),
    not_found_cooldown: timedelta | None = timedelta(days=31),
    tablesample: float | None = None,
) -> list[ListedOrigin]:
    """Take up to ``count`` origins in the policy's order and mark their visits as scheduled.

    They stay locked until the caller's transaction ends; no other grab waits for them or gets them. A transaction
    that grabs for several visit types takes them in order of their names: their queue positions are locked too.
    """
    if policy not in POLICIES:
        raise UnknownPolicy(policy=shown(policy), known=", ".join(POLICIES))
    binds: dict[str, Any] = {
        "visit_type": validate.name("visit_type", visit_type),
        "count": validate.integer("count", count, least=0),
        "enabled": validate.boolean("enabled", enabled),
        "tablesample": None if tablesample is None else validate.percentage("tablesample", tablesample),
    }
    cooldowns = {
        "absolute": absolute_cooldown,
        "scheduled": scheduled_cooldown,
        "failed": failed_cooldown,
        "not_found": not_found_cooldown,
    }
    for name, cooldown in cooldowns.items():
        if cooldown is not None:
            validate.duration(f"{name}_cooldown", cooldown)
    now = conn.execute(_sql.now).scalar_one() if timestamp is None else validate.timestamp("timestamp", timestamp)
    binds |= {f"{name}_before": _before(now, cooldown) for name, cooldown in cooldowns.items()}
    binds |= _lister_binds(conn, policy, lister_uuid, lister_name, lister_instance_name)
    if not count or binds["listers"] == []:
        return []
    return _grab(conn, policy, binds, now)


def _grab(conn: Connection, policy: str, binds: dict[str, Any], now: datetime) -> list[ListedOrigin]:
    of_listers = policy == "oldest_scheduled_first" and binds["listers"] is not None
    statement: TextClause = _sql.oldest_scheduled_first_of_listers if of_listers else getattr(_sql, policy)
    if binds["listers"] is None:
        before = conn.execute(_sql.forbid_sorting).one().before
        rows = conn.execute(statement, binds).mappings().all()
        conn.execute(_sql.restore_sorting, {"before": before})
    else:  # what a small lister lists is best read whole, and sorted
        rows = conn.execute(statement, binds).mappings().all()
    visit_type = binds["visit_type"]
    if rows:
        urls = list(dict.fromkeys(row["url"] for row in rows))
        conn.execute(_sql.mark_scheduled, {"visit_type": visit_type, "urls": urls, "now": now})
    if policy == "origins_without_last_update":
        position = max((row["queue_position"] for row in rows if row["queue_position"] is not None), default=0)
        conn.execute(_sql.raise_queue_position, {"visit_type": visit_type, "position": position})
    return [listed_origin(row) for row in rows]


def _before(now: datetime, cooldown: timedelta | None) -> datetime | str:
    if cooldown is None:
        return OFF
    try:
        return now - cooldown
    except OverflowError:
        return NEVER


def _lister_binds(
    conn: Connection, policy: str, lister_uuid: UUID | str | None, name: str | None, instance_name: str | None
) -> dict[str, Any]:
    one = policy == "first_visits_after_listing"
    if lister_uuid is None and name is None and instance_name is None:
        if one:
            validate.refuse("lister_uuid", f"policy {policy} needs a lister, by its id or by its names", lister_uuid)
        return {"listers": None}
    found = listers.find(conn, lister_uuid, name, instance_name)
    ids = [str(lister["id"]) for lister in found]
    if not one:
        return {"listers": ids}
    if len(found) > 1:
        validate.refuse("lister_name", f"policy {policy} needs one lister, but {len(found)} match", name)
    finished = found[0]["last_listing_finished_at"] if found else None
    return {"listers": ids, "finished": finished or NEVER}
