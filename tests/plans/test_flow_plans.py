"""What `/metrics` reads of the database costs what is on its way, not what the history holds."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from swh_sched_runner.backend.inspection.status import flow
from tests.support.plans import explained

pytestmark = pytest.mark.slow

TASKS = 50_000
FILL = """
with types as (
  insert into task_type (type, description, backend_name) values ('a', 'd', 'q'), ('b', 'd', 'q') returning type
)
insert into task (type, arguments, next_run, status, policy)
select case when n % 3 = 0 then 'a' else 'b' end, jsonb_build_object(), now(),
       cast(case when n % 100 = 0 then 'next_run_scheduled' else 'completed' end as task_status), 'oneshot'
from generate_series(1, :tasks) as n
"""


def test_tasks_in_flight_are_counted_in_their_index_alone(engine: Engine) -> None:
    # given a hundredth of the tasks in flight
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text(FILL), {"tasks": TASKS})
        conn.execute(text("vacuum analyze task"))
    # when
    plans = explained(engine, lambda conn: flow(conn, timedelta(seconds=30)))
    with engine.connect() as conn:
        counted = flow(conn, timedelta(seconds=30)).in_flight
    # then
    (plan,) = (plan for plan in plans if "next_run_scheduled" in plan.statement)
    assert counted == {"a": TASKS // 300, "b": TASKS // 100 - TASKS // 300}
    assert plan.indexes() == {"task_scheduled_idx"}
    assert plan.rows_read("task") == TASKS // 100
