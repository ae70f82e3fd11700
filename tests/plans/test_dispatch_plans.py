"""At 60,000 tasks a look, a grab and a close read what they take, in the order of an index, and no more."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from functools import partial

import pytest
from sqlalchemy import Engine

from swh_sched_runner.backend import wake
from swh_sched_runner.backend.dispatch import outbox, ready, visit_batches
from swh_sched_runner.backend.dispatch.outbox import OpenBatch, QueueSeen
from swh_sched_runner.backend.dispatch.ready import TaskGroup
from swh_sched_runner.backend.tasks import tasks
from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.db.queries import Queries
from tests.support.plans import Plan, explained
from tests.support.samples import NOW
from tests.support.servers import databases

pytestmark = pytest.mark.slow

TYPES = 2  # as filled in below
CAP = 100
TAKEN = 1000
# Three quarters are done, in flight or not due; half of the due ones have a priority. Due ones of one type are mixed
# with all others on disk.
FILL = """
insert into task_type (type, description, backend_name, max_queue_length)
select 'load-' || n, 'd', 'load-' || n, 1000 from generate_series(0, 1) as n;
insert into dispatch_type (type, max_in_flight, rate_limit) values ('load-0', 100, 5);
insert into task (type, arguments, next_run, status, policy, priority)
select 'load-' || n % 2, jsonb_build_object('args', jsonb_build_array(), 'kwargs', jsonb_build_object('n', n)),
       now() - make_interval(secs => n) + case when n / 2 % 4 = 1 then interval '10 days' else interval '0' end,
       cast((array['next_run_not_scheduled', 'next_run_not_scheduled', 'completed', 'next_run_scheduled'])
            [1 + n / 2 % 4] as task_status), 'oneshot',
       cast(case when n % 7 < 3 then (array['high', 'normal', 'low'])[1 + n % 3] end as task_priority)
from generate_series(1, 60000) as n;
insert into dispatcher_session (host, pid, backend_pid) select 'here', n, n from generate_series(1, 5) as n;
insert into task_run (task, backend_id, scheduled, ended)
select id, 'before-' || id, now(), now() from task where status = 'completed';
with sent as (
  insert into task_run (task, backend_id, scheduled)
  select id, id, now() from task where type = 'load-1' and status = 'next_run_scheduled' order by id limit 10
  returning id, task
), followed as (
  update task t set run_id = sent.id from sent where t.id = sent.task
)
insert into dispatch_batch (session_id, queue, runs) select 1, 'load-1', array_agg(id) from sent;
insert into dispatch_batch (session_id, queue, visits)
select 1, 'load-1', jsonb_agg(jsonb_build_object(
  'id', n, 'task_type', 'load-1', 'url', n, 'visit_type', 'git', 'kwargs', jsonb_build_object()))
from generate_series(1, 10) as n;
"""
RUNS_BATCH, VISITS_BATCH, SENT_AGAIN = 1, 2, 10
PLAIN = TaskGroup("load-1", "load-1", 1000, priority=False)
PRIORITY = TaskGroup("load-1", "load-1", 1000, priority=True)


@pytest.fixture(scope="module")
def engine(postgresql_url: str, template_database: str) -> Iterator[Engine]:
    with databases.created(postgresql_url, f"test_{uuid.uuid4().hex[:12]}", template_database) as url:
        databases.execute(url, FILL)
        for table in ("task", "task_run", "dispatch_batch", "dispatcher_session"):
            databases.execute(url, f"vacuum analyze {table}")
        engine = create_engine(url)
        yield engine
        engine.dispose()


def grab_of(plans: list[Plan]) -> Plan:
    (grab,) = [plan for plan in plans if "insert into task_run" in plan.statement]
    return grab


@pytest.mark.parametrize(
    ("group", "index"), [(PLAIN, "task_ready_idx"), (PRIORITY, "task_ready_priority_idx")], ids=["plain", "priority"]
)
def test_a_grab_walks_the_index_of_ready_tasks_and_reads_what_it_takes(
    engine: Engine, group: TaskGroup, index: str
) -> None:
    grab = grab_of(explained(engine, lambda conn: outbox._open_batch(conn, 1, "load-1", group, TAKEN, None)))

    assert {index, "task_pkey"} <= grab.indexes()
    assert "task" not in grab.whole_tables()
    assert grab.rows_read("task") <= 2 * TAKEN  # once to lock, once to write


def test_the_cost_of_a_grab_follows_what_it_takes(engine: Engine) -> None:
    def read(num_tasks: int) -> int:
        work = partial(outbox._open_batch, session_id=1, queue="q", group=PLAIN, num_tasks=num_tasks, now=None)
        return grab_of(explained(engine, work)).rows_read("task")

    assert read(10) <= 20
    assert read(300) <= 600


@pytest.mark.parametrize(
    ("status", "index"), [("next_run_not_scheduled", "task_match_waiting_idx"), ("completed", "task_match_over_idx")]
)
def test_creation_looks_for_duplicates_in_the_index_of_their_state(engine: Engine, status: str, index: str) -> None:
    asked = [
        {"type": f"load-{n % 2}", "arguments": {"args": [], "kwargs": {"n": n}}, "next_run": NOW, "status": status}
        for n in range(1, 401)
    ]
    plans = explained(engine, lambda conn: tasks.create(conn, asked, "oneshot"))
    (creation,) = [plan for plan in plans if "insert into task " in plan.statement]

    used = {node["Index Name"] for node in creation.nodes if "Index Name" in node and node["Actual Loops"]}
    assert {name for name in used if name.startswith("task_match")} == {index}
    assert "task" not in creation.whole_tables()
    assert creation.rows_read("task") <= len(asked)


def test_a_look_reads_one_row_a_group_and_no_more_tasks_in_flight_than_may_be(engine: Engine) -> None:
    (look,) = [
        plan for plan in explained(engine, lambda conn: ready.snapshot(conn, ())) if "due_in_seconds" in plan.statement
    ]

    assert {"task_ready_idx", "task_ready_priority_idx", "task_scheduled_idx"} <= look.indexes()
    assert "task" not in look.whole_tables()
    assert look.rows_read("task_type") <= 2 * TYPES  # once for the limits of their queues
    assert look.rows_read("task") <= TYPES * (2 + 3) + 2 * CAP  # the first of each group; the cap for both groups


def test_a_limit_counts_no_further_than_it_says(engine: Engine) -> None:
    plans = explained(engine, lambda conn: ready.acquire_quota(conn, "load-0", 1000))

    assert sum(plan.rows_read("task") for plan in plans) == CAP
    assert not any("task" in plan.whole_tables() for plan in plans)


def test_a_batch_that_is_sent_again_reads_its_runs(engine: Engine) -> None:
    (read,) = explained(engine, lambda conn: outbox._read_batch(conn, 1, OpenBatch(RUNS_BATCH, "load-1")))

    assert {"task_run_pkey", "task_pkey"} <= read.indexes()
    assert not read.whole_tables() & {"task", "task_run"}
    assert (read.rows_read("task_run"), read.rows_read("task")) == (SENT_AGAIN, SENT_AGAIN)
    assert read.rows_read("task_type") <= 2 * TYPES * SENT_AGAIN


def test_visits_that_are_sent_again_read_no_task(engine: Engine) -> None:
    _, of_visits = explained(engine, lambda conn: outbox._read_batch(conn, 1, OpenBatch(VISITS_BATCH, "load-1")))

    assert of_visits.nodes[0]["Actual Rows"] == SENT_AGAIN
    assert of_visits.rows_read("task_type") <= 2 * TYPES * SENT_AGAIN
    assert not {"task", "task_run"} & {node.get("Relation Name") for node in of_visits.nodes}


def test_the_queue_of_visits_is_read_from_the_task_types_alone(engine: Engine) -> None:
    (look,) = explained(engine, lambda conn: visit_batches.queue_of(conn, "load-1"))

    assert look.rows_read("task_type") <= 2 * TYPES


@pytest.mark.parametrize("name", ["outbox.end_session", "limits.published"])
def test_who_lives_is_read_from_the_locks_once(engine: Engine, name: str) -> None:
    concern, _, statement = name.partition(".")
    binds = {"session_id": 1} if statement == "end_session" else {}
    (look,) = explained(engine, lambda conn: conn.execute(Queries(f"dispatch/{concern}").statements[statement], binds))

    (locks,) = (node for node in look.nodes if node.get("Function Name") == "pg_lock_status")
    assert locks["Actual Loops"] <= 1


def test_a_close_and_a_wake_read_no_task(engine: Engine) -> None:
    def work(conn: object) -> None:
        wake.wake(conn)  # type: ignore[arg-type]
        outbox._close_batch(conn, 1, 1, [], QueueSeen("load-1", 3, None))  # type: ignore[arg-type]

    plans = explained(engine, work)

    assert sum(plan.rows_read("task") + plan.rows_read("task_run") for plan in plans) == 0
