"""What the rescuer and the listener read of runs and workers, they find by index, however many others there are."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from swh_sched_runner.backend.columns import column
from swh_sched_runner.backend.tasks import lost
from swh_sched_runner.backend.workers import lives, watched
from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.db.queries import Queries
from tests.support.plans import explained
from tests.support.servers import databases

# Each task follows its last run; 100 workers are not over, one of them shuts down, all others ended.
LIVING = 100
FILL = """
insert into task_type (type, description, backend_name) values ('t', 'd', 'q');
insert into dispatch_type (type, max_run_seconds) values ('t', 600);
insert into worker (hostname, pid, began, signed, last_sign, processed, events_clock, queues, pool, ended, ended_by,
                    offline, left_at)
select 'w' || n, 1, now(), now(), now(), 1, 1, array['q'], 'prefork',
       case when n > {living} then now() end, case when n > {living} then 'closed' end,
       case when n = 1 or n > {living} then now() + interval '1 second' end,
       case when n = 1 or n > {living} then now() end
from generate_series(1, {rows}) as n;
insert into task (type, arguments, next_run, current_interval, status, run_id)
select 't', '{{}}', now(), interval '1 day', 'next_run_scheduled', n from generate_series(1, {rows}) as n;
insert into task_run (task, backend_id, scheduled, begun, worker, metadata)
select n, 'run-' || n, now() - interval '1 hour', now() - interval '1 hour', n, '{{}}'
from generate_series(1, {rows}) as n;
"""


@pytest.fixture(scope="module", params=[1_000, pytest.param(200_000, marks=pytest.mark.slow)])
def filled(request: pytest.FixtureRequest, postgresql_url: str, template_database: str) -> Iterator[tuple[Engine, int]]:
    with databases.created(postgresql_url, f"test_{uuid.uuid4().hex[:12]}", template_database) as url:
        databases.execute(url, FILL.format(rows=request.param, living=LIVING))
        for table in ("task", "task_run", "task_type", "dispatch_type", "worker"):
            databases.execute(url, f"vacuum analyze {table}")
        engine = create_engine(url)
        yield engine, request.param
        engine.dispose()


def page_of(rows: int) -> int:
    """A page of the rescuer; of a small table a part, since it is right to read all of that for all of it."""
    return min(lost.PAGE, rows // 20)


def reads_no_more(
    filled: tuple[Engine, int], work: Callable[[Connection], Any], most: dict[str, int], *, small: bool = False
) -> None:
    """So many rows of these tables at most, by index. A ``small`` table may be read from end to end, once."""
    engine, number = filled
    may_read_all = small and number <= 1_000
    for plan in explained(engine, work):
        if not may_read_all:
            assert not plan.whole_tables() & most.keys(), plan.statement
        for table, rows in most.items():
            assert plan.rows_read(table) <= (number if may_read_all else rows), plan.statement


def test_suspects_are_read_by_their_ids(filled: tuple[Engine, int]) -> None:
    _, rows = filled
    page = page_of(rows)
    ids = range(rows - page + 1, rows + 1)

    most = {"task_run": page, "task": page, "worker": page}
    reads_no_more(filled, lambda conn: lost._suspects(conn, ids), most, small=True)


@pytest.mark.parametrize("after", [0, 900])
def test_a_page_of_all_runs_reads_the_page(filled: tuple[Engine, int], after: int) -> None:
    page = page_of(filled[1])

    reads_no_more(filled, lambda conn: lost._open_runs_after(conn, after, page), {"task_run": page})


def test_the_last_look_at_runs_reads_those(filled: tuple[Engine, int]) -> None:
    engine, rows = filled
    page = page_of(rows)
    with engine.connect() as conn:
        suspects = lost._suspects(conn, range(rows - page + 1, rows + 1))

    def look(conn: Connection) -> None:
        lost._unmoved(conn, suspects)

    reads_no_more(filled, look, {"task_run": page}, small=True)


@pytest.mark.parametrize(
    "work",
    [
        lambda conn: watched._read(conn, [500]),
        lambda conn: conn.execute(Queries("tasks/lost").lives_now, {"ids": column([500])}),
        lives.uninspected,
        lives.measures,
        lambda conn: lives._leaving(conn, {f"w{n}" for n in range(1, 201)}),
        lambda conn: conn.execute(
            Queries("workers/lives").lock_lives,
            {"hostnames": column([f"w{n}" for n in range(1, 51)]), "lives": "{}", "pids": "{}"},
        ),
        lives.compare_at_rest,
    ],
    ids=["watched", "lives_now", "uninspected", "measures", "leaving", "lock_lives", "compare_at_rest"],
)
def test_of_workers_those_are_read_that_are_not_over(
    filled: tuple[Engine, int], work: Callable[[Connection], Any]
) -> None:
    reads_no_more(filled, work, {"worker": 2 * LIVING}, small=True)
