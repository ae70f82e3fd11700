"""What PostgreSQL does for the statements that a function of the backend executes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import sqlalchemy
from sqlalchemy import Connection, Engine


@attrs.define
class Plan:
    """The plan of one statement, as it was executed."""

    statement: str
    nodes: list[dict[str, Any]]

    def rows_read(self, table: str) -> int:
        """Rows that scans of the table looked at, those that a filter threw away included."""
        return sum(
            round((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
            for node in self.nodes
            if node.get("Relation Name") == table and "Scan" in node["Node Type"]
        )

    def indexes(self) -> set[str]:
        return {node["Index Name"] for node in self.nodes if "Index Name" in node}

    def kinds(self) -> set[str]:
        return {node["Node Type"] for node in self.nodes}

    def whole_tables(self) -> set[str]:
        """Tables that were read from end to end."""
        return {node["Relation Name"] for node in self.nodes if node["Node Type"] == "Seq Scan"}


def explained(engine: Engine, work: Callable[[Connection], Any]) -> list[Plan]:
    """The plans of the statements of ``work``, executed for it in a transaction that is rolled back."""
    with engine.connect() as conn, _captured(engine) as statements:
        work(conn)
        conn.rollback()
    with engine.connect() as conn:
        plans = [_explain(conn, statement, binds) for statement, binds in statements]
        conn.rollback()
    return plans


@contextmanager
def _captured(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    statements: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, binds: Any, _context: Any, _many: bool) -> None:
        statements.append((statement, binds))

    sqlalchemy.event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sqlalchemy.event.remove(engine, "before_cursor_execute", note)


def _explain(conn: Connection, statement: str, binds: Any) -> Plan:
    # psycopg2 takes the percent sign of a statement with binds for a bind: the statement was written for it already.
    answer = conn.exec_driver_sql("explain (analyze, format json) " + statement, binds).scalar_one()
    return Plan(statement, list(_nodes(answer[0]["Plan"])))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)
