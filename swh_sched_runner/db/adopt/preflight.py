"""What is found in a scheduler's database before it is changed: what forbids adoption, and what one should know."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, cast

import attrs
from sqlalchemy import Connection

from swh_sched_runner.db.adopt import migrations
from swh_sched_runner.db.adopt.catalogue import Expected, Picture
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import AdoptionRefused

OLDEST, NEWEST = 33, 38
EXAMPLES = 5
DUPLICATES_NAMED = 20
# Written whenever a task is grabbed, a run starts or ends, an origin is listed or visited.
BUSY_COLUMNS = {
    "task": {"next_run", "current_interval", "status", "retries_left", "run_id"},
    "task_run": {"started", "ended", "metadata", "status", "evidence"},
    "listed_origins": {"last_seen", "last_update", "enabled"},
    "origin_visit_stats": {
        "last_successful",
        "last_visit",
        "last_visit_status",
        "last_scheduled",
        "last_snapshot",
        "next_visit_queue_position",
        "next_position_offset",
        "successive_visits",
    },
}

_sql = Queries("db/adopt")


@attrs.frozen
class Finding:
    """Something to know: how many rows, a few of them, and what becomes of them, unless it ``forbids`` to go on.

    ``examples`` are of ``kinds``, which are as many as the rows by default.
    """

    what: str
    rows: int
    examples: list[str]
    then: str
    forbids: bool = False
    kinds: int | None = None

    def __str__(self) -> str:
        more = ", …" if len(self.examples) < (self.rows if self.kinds is None else self.kinds) else ""
        named = f" ({', '.join(self.examples)}{more})" if self.examples else ""
        return f"{self.what}: {self.rows:,}{named}; {self.then}"


def version(conn: Connection) -> int:
    """The version of the scheduler that made the database; raises ``AdoptionRefused`` unless it can be adopted."""
    kept = conn.execute(_sql.scheduler_version_is_kept).scalar_one()
    found: int | None = conn.execute(_sql.scheduler_version).scalar_one() if kept else None
    if found is None:
        raise AdoptionRefused(
            reason="it is not a scheduler's database: it has no version in a table dbversion (for an empty database "
            "use `swh-sched-runner db init`)"
        )
    if not OLDEST <= found <= NEWEST:
        advice = "upgrade it with the scheduler that made it first" if found < OLDEST else "a newer release is needed"
        raise AdoptionRefused(
            reason=f"it is a scheduler's database at version {found}, supported are {OLDEST} to {NEWEST}: {advice}"
        )
    return found


def refuse_pooler(conn: Connection) -> None:
    """Raise ``AdoptionRefused`` unless the session is one of PostgreSQL's own: its lock and settings would be lost."""
    driver = cast(Any, conn.connection.dbapi_connection)
    if driver.info.backend_pid != conn.execute(_sql.backend_pid).scalar_one():
        raise AdoptionRefused(
            reason="database.url leads through a connection pooler, and adoption needs a session of its own: "
            "name PostgreSQL itself"
        )


def refuse_without_rights(conn: Connection) -> None:
    """Raise ``AdoptionRefused`` where this session may not make tables, or the schema of views."""
    rights = conn.execute(_sql.rights).mappings().one()
    role, problems = rights["role"], []
    if rights["read_only"]:
        problems.append("it is read-only (a standby, or default_transaction_read_only)")
    if not rights["may_create"]:
        problems.append(f"role {role} may not create tables in schema {rights['schema']}")
    if not rights["may_have_temporary"]:
        problems.append(f"role {role} may not create temporary tables in database {rights['database']}")
    if not rights["may_have_compat"]:
        problems.append(f"role {role} may not create the schema swh_scheduler_compat in database {rights['database']}")
    if problems:
        raise AdoptionRefused(reason="; ".join(problems))


def refuse_misfits(seen: Picture, expected: Expected) -> None:
    """Raise ``AdoptionRefused`` with all that is missing, different, or not this role's."""
    problems = [*_tables(seen, expected), *_columns(seen, expected), *_enums(seen, expected)]
    if problems:
        raise AdoptionRefused(reason="; ".join(problems))


def _tables(seen: Picture, expected: Expected) -> Iterator[str]:
    for name in expected.found.tables.keys() - seen.tables.keys():
        yield f"table {name} is missing"
    for name, table in sorted(seen.tables.items()):
        if table.relkind != "r":
            yield f"{name} is not an ordinary table"
        if not table.owned:
            yield f"table {name} belongs to another role, only its owner may change it"
        if not table.here:
            yield f"table {name} is in schema {table.schema}, not in public"
        if (key := seen.primary_key(name)) != (wanted := expected.wanted.primary_key(name)):
            yield f"the primary key of {name} is ({', '.join(key)}) instead of ({', '.join(wanted)})"


def _columns(seen: Picture, expected: Expected) -> Iterator[str]:
    added = {(s.table, name) for s in migrations.statements() if s.kind == "columns" for name in s.columns}
    for (table, name), column in expected.wanted.columns.items():
        there = seen.columns.get((table, name))
        ours = table not in expected.found.tables
        if there is None:
            # A table of ours may be half made: an adoption that was interrupted is gone on with.
            made_whole = ours and (table, name) not in added
            if table in seen.tables and (made_whole or (table, name) in expected.found.columns):
                yield f"column {table}.{name} is missing"
        elif there.type != column.type:
            yield f"column {table}.{name} is {there.type} instead of {column.type}"
        elif (column.default_value or "").startswith("nextval") and there.default_value != column.default_value:
            yield f"column {table}.{name} is not filled by {column.default_value}"
    for (table, name), there in seen.columns.items():
        strange = (table, name) not in expected.wanted.columns
        if strange and there.required and there.default_value is None and not there.given:
            yield f"column {table}.{name} does not belong to the scheduler, and no row can be written without it"


def _enums(seen: Picture, expected: Expected) -> Iterator[str]:
    for name, enum in expected.found.enums.items():
        there = seen.enums.get(name)
        if there is None:
            yield f"enum {name} is missing"
            continue
        # Tasks are sorted by their priority; of the others the order says nothing.
        ordered = list if name == "task_priority" else sorted
        if ordered(there.labels) != ordered(enum.labels):
            yield f"enum {name} has {', '.join(there.labels)} instead of {', '.join(enum.labels)}"


def findings(conn: Connection, seen: Picture, expected: Expected, *, rename_duplicates: bool) -> list[Finding]:
    """What one should know of the rows, the indexes and the sessions here. Reads task and task_run from end to end."""
    known = [
        *_duplicates(conn, rename_duplicates),
        *_runs(conn),
        _finding(
            conn.execute(_sql.shrinking_types).mappings().one(),
            "task types with a backoff_factor of 0 or less",
            "it counts as 1, their intervals stay as they are",
        ),
        *_indexes(seen, expected),
        _sessions(conn),
    ]
    return [finding for finding in known if finding.rows]


def refusal(known: list[Finding]) -> AdoptionRefused | None:
    """Why one must not go on, if so."""
    reasons = [str(finding) for finding in known if finding.forbids]
    return AdoptionRefused(reason="; ".join(reasons)) if reasons else None


def _finding(row: Any, what: str, then: str) -> Finding:
    return Finding(what, row["rows"], list(row["examples"]), then)


def _duplicates(conn: Connection, rename_duplicates: bool) -> Iterator[Finding]:
    ids = conn.execute(_sql.duplicate_backend_ids, {"examples": DUPLICATES_NAMED}).mappings().one()
    if rename_duplicates:
        then = "the newest run keeps the id, the number of the run is appended to the others"
    else:
        then = "resolve that first, or use --rename-duplicates: the newest run keeps the id, the others are renamed"
    what = f"runs whose backend_id a newer run has, of {ids['ids']:,} ids"
    yield Finding(what, ids["rows"], list(ids["examples"]), then, not rename_duplicates, ids["ids"])
    yield _finding(
        conn.execute(_sql.duplicate_tasks, {"examples": EXAMPLES}).mappings().one(),
        "duplicates of an older task",
        "they stay, and create_tasks returns the oldest",
    )


def _runs(conn: Connection) -> Iterator[Finding]:
    runs = conn.execute(_sql.open_runs).mappings().one()
    yield Finding("open runs", runs["open"], [], "the end of its newest one decides what happens to a task in flight")
    yield Finding(
        "open runs without a backend_id", runs["unreachable"], [], "they stay open, because no event can end them"
    )
    yield Finding(
        "runs whose status says that they ended, without an end time",
        runs["endless"],
        [],
        "they stay, and change no task",
    )
    yield _finding(
        conn.execute(_sql.stuck_tasks, {"examples": EXAMPLES}).mappings().one(),
        "tasks in flight without a run that an event could end",
        "they stay in flight until you set their status",
    )


def _indexes(seen: Picture, expected: Expected) -> Iterator[Finding]:
    strange = [
        index
        for name, index in seen.indexes.items()
        if not index.is_primary
        and ((ours := expected.wanted.indexes.get(name)) is None or ours.definition != index.definition)
    ]
    busy = [index.name for index in strange if BUSY_COLUMNS.get(index.table, set()).intersection(index.columns)]
    idle = [index.name for index in strange if index.name not in busy]
    yield Finding(
        "indexes of other tools that each grab, end or visit has to update",
        len(busy),
        busy,
        "they stay and slow writes down; drop what no tool needs",
    )
    yield Finding("indexes of other tools that only new rows have to update", len(idle), idle, "they stay")


def _sessions(conn: Connection) -> Finding:
    others = conn.execute(_sql.other_sessions).mappings().one()
    oldest: datetime | None = others["oldest"]
    wait = f"; index builds wait for the transaction that is open since {oldest:%Y-%m-%d %H:%M:%S}" if oldest else ""
    names = list(others["names"])
    return Finding("other sessions", others["sessions"], names, f"stop those that write{wait}", kinds=len(names))
