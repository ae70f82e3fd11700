"""``explain``: what people and programs read, and what happens where it can't tell all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.config import BrokerSettings
from tests.cli.conftest import Run
from tests.support.samples import NOW, a_task, a_type

BROKER = "SWH_SCHED_RUNNER_BROKER__URL"
QUEUE = "tests.load-git"


@pytest.fixture
def task(backend: SchedulerBackend) -> int:
    """A due task, the second of its group."""
    backend.create_task_type(a_type(max_queue_length=2))
    _, second = backend.create_tasks([a_task(1), a_task(2)])
    return second["id"]


def test_people_read_the_answer_first_then_what_else_holds_and_what_to_do(
    run: Run, backend: SchedulerBackend, task: int, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a paused type, no runner, and a full queue
    monkeypatch.setenv(BROKER, valkey_url)
    backend.pause_task_type("load-git", by="ops@here", reason="forge\nis \x1b[31mdown")
    app = create_app(BrokerSettings(url=valkey_url))
    for _ in range(2):
        app.send_task("foreign", queue=QUEUE)
    # when
    outcome = run("explain", "task", str(task))
    # then
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].startswith(f"task {task}, load-git: task type load-git is paused since 20")
    assert lines[0].endswith(" UTC by ops@here: forge\\nis \\x1b[31mdown")
    assert lines[1:] == [
        "  swh-sched-runner task-type resume load-git",
        "also: due since 2026-03-01 12:00:00 UTC, and no runner is alive",
        "  start one: swh-sched-runner run, or up",
        f"also: queue {QUEUE} is full (2/2), and 1 task due earlier before it; the wait is not known yet",
        "also: due since 2026-03-01 12:00:00 UTC, waiting behind 1 task due earlier",
    ]


def test_programs_read_codes_and_facts(
    run: Run, backend: SchedulerBackend, task: int, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BROKER, valkey_url)

    outcome = run("explain", "task", str(task), "--json")

    found = outcome.json
    assert (outcome.status, outcome.err) == (0, "")
    assert (found["task"], found["code"], found["missing"]) == (task, "no_runner", None)
    assert [reason["code"] for reason in found["also"]] == ["behind"]
    assert found["facts"]["next_run"] == NOW.isoformat()
    assert found["facts"]["queue"] == QUEUE
    assert found["facts"]["ahead"] == {"higher": 0, "earlier": 1, "more": False}
    assert found["seen"]["queue"]["depth"] == 0


def test_waits_are_seconds_for_programs(run: Run, backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    [task] = backend.create_tasks([a_task(next_run=datetime.now(UTC) + timedelta(days=1))])

    found = run("explain", "task", str(task["id"]), "--json").json

    assert found["code"] == "not_due"
    assert 86_000 < found["expected_wait"] <= 86_400


@pytest.mark.parametrize("broker", ["amqp://guest:hidden@127.0.0.1:1//", None])
def test_without_a_broker_the_database_answers_with_a_warning(
    run: Run, task: int, monkeypatch: pytest.MonkeyPatch, broker: str | None
) -> None:
    if broker is not None:
        monkeypatch.setenv(BROKER, broker)

    outcome, for_programs = run("explain", "task", str(task)), run("explain", "task", str(task), "--json")

    assert outcome.status == for_programs.status == 0
    assert outcome.out.startswith(f"task {task}, load-git: due since 2026-03-01 12:00:00 UTC, and no runner is alive\n")
    assert outcome.err.startswith("warning: the broker was not asked: ")
    assert outcome.err.count("\n") == for_programs.err.count("\n") == 1
    assert "hidden" not in outcome.err + outcome.out + for_programs.out
    assert for_programs.json["missing"]


def test_an_unknown_task_fails_and_a_word_is_wrong_usage(run: Run) -> None:
    unknown, word = run("explain", "task", "4711"), run("explain", "task", "first")

    assert (unknown.status, unknown.err) == (1, "swh-sched-runner: No task has the id 4711\n")
    assert word.status == 64


def test_help_says_what_can_be_explained(run: Run) -> None:
    outcome = run("explain", "--help")

    assert outcome.status == 0
    assert "task" in outcome.out
