"""Deletes ended runs that are older than their type keeps them, page by page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import attrs
from sqlalchemy import Connection

from swh_sched_runner.backend import validate
from swh_sched_runner.db.engine import Database
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import UnknownTaskType

_sql = Queries("tasks/retention")
_types = Queries("tasks/types")


@attrs.define(slots=True, frozen=True)
class PruneRule:
    """Which runs are pruned: of one type or all, by what each type keeps or all that ended ``older_than`` ago.

    With ``dry_run`` they are counted and stay.
    """

    task_type: str | None = None
    older_than: timedelta | None = None
    dry_run: bool = False


@attrs.define(slots=True, frozen=True)
class PrunedPage:
    """What became of a page of runs. ``last`` is its last id, None when nothing is left to look at.

    ``pruned`` says how many runs of each type were deleted, or would be.
    """

    last: int | None
    pruned: Mapping[str, int]


class Retention:
    """Prunes runs; shares the pool of its ``Database``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def require(self, rule: PruneRule) -> None:
        """Raise ``UnknownTaskType`` or ``InvalidArgument`` for a rule that can't be followed."""
        if rule.older_than is not None:
            validate.interval("older_than", rule.older_than)
        if rule.task_type is not None and not self._db.read(_is_known, validate.text("task_type", rule.task_type)):
            raise UnknownTaskType(value=rule.task_type)

    def prune_page(self, rule: PruneRule, after: int, rows: int, now: datetime | None = None) -> PrunedPage:
        """Prune among the next ``rows`` runs in order of id, in one transaction."""
        return self._db.run(prune_page, rule, after, rows, now)


def prune_page(conn: Connection, rule: PruneRule, after: int, rows: int, now: datetime | None = None) -> PrunedPage:
    """The same on a connection."""
    binds = {
        "task_type": rule.task_type,
        "older_than": rule.older_than,
        "dry_run": rule.dry_run,
        "after": after,
        "rows": rows,
        "now": now,
    }
    found = conn.execute(_sql.prune_page, binds).one()
    return PrunedPage(None if found.reached else found.last, found.pruned)


def _is_known(conn: Connection, task_type: str) -> bool:
    return conn.execute(_types.get_task_types, {"names": [task_type]}).first() is not None
