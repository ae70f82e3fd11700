"""At 50,000 runs a page of the archive reads a page, wherever it begins."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from swh_sched_runner.backend.tasks import archive
from swh_sched_runner.db.engine import create_engine
from tests.support.plans import explained
from tests.support.servers import databases

pytestmark = pytest.mark.slow

NOW = datetime(2026, 6, 1, tzinfo=UTC)
RUNS = 50_000

# A run a minute, each of a task of its own; every second one is of a recurring task, which isn't archived.
FILL = """
with type as (
  insert into task_type (type, description, backend_name) values ('t', 't', 't')
), tasks as (
  insert into task (id, type, arguments, next_run, current_interval, status, policy)
  select n, 't', jsonb_build_object(), cast(:now as timestamptz), interval '1 day',
         cast(case when n % 2 = 0 then 'completed' else 'next_run_not_scheduled' end as task_status),
         cast(case when n % 2 = 0 then 'oneshot' else 'recurring' end as task_policy)
  from generate_series(1, :runs) as n
)
insert into task_run (task, backend_id, scheduled, started, ended, metadata, status)
select n, n, time, time + interval '10 seconds', time + interval '20 seconds', jsonb_build_object(), 'eventful'
from (select n, cast(:now as timestamptz) - n * interval '1 minute' as time from generate_series(1, :runs) as n) as u
"""


@pytest.fixture(scope="module")
def engine(postgresql_url: str, template_database: str) -> Iterator[Engine]:
    with databases.created(postgresql_url, f"test_{uuid.uuid4().hex[:12]}", template_database) as url:
        engine = create_engine(url)
        with engine.begin() as conn:
            conn.execute(text(FILL), {"runs": RUNS, "now": NOW})
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text("vacuum analyze task, task_run"))
        yield engine
        engine.dispose()


@pytest.mark.parametrize("limit", [10, 1000])
@pytest.mark.parametrize("days_ago", [0, 5, 20, 34])
def test_a_page_walks_its_index_and_reads_what_it_shows(engine: Engine, limit: int, days_ago: int) -> None:
    after = NOW - timedelta(minutes=RUNS)
    with engine.connect() as conn:
        begin = NOW - timedelta(days=days_ago)
        token = archive.get_page(conn, begin, NOW, 1, None).get("next_page_token") if days_ago else None

    [walk] = explained(engine, lambda conn: archive.get_page(conn, after, NOW, limit, token))

    assert walk.indexes() == {"task_run_time_idx", "task_pkey"}
    assert not walk.kinds() & {"Sort", "Incremental Sort", "Hash Join", "Merge Join", "Seq Scan"}
    assert walk.rows_read("task_run") <= 2 * limit + 4


def test_deleting_a_page_reads_the_rows_that_it_deletes(engine: Engine) -> None:
    with engine.connect() as conn:
        page = archive.get_page(conn, NOW - timedelta(minutes=RUNS), NOW, 500, None)["tasks"]

    plans = explained(engine, lambda conn: archive.delete(conn, page))

    assert len(plans) == 4
    for plan in plans:
        assert not plan.whole_tables() & {"task", "task_run"}, plan.statement
        assert plan.rows_read("task") <= 500
        assert plan.rows_read("task_run") <= 1000
