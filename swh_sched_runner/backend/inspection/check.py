"""Rows written by others that this program would misread: counted, repaired, and looked for in a sample.

Others are SQL, and the program that had an adopted database before. ``KINDS`` has each kind of such rows.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import attrs
from sqlalchemy import Connection, Row, TextClause

from swh_sched_runner.backend.columns import column
from swh_sched_runner.backend.origins import stats
from swh_sched_runner.backend.tasks import runs
from swh_sched_runner.backend.wake import hold_off, wake
from swh_sched_runner.db.engine import Database
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.model import Evidence

EXAMPLES = 5
PAGES_AT_ONCE = 128  # 1 MB: 5,000 origins, or 10,000 runs
TASKS_AT_ONCE = 1_000
# A sample: the last pages of each table, where new rows go; some others; and some tasks in flight.
LAST_PAGES, RANDOM_PAGES, TASKS_IN_FLIGHT = 20, 10, 1_000
# How long a task in flight must have had no run: a caller of grab_ready_tasks opens it shortly.
GRACE_PERIOD = timedelta(seconds=30)

_sql = Queries("inspection/check")
_visits = Queries("origins/policies")


@attrs.frozen
class Kind:
    """What such rows are, and what a repair did to them."""

    what: str
    then: str


KINDS = {
    "origin_without_statistics": Kind(
        "listed origins without a row of statistics, so no policy chooses them", "the row was added"
    ),
    "origin_outdated": Kind(
        "listed origins that differ from their statistics, so policies choose them wrongly", "they were updated"
    ),
    "statistics_hidden": Kind("statistics that the API hides, as if the origin were never visited", "it shows them"),
    "run_without_timestamp": Kind(
        "runs whose status says that they ended, without an end time", "it was set to their start, or their scheduling"
    ),
    "run_without_outcome": Kind(
        "runs with an end time, whose status says that they are open", "they are lost, unless a result corrects that"
    ),
    "run_unreachable": Kind("open runs without a backend_id, so no event can end them", "they are lost"),
    "task_decided": Kind(
        "tasks that are not in flight, but an open run would change them", "the run no longer changes them"
    ),
    "task_unfollowed": Kind("tasks in flight that the end of their open run would not change", "it now will"),
    "task_unmoved": Kind("tasks in flight whose run has ended", "its end was applied to them"),
    "task_stuck": Kind("tasks in flight without a run", "they can be dispatched again"),
}


@attrs.frozen
class Found:
    """Rows of one kind, a few of them by name, and how many were repaired (``mended``; None without a repair)."""

    kind: str
    what: str
    then: str
    rows: int
    examples: list[str]
    mended: int | None


def check(
    database: Database,
    *,
    repair: bool = False,
    grace_period: timedelta = GRACE_PERIOD,
    pause: Callable[[float], None] = time.sleep,
) -> list[Found]:
    """Check all rows; with ``repair``, repair what is found, in small transactions. Returns the kinds that were found.

    Reads all origins, statistics and runs, a megabyte at a time. A task in flight without a run is released only if its
    row has not changed during ``grace_period``. A repair is idempotent, so it may be stopped at any time.
    """
    return _Check(database, repair, grace_period, pause).all()


def sample(conn: Connection) -> dict[str, int]:
    """How many rows of each kind are found in a sample, whose size is the same for any number of rows."""
    found: Counter[str] = Counter()
    for table, statement in (("listed_origins", _sql.origins), ("origin_visit_stats", _sql.statistics)):
        for span in _sampled(_pages(conn, table)):
            found.update(row.kind for row in _read(conn, statement, span))
    for span in _sampled(_pages(conn, "task_run")):
        found.update(row.kind for row in _read(conn, _sql.runs, span | {"ids": None}))
    found.update(row.kind for row in conn.execute(_sql.tasks, {"ids": None, "limit": TASKS_IN_FLIGHT}))
    return dict(found)


class _Check:
    """One look at everything; what it finds is counted here."""

    def __init__(
        self, database: Database, repair: bool, grace_period: timedelta, pause: Callable[[float], None]
    ) -> None:
        self._database = database
        self._repair = repair
        self._grace_seconds = grace_period.total_seconds()
        self._pause = pause
        self._rows: Counter[str] = Counter()
        self._mended: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {kind: [] for kind in KINDS}

    def all(self) -> list[Found]:
        """Runs before tasks, which follow them; statistics before origins, which show them."""
        self._walk("task_run", _sql.runs, _repair_runs, {"ids": None})
        stuck, seen = self._tasks(), time.monotonic()
        self._walk("origin_visit_stats", _sql.statistics, _repair_statistics)
        self._walk("listed_origins", _sql.origins, _repair_origins)
        if self._repair and stuck:
            self._pause(max(0.0, seen + self._grace_seconds - time.monotonic()))
            for some in _batches(list(stuck)):
                self._mended.update(self._database.run(_release, {task: stuck[task] for task in some}))
        return [
            Found(
                kind,
                told.what,
                told.then,
                self._rows[kind],
                self._examples[kind],
                self._mended[kind] if self._repair else None,
            )
            for kind, told in KINDS.items()
            if self._rows[kind]
        ]

    def _walk(
        self,
        table: str,
        statement: TextClause,
        repair: Callable[[Connection, Sequence[Row[Any]]], Counter[str]],
        more: dict[str, Any] | None = None,
    ) -> None:
        pages = self._database.read(_pages, table)
        for first in range(0, pages, PAGES_AT_ONCE):
            span = _span(first, first + PAGES_AT_ONCE) | (more or {})
            rows = self._database.read(_read, statement, span)
            self._count(rows, repair)

    def _tasks(self) -> dict[int, str]:
        """Look at what is in flight. Answers the tasks without a run, and which version of their row was seen."""
        rows = self._database.read(_read, _sql.tasks, {"ids": None, "limit": None})
        for some in _batches(rows):
            self._count(some, _repair_tasks)
        return {row.id: row.version for row in rows if row.kind == "task_stuck"}

    def _count(
        self, rows: Sequence[Row[Any]], repair: Callable[[Connection, Sequence[Row[Any]]], Counter[str]]
    ) -> None:
        for row in rows:
            self._rows[row.kind] += 1
            if len(self._examples[row.kind]) < EXAMPLES:
                self._examples[row.kind].append(_name(row))
        if self._repair and rows:
            self._mended.update(self._database.run(repair, rows))


def _name(row: Row[Any]) -> str:
    if hasattr(row, "url"):
        return f"{row.visit_type} {row.url}"
    return str(row.task if row.kind == "task_decided" else row.id)


def _pages(conn: Connection, table: str) -> int:
    pages: int = conn.execute(_sql.pages, {"table": table}).scalar_one()
    return pages


def _read(conn: Connection, statement: TextClause, binds: dict[str, Any]) -> Sequence[Row[Any]]:
    return conn.execute(statement, binds).all()


def _span(first: int, last: int) -> dict[str, Any]:
    return {"first": f"({first},0)", "last": f"({last},0)"}


def _sampled(pages: int) -> Iterator[dict[str, Any]]:
    """The spans of pages that a sample reads, none twice."""
    rest = max(0, pages - LAST_PAGES)
    yield _span(rest, pages)
    for page in random.sample(range(rest), min(RANDOM_PAGES, rest)):
        yield _span(page, page + 1)


def _batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(rows), TASKS_AT_ONCE):
        yield rows[first : first + TASKS_AT_ONCE]


def _repair_runs(conn: Connection, rows: Sequence[Row[Any]]) -> Counter[str]:
    conn.execute(_sql.lock_tasks, {"ids": sorted({row.task for row in rows})})
    ids = [row.id for row in rows]
    still = conn.execute(_sql.runs, {"ids": ids, "first": None, "last": None}).all()
    closing = [row.id for row in still if row.kind != "task_decided"]
    if closing:
        conn.execute(_sql.close_runs, {"ids": closing})
    decided = [row.task for row in still if row.kind == "task_decided"]
    if decided:
        conn.execute(_sql.leave_runs, {"ids": decided})
    return Counter(row.kind for row in still)


def _repair_tasks(conn: Connection, rows: Sequence[Row[Any]]) -> Counter[str]:
    """Those that have a run: they follow it, and it moves them if it has ended."""
    hold_off(conn)
    still = [row for row in _look_again(conn, [row.id for row in rows]) if row.kind != "task_stuck"]
    if not still:
        return Counter()
    conn.execute(_sql.follow_runs, {"ids": [row.id for row in still], "runs": [row.run for row in still]})
    ended = [row for row in still if row.kind == "task_unmoved"]
    if ended:
        conn.execute(_sql.reopen_runs, {"runs": [row.run for row in ended]})
        runs.record(conn, [_end(row) for row in ended])
        wake(conn)
    return Counter(row.kind for row in still)


def _end(row: Row[Any]) -> runs.RunChange:
    evidence = Evidence.RESULT if row.evidence is None else Evidence(row.evidence)
    return runs.RunChange(row.backend_id, status=row.status, ended=row.ended, evidence=evidence)


def _release(conn: Connection, versions: dict[int, str]) -> Counter[str]:
    """Tasks that had no run and whose rows nobody has written since."""
    hold_off(conn)
    still = [
        row.id
        for row in _look_again(conn, list(versions))
        if row.kind == "task_stuck" and row.version == versions[row.id]
    ]
    if still:
        conn.execute(_sql.release_tasks, {"ids": still})
        wake(conn)
    return Counter({"task_stuck": len(still)})


def _look_again(conn: Connection, ids: Iterable[int]) -> Sequence[Row[Any]]:
    """The same tasks, locked now."""
    wanted = sorted(ids)
    conn.execute(_sql.lock_tasks, {"ids": wanted})
    return conn.execute(_sql.tasks, {"ids": wanted, "limit": None}).all()


def _repair_statistics(conn: Connection, rows: Sequence[Row[Any]]) -> Counter[str]:
    conn.execute(_sql.show_statistics, _hold(conn, rows))
    return Counter(row.kind for row in rows)


def _repair_origins(conn: Connection, rows: Sequence[Row[Any]]) -> Counter[str]:
    conn.execute(_visits.mirror_stats, _hold(conn, rows))
    return Counter(row.kind for row in rows)


def _hold(conn: Connection, rows: Sequence[Row[Any]]) -> dict[str, Any]:
    """Lock the statistics of these origins, made where missing; answers their keys."""
    urls, visit_types = [row.url for row in rows], [row.visit_type for row in rows]
    stats.hold(conn, urls, visit_types)
    return {"urls": column(urls), "visit_types": column(visit_types)}
