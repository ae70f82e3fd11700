"""The page ``docs/reference/tables.md``, made of ``sql/schema.sql``. ``python -m tools.tables`` writes it anew."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.support.sources import CHECKOUT

FILE = CHECKOUT / "docs" / "reference" / "tables.md"
SCHEMA = CHECKOUT / "sql" / "schema.sql"
HEAD = """\
# Tables

<!-- Made of sql/schema.sql by `make reference`; a test compares. -->

All are in the schema `public`; this is the newest version (`db upgrade`). Indexes and constraints are in
[`sql/schema.sql`](../../sql/schema.sql). Change tasks and their types by [commands](cli.md) or [Python](backend.md):
rows that others write can be [misread](../how-to/adopt.md#rows-written-by-others).
"""
COLUMN = re.compile(r'^    "?([a-z0-9_]+)"? (.+?)(?: GENERATED .*?| DEFAULT .*?)?( NOT NULL)?$')


def draw() -> str:
    """The page as it should be."""
    schema = SCHEMA.read_text(encoding="utf-8")
    said = {(kind, name): text.replace("''", "'") for kind, name, text in comments(schema)}
    return "\n".join([HEAD, *_tables(schema, said), *_views(said), *_types(schema, said)])


def comments(schema: str) -> list[tuple[str, str, str]]:
    """What is said of a table, a view, a type or a column: kind, name and text."""
    comment = r"^COMMENT ON (TABLE|VIEW|TYPE|COLUMN) (\S+) IS '((?:[^']|'')*)';$"
    return [(kind, name.replace('"', ""), text) for kind, name, text in re.findall(comment, schema, re.MULTILINE)]


def _tables(schema: str, said: dict[tuple[str, str], str]) -> Iterator[str]:
    for table, body in sorted(re.findall(r"^CREATE TABLE (\w+) \(\n(.*?)^\)", schema, re.MULTILINE | re.DOTALL)):
        if ("TABLE", table) not in said:  # Alembic's own
            continue
        yield f"## {table}\n\n{said['TABLE', table]}.\n"
        yield "| column | type | |\n|---|---|---|"
        for line in body.splitlines():
            if column := COLUMN.fullmatch(line.rstrip(",")):
                name, null = column[1], "" if column[3] else ", or null"
                kind = column[2].replace("timestamp with time zone", "timestamptz") + null
                yield f"| `{name}` | {kind} | {_cell(said.get(('COLUMN', f'{table}.{name}'), ''))} |"
        yield ""


def _views(said: dict[tuple[str, str], str]) -> Iterator[str]:
    for view in sorted(name for kind, name in said if kind == "VIEW"):
        yield f"## {view}\n\nA view. {said['VIEW', view]}.\n\n| column | |\n|---|---|"
        yield from (
            f"| `{name[len(view) + 1 :]}` | {_cell(text)} |"
            for (_, name), text in said.items()
            if name.startswith(f"{view}.")
        )
        yield ""


def _types(schema: str, said: dict[tuple[str, str], str]) -> Iterator[str]:
    yield "## Types\n\n| type | values | |\n|---|---|---|"
    for name, body in sorted(re.findall(r"^CREATE TYPE (\w+) AS ENUM \((.*?)\);", schema, re.MULTILINE | re.DOTALL)):
        values = ", ".join(f"`{value}`" for value in re.findall(r"'([^']+)'", body))
        yield f"| `{name}` | {values} | {_cell(said['TYPE', name])} |"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    FILE.write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
