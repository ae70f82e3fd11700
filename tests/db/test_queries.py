"""Every named statement has a purpose, its binds are seen, and PostgreSQL can read it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import TextClause

from swh_sched_runner.db.queries import Queries, sql_folder

ROOT = Path(__file__).resolve().parents[2]
QUERIES = Path(str(sql_folder())).joinpath("queries")
CONCERNS = sorted(str(path.relative_to(QUERIES).with_suffix("")) for path in QUERIES.rglob("*.sql"))
STATEMENTS = [(concern, name, text) for concern in CONCERNS for name, text in Queries(concern).statements.items()]


def binds_of(statement: TextClause) -> set[str]:
    return set(statement._bindparams)


@pytest.mark.parametrize(("concern", "name", "statement"), STATEMENTS, ids=[f"{c}.{n}" for c, n, _ in STATEMENTS])
def test_a_statement_says_its_purpose_and_casts_in_a_way_that_keeps_its_binds(
    concern: str, name: str, statement: TextClause
) -> None:
    assert statement.text.startswith("-- "), "the line after the name says the purpose"
    code = re.sub(r"--[^\n]*", "", statement.text)
    assert "::" not in code
    assert set(re.findall(r"(?<![:\w]):(\w+)", code)) == binds_of(statement)
    assert not re.search(r"select\s+\*", code) or "from numbered" in code or "from input" in code or "from u" in code


def uses() -> Iterator[tuple[str, str, str]]:
    """(file, concern, statement) of every ``_sql.name`` in the package."""
    for path in (ROOT / "swh_sched_runner").rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = {
            target.id: node.value.args[0].value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func) == "Queries"
            and isinstance(node.value.args[0], ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
                yield path.name, str(names[node.value.id]), node.attr


def test_every_statement_that_is_asked_for_exists() -> None:
    asked = list(uses())
    assert len(asked) > 30
    for file, concern, name in asked:
        assert hasattr(Queries(concern), name), f"{file} asks for {concern}.{name}"


def test_an_unknown_statement_is_named() -> None:
    with pytest.raises(AttributeError, match=r"tasks/tasks\.sql has no statement 'peak_ready'"):
        _ = Queries("tasks/tasks").peak_ready
