"""Functions of the schema cost a statement nothing: the planner puts what they say in place of their call."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.db.queries import Queries, sql_folder
from tests.support.samples import NOW
from tests.support.servers import databases

pytestmark = pytest.mark.slow

# What is seen in a plan where the planner has put a function's body.
SEEN = {"past_cooldowns": "last_visit_status", "tokens_at": "isfinite", "count_in_flight": "task_scheduled_idx"}
SEEN |= {"run_state": "md5", "life_state": "md5"}
BINDS: dict[str, Any] = {
    "absolute_before": NOW,
    "count": 10,
    "enabled": True,
    "failed_before": NOW,
    "ended_by": "{}",
    "finished": NOW,
    "ids": "{}",
    "limit": 10,
    "listers": [str(uuid.uuid4())],
    "not_found_before": NOW,
    "now": None,
    "scheduled_before": NOW,
    "states": "{}",
    "tablesample": 50.0,
    "task_id": 1,
    "task_type": "load",
    "task_types": None,
    "visit_type": "git",
}
QUERIES = Path(str(sql_folder())).joinpath("queries")


def calls() -> Iterator[tuple[str, str, str]]:
    """Every statement that calls one of them: its file, its name, the function."""
    for path in sorted(QUERIES.rglob("*.sql")):
        concern = str(path.relative_to(QUERIES).with_suffix(""))
        for name, statement in Queries(concern).statements.items():
            yield from ((concern, name, function) for function in SEEN if f" {function}(" in f" {statement.text}")


CALLS = sorted(calls())


@pytest.fixture(scope="module")
def engine(postgresql_url: str, template_database: str) -> Iterator[Engine]:
    with databases.created(postgresql_url, f"test_{uuid.uuid4().hex[:12]}", template_database) as url:
        engine = create_engine(url)
        yield engine
        engine.dispose()


def test_every_function_of_the_schema_is_looked_for(engine: Engine) -> None:
    ours = "select cast(proname as text) from pg_proc where pronamespace = cast('public' as regnamespace)"
    with engine.connect() as conn:
        assert set(conn.execute(text(ours)).scalars()) == SEEN.keys() == {function for _, _, function in CALLS}


@pytest.mark.parametrize(("concern", "name", "function"), CALLS, ids=[f"{c}.{n}.{f}" for c, n, f in CALLS])
def test_a_plan_has_what_a_function_says_and_no_call(engine: Engine, concern: str, name: str, function: str) -> None:
    statement = Queries(concern).statements[name]
    explained = text(f"explain (verbose) {re.sub(r'--.*', '', statement.text)}")
    with engine.connect() as conn:
        plan = "\n".join(conn.execute(explained, {bind: BINDS[bind] for bind in statement._bindparams}).scalars())

    assert SEEN[function] in plan
    assert function not in plan
