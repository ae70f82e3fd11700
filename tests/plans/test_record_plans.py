"""A batch of events reads the runs and tasks that it names, by index, however many others there are."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from swh_sched_runner.backend.tasks import runs
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.model import Evidence
from tests.support.plans import Plan, explained
from tests.support.servers import databases

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
# Up to a million runs of a hundred thousand tasks; each task follows its last run.
FILL = """
insert into task_type (type, description, backend_name, backoff_factor, num_retries) values ('t', 'd', 'q', 2, 3);
insert into task (type, arguments, next_run, current_interval, status, run_id)
select 't', '{{}}', now(), interval '1 day', 'next_run_scheduled', {runs} - least({runs}, 100000) + n
from generate_series(1, least({runs}, 100000)) as n;
insert into task_run (task, backend_id, scheduled, metadata)
select 1 + (n - 1) % least({runs}, 100000), 'run-' || lpad(cast(n as text), 12, '0'), now() - interval '1 hour', '{{}}'
from generate_series(1, {runs}) as n;
"""


def a_database(url: str, template: str, number: int) -> Iterator[tuple[Engine, int]]:
    with databases.created(url, f"test_{uuid.uuid4().hex[:12]}", template) as created:
        databases.execute(created, FILL.format(runs=number))
        for table in ("task", "task_run", "task_type"):
            databases.execute(created, f"vacuum analyze {table}")
        engine = create_engine(created)
        yield engine, number
        engine.dispose()


@pytest.fixture(scope="module", params=[1_000, 50_000])
def filled(request: pytest.FixtureRequest, postgresql_url: str, template_database: str) -> Iterator[tuple[Engine, int]]:
    yield from a_database(postgresql_url, template_database, request.param)


@pytest.fixture(scope="module")
def million(postgresql_url: str, template_database: str) -> Iterator[tuple[Engine, int]]:
    yield from a_database(postgresql_url, template_database, 1_000_000)


def starts_and_ends(number: int, batch: int) -> list[RunChange]:
    """A start of one half of the batch, an end of the other: of the newest runs, which tasks follow."""
    begun = NOW + timedelta(seconds=1)
    note = {"worker": "w1@host", "worker_pid": 7}
    return [
        RunChange(f"run-{n:012}", started=NOW, begun=begun, worker_noted=note, executions=[n])
        if n % 2
        else RunChange(f"run-{n:012}", status="eventful", ended=NOW, evidence=Evidence.RESULT, end_noted={"result": n})
        for n in range(number, number - batch, -1)
    ]


def check(plans: list[Plan], batch: int) -> None:
    for plan in plans:
        assert not plan.whole_tables() & {"task", "task_run"}, plan.statement
        assert not plan.kinds() & {"Hash Join", "Merge Join"}, plan.statement
        handled = sum(node["Actual Rows"] * node["Actual Loops"] for node in plan.nodes)
        compared = sum(node.get("Rows Removed by Join Filter", 0) * node["Actual Loops"] for node in plan.nodes)
        assert handled <= 25 * batch + 100, plan.statement
        assert compared <= batch, plan.statement
    assert sum(plan.rows_read("task_run") for plan in plans) <= 4 * batch  # find, lock, read, write
    assert sum(plan.rows_read("task") for plan in plans) <= 2 * batch  # lock all; of those that end: read, write


@pytest.mark.parametrize("batch", [500, 2_000])
def test_a_batch_of_events_reads_what_it_names_and_no_more(filled: tuple[Engine, int], batch: int) -> None:
    engine, number = filled
    changes = starts_and_ends(number, min(batch, number))
    # Those beyond the table are of other applications.
    changes += [RunChange(f"other-{n}", started=NOW) for n in range(batch - len(changes))]

    plans = explained(engine, lambda conn: runs.record(conn, changes, from_events=True))

    check(plans, batch)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("batch", [500, 2_000])
def test_a_batch_reads_no_more_beside_a_million_runs(million: tuple[Engine, int], batch: int) -> None:
    engine, number = million
    changes = starts_and_ends(number, batch)

    plans = explained(engine, lambda conn: runs.record(conn, changes, from_events=True))

    check(plans, batch)


def test_events_that_change_nothing_write_nothing(filled: tuple[Engine, int]) -> None:
    engine, number = filled
    changes = starts_and_ends(number, 100)

    def versions() -> list[object]:
        ids = [change.backend_id for change in changes]
        with engine.connect() as conn:
            return list(
                conn.execute(
                    text("select xmin, ctid, id from task_run where backend_id = any(:ids) order by id"), {"ids": ids}
                )
            )

    with engine.begin() as conn:
        runs.record(conn, changes, from_events=True)
    before = versions()
    with engine.begin() as conn:
        runs.record(conn, changes, from_events=True)

    assert versions() == before
