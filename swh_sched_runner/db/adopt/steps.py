"""The steps that convert a scheduler's database for this program; each may be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
from sqlalchemy import Connection, TextClause

from swh_sched_runner.db.adopt import compat, migrations
from swh_sched_runner.db.adopt.catalogue import Column, Expected, Index, Picture
from swh_sched_runner.db.queries import Queries

EXPRESSIONS_INDEXED = ["task", "task_run", "listed_origins", "origin_visit_stats"]
ORIGINS_AT_ONCE = 5_000
# Rows a second on 2 busy cores, all in memory: 400,000 tasks, runs and origins.
INDEXED_PER_SECOND = 800_000
ORIGINS_PER_SECOND = 30_000

BRIEFLY = "locks {} exclusively, briefly"
GENTLY = "reads and writes continue"
ROWS = "locks the rows that it changes"

_sql = Queries("db/adopt")


@attrs.frozen
class Step:
    """One step: what it does, which locks it takes, how long it takes at a guess (None: milliseconds), and how.

    ``run`` gets a connection: in one transaction; or in one after the other until it answers 0 (``batches``); or
    outside of any (``concurrently``). It answers how many rows it worked on, None where that means nothing.
    """

    title: str
    lock: str
    run: Callable[[Connection], int | None]
    seconds: float | None = None
    concurrently: bool = False
    batches: bool = False


def of_the_schema(conn: Connection, seen: Picture, expected: Expected) -> list[Step]:
    """What the tables lack, indexes excepted: nothing, once they are as the migrations make them."""
    return [
        *_triggers(conn, seen),
        *_priority_ratio(conn, seen),
        *_added(seen),
        *_columns(conn, seen, expected),
        *_constraints(conn, seen, expected),
        *_storage(conn, seen, expected),
        *_comments(seen, expected),
    ]


def of_the_indexes(seen: Picture, expected: Expected) -> list[Step]:
    """The indexes that are missing, left half built, or have a stranger under their name."""
    texts = {s.name: s.repeatable for s in migrations.statements() if s.kind == "index"}
    return [
        Step(
            f"index {name} on {index.table}{_instead(seen.indexes.get(name), index)}",
            GENTLY,
            partial(_build, index, texts[name]),
            seen.tables[index.table].rows / INDEXED_PER_SECOND if index.table in seen.tables else None,
            concurrently=True,
        )
        for name, index in expected.wanted.indexes.items()
        if name in texts and not _stands(seen.indexes.get(name), index)
    ]


def of_the_rows(seen: Picture, *, rename_duplicates: bool) -> tuple[list[Step], list[Step]]:
    """What rows need before the indexes are built, and after."""
    renaming = Step(
        "leave duplicate backend_ids to the newest run",
        ROWS,
        _changed(_sql.rename_duplicate_backend_ids),
        batches=True,  # a new name may be taken as well
    )
    origins = Step(  # before the indexes, which would have to follow
        f"prepare origins for the policies, {ORIGINS_AT_ONCE:,} at a time",
        ROWS,
        _prepare_origins,
        seen.tables["listed_origins"].rows / ORIGINS_PER_SECOND,
        batches=True,
    )
    following = Step("assign tasks in flight to their newest open run", ROWS, _changed(_sql.follow_open_runs))
    analysing = Step("statistics for the planner", GENTLY, _statistics)
    return [*([renaming] if rename_duplicates else []), origins], [following, analysing]


def for_the_rules() -> Step:
    """The functions and views that our statements use, made anew in place where they stand."""
    texts = [statement.repeatable for statement in migrations.statements() if statement.kind == "rule"]
    return Step("functions and views that statements share", "locks nothing", _execute(*texts))


def for_the_old_program() -> Step:
    """What the program that had this database may go on reading through."""
    return Step(f"views for the old program, in the schema {compat.SCHEMA}", "locks nothing", _compat)


def _compat(conn: Connection) -> None:
    compat.make(conn)


def _triggers(conn: Connection, seen: Picture) -> Iterator[Step]:
    for trigger in conn.execute(_sql.triggers, {"tables": list(seen.tables)}).mappings():
        title = f"drop the trigger {trigger['name']} of {trigger['table']} (its function stays)"
        yield Step(title, BRIEFLY.format(trigger["table"]), _execute(trigger["statement"]))


def _priority_ratio(conn: Connection, seen: Picture) -> Iterator[Step]:
    for reference in seen.constraints:
        if reference.kind == "f" and reference.target == "priority_ratio":
            names = {"table": reference.table, "name": reference.name}
            yield Step(
                f"drop {reference.table}'s reference to priority_ratio (that table stays)",
                BRIEFLY.format(f"{reference.table} and priority_ratio"),
                _execute(_composed(conn, _sql.compose_unconstrained, names)),
            )


def _added(seen: Picture) -> Iterator[Step]:
    for statement in migrations.statements():
        table = statement.table
        if statement.kind == "table" and table not in seen.tables:
            yield Step(f"create the table {table}", "locks nothing", _execute(statement.text))
        elif statement.kind == "columns":
            missing = [name for name in statement.columns if (table, name) not in seen.columns]
            if missing:
                title = f"add {', '.join(missing)} to {table}"
                yield Step(title, BRIEFLY.format(table), _execute(statement.repeatable))


def _columns(conn: Connection, seen: Picture, expected: Expected) -> Iterator[Step]:
    for (table, name), wanted in expected.wanted.columns.items():
        column = seen.columns.get((table, name))
        if column is None:
            continue
        names = {"table": table, "column": name}
        if wanted.default_value is not None and wanted.default_value != column.default_value:
            composed = _composed(conn, _sql.compose_default, names | {"value": wanted.default_value})
            title = f"default of {table}.{name}: {wanted.default_value} instead of {column.default_value or 'none'}"
            yield Step(title, BRIEFLY.format(table), _execute(composed))
        yield from _emptiness(conn, column, wanted, names)


def _emptiness(conn: Connection, column: Column, wanted: Column, names: dict[str, str]) -> Iterator[Step]:
    table, name = column.table, column.name
    if wanted.required and not column.required:
        binds = names | {"name": f"{table}_{name}_required"}
        yield from _proven(table, f"{name} must have a value", _composed(conn, _sql.compose_required, binds))
    elif column.required and not wanted.required:
        composed = _composed(conn, _sql.compose_nullable, names)
        yield Step(f"{table}.{name} may be empty", BRIEFLY.format(table), _execute(composed))


def _constraints(conn: Connection, seen: Picture, expected: Expected) -> Iterator[Step]:
    there = {constraint.meaning for constraint in seen.constraints if constraint.valid}
    for constraint in expected.wanted.constraints:
        # Primary keys were compared, and tables of ours are made with their own.
        if constraint.kind != "p" and constraint.table in seen.tables and constraint.meaning not in there:
            binds = {"table": constraint.table, "name": constraint.name, "definition": constraint.definition}
            statements = _composed(conn, _sql.compose_constraint, binds)
            yield from _proven(constraint.table, constraint.definition, statements)


def _proven(table: str, what: str, statements: list[str]) -> Iterator[Step]:
    """A demand on rows, a transaction a statement: the second reads all rows and lets reads and writes go on."""
    for n, statement in enumerate(statements, 1):
        lock = GENTLY if n == 2 else BRIEFLY.format(table)
        yield Step(f"{table}: {what} ({n} of {len(statements)})", lock, _execute(statement))


def _storage(conn: Connection, seen: Picture, expected: Expected) -> Iterator[Step]:
    for name, table in expected.wanted.tables.items():
        chosen = {option.partition("=")[0] for option in seen.tables[name].options} if name in seen.tables else set()
        missing = [option for option in table.options if option.partition("=")[0] not in chosen]
        if name in seen.tables and missing:
            composed = _composed(conn, _sql.compose_storage, {"table": name, "options": missing})
            yield Step(f"{name}: {', '.join(missing)} for new pages", GENTLY, _execute(composed))


def _comments(seen: Picture, expected: Expected) -> Iterator[Step]:
    if seen.comments() != expected.wanted.comments():
        texts = [statement.text for statement in migrations.statements() if statement.kind == "comment"]
        yield Step("comments of tables and columns", GENTLY, _execute(*texts))


def _instead(index: Index | None, wanted: Index) -> str:
    if index is None:
        return ""
    if index.definition == wanted.definition:
        return " again, an interrupted build left it unfinished"
    return f" (the existing one of that name is renamed to {_other_name(index)})"


def _other_name(index: Index) -> str:
    return f"{index.name}_before_adoption"


def _stands(index: Index | None, wanted: Index) -> bool:
    return index is not None and index.valid and index.definition == wanted.definition


def _build(wanted: Index, text: str, conn: Connection) -> None:
    """Build the index. What an interrupted build left goes; a stranger under its name gets another name."""
    rows = conn.execute(_sql.indexes, {"tables": [wanted.table]}).mappings()
    there = next((Index(**row) for row in rows if row["name"] == wanted.name), None)
    if there is not None and there.definition == wanted.definition:
        if there.valid:
            return
        _execute(_composed(conn, _sql.compose_no_index, {"name": wanted.name}))(conn)
    elif there is not None:
        binds = {"name": there.name, "new_name": _other_name(there)}
        _execute(_composed(conn, _sql.compose_index_name, binds))(conn)
    _execute(text)(conn)


def _prepare_origins(conn: Connection) -> int:
    origins: int = conn.execute(_sql.prepare_origins, {"batch": ORIGINS_AT_ONCE}).scalar_one()
    return origins


def _statistics(conn: Connection) -> None:
    _execute(*_composed(conn, _sql.compose_statistics, {"tables": EXPRESSIONS_INDEXED}))(conn)


def _changed(statement: TextClause) -> Callable[[Connection], int]:
    return lambda conn: conn.execute(statement).rowcount


def _execute(*statements: str) -> Callable[[Connection], None]:
    def run(conn: Connection) -> None:
        for statement in statements:
            conn.exec_driver_sql(statement, execution_options={"no_parameters": True})

    return run


def _composed(conn: Connection, statement: TextClause, binds: dict[str, Any]) -> Any:
    return conn.execute(statement, binds).scalar_one()
