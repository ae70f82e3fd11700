"""Named statements of ``sql/queries``, read once when first used.

``Queries("tasks/tasks").peek_ready`` follows ``-- name: peek_ready`` in ``tasks/tasks.sql``, as
a SQLAlchemy ``text`` with named binds.
"""

from __future__ import annotations

import re
from functools import cache, cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from sqlalchemy import TextClause, text

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def sql_folder() -> Traversable:
    """The folder ``sql``: inside the installed package, else beside it in a checkout."""
    packaged = files("swh_sched_runner") / "sql"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "sql"


@cache
def read(kind: str, name: str) -> str:
    """The text of ``sql/<kind>/<name>``."""
    return (sql_folder() / kind / name).read_text(encoding="utf-8")


class Queries:
    """The statements of one file of ``sql/queries``, as attributes."""

    def __init__(self, concern: str) -> None:
        self._concern = concern

    @cached_property
    def statements(self) -> dict[str, TextClause]:
        """All statements of the file by name; the comment that says the purpose goes along."""
        _, *parts = _NAME.split(read("queries", f"{self._concern}.sql"))
        return {name: text(body.strip()) for name, body in zip(parts[::2], parts[1::2], strict=True)}

    def __getattr__(self, name: str) -> TextClause:
        try:
            return self.statements[name]
        except KeyError:
            raise AttributeError(f"sql/queries/{self._concern}.sql has no statement {name!r}") from None
