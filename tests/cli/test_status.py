"""``status``: queues, backlog, runs in flight, last failures."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch import limits
from swh_sched_runner.backend.inspection import status as facts
from swh_sched_runner.db.engine import Database
from swh_sched_runner.model import Task
from tests.cli.conftest import Run

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
BROKER = "SWH_SCHED_RUNNER_BROKER__URL"


@pytest.fixture
def load_git(backend: SchedulerBackend) -> str:
    backend.create_task_type(
        {"type": "load-git", "description": "d", "backend_name": "my.git", "default_interval": timedelta(days=1)}
    )
    return "load-git"


def tasks(backend: SchedulerBackend, task_type: str, names: Iterable[str], priority: str | None = None) -> list[Task]:
    return backend.create_tasks(
        [
            {
                "type": task_type,
                "arguments": {"args": [name], "kwargs": {}},
                "next_run": NOW - timedelta(hours=n),
                "priority": priority,
            }
            for n, name in enumerate(names)
        ]
    )


def test_the_overview_counts_what_is_due_by_type_and_priority(
    backend: SchedulerBackend, database: Database, load_git: str
) -> None:
    tasks(backend, load_git, "abc")
    tasks(backend, load_git, "de", priority="low")
    tasks(backend, load_git, "f", priority="high")
    early = NOW - timedelta(minutes=30)

    now, before = database.run(facts.overview, NOW), database.run(facts.overview, early)

    assert [(due.type, due.priority, due.tasks) for due in now.backlog] == [
        ("load-git", None, 3),
        ("load-git", "high", 1),
        ("load-git", "low", 2),
    ]
    assert now.backlog[0].oldest == NOW - timedelta(hours=2)
    assert [(due.priority, due.tasks) for due in before.backlog] == [(None, 2), ("low", 1)]


def test_the_overview_parts_runs_that_wait_from_runs_that_started(
    backend: SchedulerBackend, database: Database, load_git: str
) -> None:
    tasks(backend, load_git, "abcd")
    grabbed = backend.grab_ready_tasks(load_git, NOW)
    for task in grabbed[:3]:
        backend.schedule_task_run(task["id"], f"run-{task['id']}", timestamp=NOW)
    backend.start_task_run(f"run-{grabbed[0]['id']}", timestamp=NOW + timedelta(seconds=1))
    backend.start_task_run(f"run-{grabbed[1]['id']}", timestamp=NOW + timedelta(seconds=2))
    backend.end_task_run(f"run-{grabbed[1]['id']}", "eventful")

    (row,) = database.run(facts.overview).in_flight

    assert (row.type, row.waiting, row.started) == ("load-git", 2, 1)
    assert row.oldest == NOW


def test_the_overview_shows_the_last_failures_first(
    backend: SchedulerBackend, database: Database, load_git: str
) -> None:
    statuses = ("failed", "eventful", "permfailed", "lost")
    for n, task in enumerate(tasks(backend, load_git, "abcd")):
        backend.schedule_task_run(task["id"], f"run-{n}", timestamp=NOW)
        backend.end_task_run(f"run-{n}", statuses[n], {"error": f"e{n}"}, timestamp=NOW + timedelta(minutes=n))

    failures = database.run(facts.overview).failures
    newest = database.run(facts.overview, failures=1).failures

    assert [(row.status, row.error) for row in failures] == [("lost", "e3"), ("permfailed", "e2"), ("failed", "e0")]
    assert newest == failures[:1]


def test_an_empty_scheduler_has_an_empty_status(run: Run) -> None:
    outcome = run("status", "--json")

    assert outcome.status == 0
    assert outcome.json == outcome.json | {
        "queues": [],
        "backlog": [],
        "in_flight": [],
        "failures": [],
        "outbox": {"batches": 0, "runs": 0, "visits": 0, "oldest": None, "rejected": 0},
    }


def test_depths_are_read_from_the_broker(
    run: Run, backend: SchedulerBackend, load_git: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given two messages in the queue of a type
    from swh_sched_runner.broker.celery.app import create_app
    from swh_sched_runner.config import BrokerSettings

    app = create_app(BrokerSettings(url=valkey_url))
    for n in range(2):
        app.send_task("my.git", args=[n], queue="my.git")
    monkeypatch.setenv(BROKER, valkey_url)
    # when
    outcome, for_people = run("status", "--json"), run("status")
    # then
    ordinary, priority = outcome.json["queues"]
    assert ordinary == {
        "queue": "my.git",
        "priority": False,
        "types": ["load-git"],
        "max_queue_length": 1000,
        "depth": 2,
        "unreadable": None,
        "due": 0,
        "oldest_due": None,
        "in_flight": 0,
        "unconfirmed_runs": 0,
        "unconfirmed_visits": 0,
        "published_by": None,
        "published": None,
        "drain_rate": None,
        "pause": None,
    }
    assert (priority["queue"], priority["depth"]) == ("save_code_now:my.git", 0)
    assert outcome.err == ""
    assert "my.git  2      1000   -             load-git" in for_people.out
    assert "save_code_now" not in for_people.out


def test_types_that_share_a_queue_are_held_to_the_least_limit(
    run: Run, backend: SchedulerBackend, load_git: str, monkeypatch: pytest.MonkeyPatch, valkey_url: str
) -> None:
    backend.create_task_type(
        {"type": "other", "description": "d", "backend_name": "my.git", "max_queue_length": 5},
    )
    backend.create_task_type(
        {"type": "third", "description": "d", "backend_name": "my.git", "max_queue_length": None},
    )
    monkeypatch.setenv(BROKER, valkey_url)

    ordinary, _ = run("status", "--json").json["queues"]

    assert (ordinary["max_queue_length"], ordinary["types"]) == (5, ["load-git", "other", "third"])


def test_depths_that_can_not_be_read_are_said_and_the_rest_is_shown(
    run: Run, backend: SchedulerBackend, load_git: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks(backend, load_git, "a")
    monkeypatch.setenv(BROKER, "amqp://guest:hidden@127.0.0.1:1//")

    outcome, for_people = run("status", "--json"), run("status")

    assert outcome.status == for_people.status == 0
    assert outcome.json["queues"][0]["depth"] is None
    assert outcome.json["queues"][0]["unreadable"].startswith("The broker can't be reached: ")
    assert outcome.json["backlog"][0]["tasks"] == 1
    assert outcome.err.startswith("warning: no depths: The broker can't be reached: ")
    assert outcome.err.count("\n") == 1
    assert "hidden" not in outcome.err
    assert "unreadable" in for_people.out


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
