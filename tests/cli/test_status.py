"""``status``: queues, backlog, runs in flight, last failures."""

from __future__ import annotations

from datetime import timedelta

import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.config import BrokerSettings
from tests.cli.conftest import Run
from tests.support.samples import a_task

BROKER = "SWH_SCHED_RUNNER_BROKER__URL"


@pytest.fixture
def load_git(backend: SchedulerBackend) -> str:
    backend.create_task_type(
        {"type": "load-git", "description": "d", "backend_name": "my.git", "default_interval": timedelta(days=1)}
    )
    return "load-git"


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


def test_depths_that_can_not_be_read_are_said_and_the_rest_is_shown(
    run: Run, backend: SchedulerBackend, load_git: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.create_tasks([a_task(task_type=load_git)])
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
