"""The statements of the migrations one by one, in a form that may be repeated on tables that are in use.

What the program needs is written once, in ``sql/migrations``; adoption executes the same text with these changes: an
index is built concurrently, a column is added unless it is there, a function or a view may be replaced. What a later
migration drops isn't built, what it renames gets its last name at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

from swh_sched_runner.db.queries import read, sql_folder

# Migrations whose statements on rows are done elsewhere, in batches, and how many of them there are (steps.origins).
ROWS_DONE_IN_BATCHES = {"0004_visit_indexes.sql": 2}

_PART = re.compile(r"--[^\n]*|('(?:[^']|'')*'|\$\$.*?\$\$)|(;)|([^-';$]+|-)", re.DOTALL)
_COLUMN = re.compile(r"\badd column (?:if not exists )?(\w+)")
_KINDS = {
    "enum": r"create type (?P<name>\w+) as enum",
    "table": r"create table (?P<table>\w+)",
    "no index": r"drop index ",
    "index": r"create (unique )?index (?P<name>\w+)\s+on (?P<table>\w+)",
    "columns": r"alter table (?P<table>\w+)\s+add column",
    "storage": r"alter table (?P<table>\w+) set \(",
    "rule": r"(create|comment on) (function|view) (?P<name>\w+)",
    "comment": r"comment on (column (?P<table>\w+)\.)?",
    "renamed": r"alter (table|index|sequence) ((?P<table>\w+) rename (column|constraint) )?(?P<name>\w+)( rename)? to ",
    "check": r"do \$\$",
    "rows": r"(insert into|update) ",
}


@attrs.frozen
class Statement:
    """One statement of a migration: its file, what it does (a key of ``_KINDS``), and to what."""

    file: str
    kind: str
    table: str
    name: str
    text: str

    @property
    def columns(self) -> list[str]:
        """The columns that it adds."""
        return _COLUMN.findall(self.text)

    @property
    def repeatable(self) -> str:
        """The statement as adoption executes it."""
        if self.kind == "index":
            return re.sub(r"^create (unique )?index ", r"create \1index concurrently ", self.text)
        if self.kind == "rule":
            return re.sub(r"^create (?=function|view)", "create or replace ", self.text)
        return re.sub(r"\badd column (?!if not exists)", "add column if not exists ", self.text)


def files() -> list[str]:
    """The names of the migrations, in order."""
    return sorted(file.name for file in (sql_folder() / "migrations").iterdir() if file.name.endswith(".sql"))


def statements() -> list[Statement]:
    """The statements of all migrations, in order. Raises ``ValueError`` for one whose kind adoption doesn't know.

    Left out are those that rename something, and checks of who uses a database of ours.
    """
    found: list[Statement] = []
    for statement in _all():
        if statement.kind == "renamed":
            found = [_renamed(before, statement) for before in found]
        elif statement.kind != "check":
            found.append(statement)
    return found


def without_rules(file: str) -> list[str]:
    """The statements of a migration as written, but for functions and views.

    In the temporary schema, where adoption executes them, PostgreSQL looks up no function.
    """
    return [statement.text for statement in _all() if statement.file == file and statement.kind != "rule"]


def _all() -> Iterator[Statement]:
    views: set[str] = set()
    for file in files():
        for text in _split(read("migrations", file)):
            statement = _classify(file, text)
            if text.startswith("create view "):
                views.add(statement.name)
            # What is said of a view's column goes with the view.
            yield attrs.evolve(statement, kind="rule") if statement.table in views else statement


def _renamed(before: Statement, by: Statement) -> Statement:
    """A statement with the name that a later one gives: of a column where it is about that table, else everywhere."""
    if by.table and by.table not in re.findall(r"\w+", before.text):
        return before
    text = re.sub(rf"\b{by.name}\b", by.text.rsplit(maxsplit=1)[-1], before.text)
    return _classify(before.file, text)


def _split(script: str) -> Iterator[str]:
    text = ""
    for literal, end, other in _PART.findall(script):
        if end:
            yield text.strip()
            text = ""
        text += literal + other
    assert not text.strip(), "a migration ends with a semicolon"


def _classify(file: str, text: str) -> Statement:
    for kind, pattern in _KINDS.items():
        if found := re.match(pattern, text):
            groups = found.groupdict()
            return Statement(file, kind, groups.get("table", ""), groups.get("name", ""), text)
    raise ValueError(f"adoption does not know what this statement of {file} does: {text[:80]}")
