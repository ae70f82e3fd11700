"""What PostgreSQL's catalogues say of the scheduler's tables, and what they should say."""

from __future__ import annotations

import attrs
from sqlalchemy import Connection

from swh_sched_runner.db.adopt import migrations
from swh_sched_runner.db.queries import Queries

# The migrations that make the tables of the scheduler as they were at version 33; what follows is ours.
OF_THE_SCHEDULER = ("0001_tasks.sql", "0002_visits.sql")

_sql = Queries("db/adopt")


@attrs.frozen
class Table:
    name: str
    relkind: str
    schema: str
    here: bool
    owned: bool
    options: list[str]
    comment: str | None
    rows: int
    bytes: int


@attrs.frozen
class Column:
    table: str
    name: str
    type: str
    required: bool
    default_value: str | None
    given: bool
    comment: str | None


@attrs.frozen
class Constraint:
    table: str
    name: str
    kind: str
    definition: str
    columns: list[str]
    target: str | None
    valid: bool

    @property
    def meaning(self) -> tuple[object, ...]:
        """Equal for constraints that demand the same, whatever their names."""
        what = self.target if self.kind == "f" else self.definition if self.kind == "c" else None
        return self.table, self.kind, what, *(self.columns if self.kind != "c" else ())


@attrs.frozen
class Index:
    table: str
    name: str
    definition: str
    valid: bool
    is_primary: bool
    bytes: int
    columns: list[str]


@attrs.frozen
class Enum:
    name: str
    labels: list[str]
    comment: str | None


@attrs.frozen
class Picture:
    """Tables, indexes and enums by name, columns by table and name."""

    tables: dict[str, Table]
    columns: dict[tuple[str, str], Column]
    constraints: list[Constraint]
    indexes: dict[str, Index]
    enums: dict[str, Enum]

    def columns_of(self, table: str) -> list[Column]:
        return [column for column in self.columns.values() if column.table == table]

    def primary_key(self, table: str) -> list[str]:
        """The columns of the primary key, in its order; none without one."""
        keys = [c.columns for c in self.constraints if c.table == table and c.kind == "p"]
        return keys[0] if keys else []

    def comments(self) -> dict[tuple[str, ...], str | None]:
        said: dict[tuple[str, ...], str | None] = {(table.name,): table.comment for table in self.tables.values()}
        said |= {key: column.comment for key, column in self.columns.items()}
        return said | {("enum", enum.name): enum.comment for enum in self.enums.values()}


def look(conn: Connection) -> Picture:
    """What stands in the database, of the tables and enums that the migrations make."""
    known = migrations.statements()
    tables = {"tables": [statement.table for statement in known if statement.kind == "table"]}
    enums = {"enums": [statement.name for statement in known if statement.kind == "enum"]}

    columns = [Column(**row) for row in conn.execute(_sql.columns, tables).mappings()]
    return Picture(
        tables={row["name"]: Table(**row) for row in conn.execute(_sql.tables, tables).mappings()},
        columns={(column.table, column.name): column for column in columns},
        constraints=[Constraint(**row) for row in conn.execute(_sql.constraints, tables).mappings()],
        indexes={row["name"]: Index(**row) for row in conn.execute(_sql.indexes, tables).mappings()},
        enums={row["name"]: Enum(**row) for row in conn.execute(_sql.enums, enums).mappings()},
    )


@attrs.frozen
class Expected:
    """The scheduler's own tables as they have to be found, and all tables as they have to be in the end."""

    found: Picture
    wanted: Picture


def expect(conn: Connection) -> Expected:
    """What the migrations make: they are executed in the temporary schema, looked at, and rolled back.

    So the expectation is written nowhere else, and is put into words by the same server as what is compared with it.
    """
    conn.rollback()
    try:
        conn.execute(_sql.use_temporary_schema)
        pictures = {}
        for file in migrations.files():
            for text in migrations.without_rules(file):
                conn.exec_driver_sql(text, execution_options={"no_parameters": True})
            if file == OF_THE_SCHEDULER[-1]:
                pictures["found"] = look(conn)
        return Expected(pictures["found"], look(conn))
    finally:
        conn.rollback()
