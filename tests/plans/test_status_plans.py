"""``status`` and ``queue list`` cost what is due and in flight, not what the history holds."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from swh_sched_runner.backend.dispatch import limits
from swh_sched_runner.backend.inspection import status as facts
from swh_sched_runner.db.engine import Database

pytestmark = pytest.mark.slow


def test_status_reads_indexes_and_the_newest_runs_alone(database: Database) -> None:
    # given a long history, and little that is due or in flight
    def fill(conn, /):  # type: ignore[no-untyped-def]
        conn.execute(text("insert into task_type (type, description, backend_name) values ('t', 'd', 'b')"))
        conn.execute(
            text("""
            insert into task (type, arguments, next_run, status, policy, priority)
            select 't', '{}', now() - n * interval '1 second',
                   cast(case when n % 1000 = 0 then 'next_run_scheduled' when n % 500 = 0 then 'next_run_not_scheduled'
                        else 'completed' end as task_status),
                   'oneshot', cast(case when n % 1500 = 0 then 'high' end as task_priority)
            from generate_series(1, 40000) as n
            """)
        )
        conn.execute(
            text("""
            insert into task_run (task, backend_id, scheduled, ended, status)
            select id, id, now(), case when status = 'completed' then now() end,
                   cast(case when status = 'completed' then 'failed' else 'scheduled' end as task_run_status)
            from task
            """)
        )
        conn.execute(text("update task t set run_id = r.id from task_run r where r.task = t.id"))

    database.run(fill)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("vacuum analyze task"))
        conn.execute(text("vacuum analyze task_run"))
    # when
    plans = {}
    with database.engine.connect() as conn:
        named = {name: facts._sql.statements[name] for name in ("backlog", "in_flight", "last_failures")}
        named |= {f"of queues: {name}": limits._sql.statements[name] for name in ("in_flight", "unconfirmed")}
        for name, found in named.items():
            statement = text("explain " + found.text)
            plan = conn.execute(statement, {"now": None, "window": 10_000, "limit": 10})
            plans[name] = "\n".join(plan.scalars())
    # then
    for name, plan in plans.items():
        assert "Seq Scan on task " not in plan, f"{name}\n{plan}"
        assert "Seq Scan on task_run" not in plan, f"{name}\n{plan}"
    assert "Index Only Scan using task_ready_idx" in plans["backlog"]
    assert "Index Only Scan using task_ready_priority_idx" in plans["backlog"]
