"""At 50,000 runs a page of pruning reads a page, and what is pruned makes ends no dearer."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from swh_sched_runner.backend.tasks import retention, runs
from swh_sched_runner.backend.tasks.retention import PruneRule
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.model import Evidence
from tests.support.plans import explained
from tests.support.servers import databases

pytestmark = pytest.mark.slow

NOW = datetime(2026, 6, 1, tzinfo=UTC)
RUNS = 50_000
TASKS = 10_000
# The last hundred are open, and their tasks follow them.
OPEN = 100
FILL = """
with types as (
  insert into task_type (type, description, backend_name, default_interval)
  select name, name, name, interval '1 day' from unnest(array['pruned', 'kept']) as name
  returning type
), controls as (
  insert into dispatch_type (type, keep_runs) select type, interval '7 days' from types where type = 'pruned'
), tasks as (
  insert into task (id, type, arguments, next_run, current_interval, status, policy, run_id)
  select n, case when n % 2 = 0 then 'pruned' else 'kept' end, jsonb_build_object('n', n), cast(:now as timestamptz),
         interval '1 day', 'next_run_scheduled', 'recurring', :runs - :tasks + n
  from generate_series(1, :tasks) as n
)
insert into task_run (id, task, backend_id, scheduled, started, ended, metadata, status)
select n, 1 + (n - 1) % :tasks, 'run-' || lpad(cast(n as text), 8, '0'), time,
       case when n <= :runs - :open then time + interval '10 seconds' end,
       case when n <= :runs - :open then time + interval '20 seconds' end, jsonb_build_object(),
       cast(case when n <= :runs - :open then 'eventful' else 'scheduled' end as task_run_status)
from (select n, cast(:now as timestamptz) - (:runs - n) * interval '1 minute' as time
      from generate_series(1, :runs) as n) as u
"""


@pytest.fixture(scope="module")
def engine(postgresql_url: str, template_database: str) -> Iterator[Engine]:
    with databases.created(postgresql_url, f"test_{uuid.uuid4().hex[:12]}", template_database) as url:
        engine = create_engine(url)
        with engine.begin() as conn:
            conn.execute(text(FILL), {"runs": RUNS, "tasks": TASKS, "open": OPEN, "now": NOW})
        vacuum(engine)
        yield engine
        engine.dispose()


def vacuum(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("vacuum analyze task, task_run"))


def ends(conn: Connection) -> object:
    changes = [
        RunChange(f"run-{n:08}", status="eventful", ended=NOW, evidence=Evidence.RESULT)
        for n in range(RUNS - OPEN + 1, RUNS + 1)
    ]
    return runs.record(conn, changes, from_events=True)


@pytest.mark.parametrize("rows", [100, 1000])
@pytest.mark.parametrize("after", [0, 20_000, RUNS - 5_000])
@pytest.mark.parametrize("rule", [PruneRule(), PruneRule("kept", timedelta(days=1)), PruneRule(dry_run=True)])
def test_a_page_reads_the_rows_that_it_looks_at(engine: Engine, rows: int, after: int, rule: PruneRule) -> None:
    [page] = explained(engine, lambda conn: retention.prune_page(conn, rule, after, rows, NOW))

    assert not page.whole_tables() & {"task", "task_run"}
    # read once, and those that expired to be locked and to be deleted
    assert page.rows_read("task_run") <= 3 * rows
    assert page.rows_read("task") <= rows


def test_ends_cost_the_same_when_most_runs_were_pruned(engine: Engine) -> None:
    """The last test of this module: it deletes."""
    before = explained(engine, ends)

    with engine.begin() as conn:
        place: int | None = 0
        deleted = 0
        while place is not None:
            page = retention.prune_page(conn, PruneRule(older_than=timedelta(days=1)), place, 1000, NOW)
            place = page.last
            deleted += sum(page.pruned.values())
    vacuum(engine)
    after = explained(engine, ends)

    assert deleted > RUNS // 2
    for then, now in zip(before, after, strict=True):
        assert now.rows_read("task_run") <= then.rows_read("task_run"), now.statement
        assert now.rows_read("task") <= then.rows_read("task"), now.statement
