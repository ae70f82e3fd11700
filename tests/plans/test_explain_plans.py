"""At 40,000 tasks and as many runs an explanation reads what it counts, and counts no further than it says."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from swh_sched_runner.backend.inspection import explain
from swh_sched_runner.db.engine import create_engine
from tests.support.plans import explained
from tests.support.servers import databases

pytestmark = pytest.mark.slow

MAX_IN_FLIGHT = 100  # as filled in below
TYPES = 2
COUNTED = 1_000
# A third is in flight, a third due, a third due in some days. Half have a priority, as many high as low.
FILL = """
insert into task_type (type, description, backend_name) values ('load', 'd', 'load'), ('other', 'd', 'load');
insert into dispatch_type (type, max_in_flight, rate_limit) values ('load', 100, 5);
insert into task (type, arguments, next_run, status, policy, priority, run_id)
select case when n % 100 = 0 then 'other' else 'load' end, '{}',
       now() - make_interval(secs => n) + case when n % 3 = 1 then interval '10 days' else interval '0' end,
       cast(case when n % 3 = 0 then 'next_run_scheduled' else 'next_run_not_scheduled' end as task_status), 'oneshot',
       cast(case when n % 2 = 0 then (array['high', 'low'])[1 + n / 2 % 2] end as task_priority),
       n
from generate_series(1, 40000) as n;
insert into task_run (task, backend_id, scheduled) select id, id, now() from task order by id;
insert into dispatcher_session (host, pid, backend_pid) values ('here', 1, 1);
insert into dispatch_batch (session_id, queue, runs)
select 1, 'load', array_agg(id) from task_run where task % 3 = 0 and id <= 10000 group by id / 1000;
"""


@pytest.fixture(scope="module")
def engine(postgresql_url: str, template_database: str) -> Iterator[Engine]:
    with databases.created(postgresql_url, f"test_{uuid.uuid4().hex[:12]}", template_database) as url:
        databases.execute(url, FILL)
        for table in ("task", "task_run", "dispatch_batch"):
            databases.execute(url, f"vacuum analyze {table}")
        engine = create_engine(url)
        yield engine
        engine.dispose()


LAST = {
    "due": "status = 'next_run_not_scheduled' and priority is null and next_run <= now()",
    "due with a priority": "status = 'next_run_not_scheduled' and priority = 'low' and next_run <= now()",
    "not due": "status = 'next_run_not_scheduled' and next_run > now()",
    "unconfirmed": "status = 'next_run_scheduled' and id <= 10000",
    "sent": "status = 'next_run_scheduled' and id > 30000",
}


def the_last(engine: Engine, condition: str) -> int:
    """The task of the type that comes after all others of its kind."""
    last = f"select id from task where type = 'load' and {condition} order by next_run desc, id desc limit 1"  # noqa: S608
    with engine.connect() as conn:
        task: int = conn.execute(text(last)).scalar_one()
        return task


@pytest.mark.parametrize(
    ("kind", "ranges", "indexes"),
    [
        ("due", 1, {"task_ready_idx"}),
        ("due with a priority", 2, {"task_ready_priority_idx"}),
        ("not due", 0, set()),
        ("unconfirmed", 0, {"task_run_pkey"}),
        ("sent", 0, {"task_run_pkey"}),
    ],
)
def test_an_explanation_reads_indexes_and_no_further_than_it_counts(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, kind: str, ranges: int, indexes: set[str]
) -> None:
    monkeypatch.setattr(explain, "COUNTED", COUNTED)
    task = the_last(engine, LAST[kind])

    plans = explained(engine, lambda conn: explain.read(conn, task, "save_code_now:{backend_name}"))

    used = set().union(*(plan.indexes() for plan in plans))
    assert indexes | {"task_pkey", "task_scheduled_idx"} <= used
    in_flight = MAX_IN_FLIGHT + COUNTED
    for plan in plans:
        assert not plan.whole_tables() & {"task", "task_run"}
        assert plan.rows_read("task") <= max(ranges * (COUNTED + 1), in_flight)
        assert plan.rows_read("task_run") <= 1
        assert plan.rows_read("dispatch_batch") <= 20
        assert plan.rows_read("task_type") <= 2 * TYPES
        assert all(node["Actual Loops"] <= 1 for node in plan.nodes if node.get("Function Name") == "pg_lock_status")
