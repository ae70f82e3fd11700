"""``task-type`` and ``task``: what they write, and what people and programs read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from swh_sched_runner.backend import SchedulerBackend
from tests.cli.conftest import Run
from tests.support.samples import a_type

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def load_git(backend: SchedulerBackend) -> str:
    backend.create_task_type(
        {
            "type": "load-git",
            "description": "Load a git repository",
            "backend_name": "swh.loader.git",
            "default_interval": timedelta(days=1),
        }
    )
    return "load-git"


def test_task_type_add_writes_what_it_was_told(run: Run, backend: SchedulerBackend) -> None:
    options = {
        "--backend-name": "my.loader",
        "--description": "Load",
        "--default-interval": "1d12h",
        "--min-interval": "5m",
        "--max-interval": "P64D",
        "--backoff-factor": "1.5",
        "--max-queue-length": "none",
        "--num-retries": "3",
        "--retry-delay": "2 hours",
    }

    outcome = run("task-type", "add", "load", *(word for option in options.items() for word in option))

    assert (outcome.status, outcome.out) == (0, "added task type load, queue my.loader\n")
    assert backend.get_task_types() == [
        {
            "type": "load",
            "description": "Load",
            "backend_name": "my.loader",
            "default_interval": timedelta(days=1, hours=12),
            "min_interval": timedelta(minutes=5),
            "max_interval": timedelta(days=64),
            "backoff_factor": 1.5,
            "max_queue_length": None,
            "num_retries": 3,
            "retry_delay": timedelta(hours=2),
        }
    ]


def test_options_that_are_left_out_take_the_defaults(run: Run, backend: SchedulerBackend) -> None:
    run("task-type", "add", "load", "--backend-name", "my.loader")

    (row,) = backend.get_task_types()
    assert row["max_queue_length"] == 1000
    assert row["description"] == "load"
    assert row["default_interval"] is None


def test_a_task_type_that_exists_stays_as_it_is(run: Run, backend: SchedulerBackend, load_git: str) -> None:
    again = ("task-type", "add", load_git, "--backend-name", "other")

    refused, passed = run(*again), run(*again, "--if-missing")

    assert (refused.status, refused.err) == (1, "Error: task type 'load-git' exists already and was not changed\n")
    assert (passed.status, passed.out) == (0, "task type load-git exists already\n")
    assert [row["backend_name"] for row in backend.get_task_types()] == ["swh.loader.git"]


@pytest.mark.parametrize(
    ("option", "value", "status"),
    [
        ("--default-interval", "soon", 64),
        ("--max-queue-length", "many", 64),
        ("--backoff-factor", "0", 64),
        ("--num-retries", "-1", 64),
    ],
)
def test_a_wrong_task_type_is_not_written(
    run: Run, backend: SchedulerBackend, option: str, value: str, status: int
) -> None:
    outcome = run("task-type", "add", "load", "--backend-name", "my.loader", option, value)

    assert outcome.status == status
    assert outcome.err.count("\n") <= 4
    assert backend.get_task_types() == []


def test_task_types_are_listed_for_programs_in_seconds(run: Run, load_git: str) -> None:
    (row,) = run("task-type", "list", "--json").json

    assert row == {
        "type": "load-git",
        "description": "Load a git repository",
        "backend_name": "swh.loader.git",
        "default_interval": 86400,
        "min_interval": None,
        "max_interval": None,
        "backoff_factor": None,
        "max_queue_length": 1000,
        "num_retries": None,
        "retry_delay": None,
        "max_in_flight": None,
        "rate_limit": None,
        "pause": None,
        "max_run_seconds": None,
        "keep_runs": None,
    }


def test_task_types_are_listed_for_people_in_columns(run: Run, load_git: str) -> None:
    header, row = run("task-type", "list").out.splitlines()

    assert header.split()[:4] == ["type", "queue", "limit", "interval"]
    assert row.split(maxsplit=14) == [
        "load-git", "swh.loader.git", "1000", "1d", *"----------", "Load a git repository",
    ]  # fmt: skip


def test_task_add_takes_positions_keywords_and_options(run: Run, backend: SchedulerBackend, load_git: str) -> None:
    outcome = run(
        "task", "add", load_git, "https://a/?b=c", "url=x=y", "depth=5",
        "--policy", "oneshot", "--priority", "high", "--next-run", "2026-01-31T13:00+01:00", "--json",
    )  # fmt: skip

    (task,) = backend.search_tasks()
    assert outcome.status == 0
    assert task == {
        "id": outcome.json["id"],
        "type": "load-git",
        "arguments": {"args": ["https://a/?b=c"], "kwargs": {"url": "x=y", "depth": "5"}},
        "next_run": NOW,
        "policy": "oneshot",
        "priority": "high",
        "status": "next_run_not_scheduled",
        "retries_left": 0,
        "current_interval": timedelta(days=1),
    }
    assert outcome.json["next_run"] == "2026-01-31T12:00:00+00:00"
    assert outcome.json["current_interval"] == 86400


def test_json_arguments_are_read_as_json(run: Run, backend: SchedulerBackend, load_git: str) -> None:
    run("task", "add", load_git, "--json-arguments", '"a=b"', "5", 'options={"deep": [1]}')

    (task,) = backend.search_tasks()
    assert task["arguments"] == {"args": ["a=b", 5], "kwargs": {"options": {"deep": [1]}}}
    assert task["policy"] == "recurring"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--json-arguments", "a"), "'a' is not JSON (a string needs its quotes)"),
        (("a=1", "a=2"), "a is given twice"),
        (("--next-run", "whenever"), "'whenever' is not a timestamp"),
    ],
)
def test_arguments_that_can_not_be_read_exit_64(
    run: Run, backend: SchedulerBackend, load_git: str, words: tuple[str, ...], message: str
) -> None:
    outcome = run("task", "add", load_git, *words)

    assert outcome.status == 64
    assert message in outcome.err
    assert backend.search_tasks() == []


def test_an_equal_task_is_not_created_twice(run: Run, load_git: str) -> None:
    first, second = (run("task", "add", load_git, "x", "--json").json for _ in range(2))

    assert first["id"] == second["id"]


def test_a_relative_timestamp_counts_from_now(run: Run, backend: SchedulerBackend, load_git: str) -> None:
    before = datetime.now(UTC)

    run("task", "add", load_git, "--next-run", "+1h30m")

    (task,) = backend.search_tasks()
    delay = task["next_run"] - before
    assert timedelta(hours=1.5) <= delay < timedelta(hours=1.5, minutes=1)


def test_task_list_combines_its_filters(run: Run, backend: SchedulerBackend, load_git: str) -> None:
    for n in range(4):
        task = {"type": load_git, "arguments": {"args": [n], "kwargs": {}}, "next_run": NOW + timedelta(hours=n)}
        backend.create_tasks([{**task, "priority": "high" if n % 2 else None}], policy="oneshot")

    def listed(*words: str) -> list[int]:
        return [row["arguments"]["args"][0] for row in run("task", "list", "--json", *words).json]

    assert listed() == [0, 1, 2, 3]
    assert listed("--priority", "high", "--before", "2026-01-31T14:00:00Z") == [1]
    assert listed("--after", "2026-01-31T14:00:00Z", "--status", "next_run_not_scheduled") == [2, 3]
    assert listed("--policy", "recurring") == []
    backend.create_task_type(a_type("load-hg"))
    assert listed("--type", "load-hg") == []


def test_a_list_that_was_cut_says_so_on_stderr(run: Run, load_git: str) -> None:
    for n in range(3):
        run("task", "add", load_git, str(n))

    cut, whole = run("task", "list", "--limit", "2", "--json"), run("task", "list", "--limit", "3", "--json")

    assert (len(cut.json), len(whole.json)) == (2, 3)
    assert cut.err == "there are more than 2 tasks: raise --limit, or add conditions\n"
    assert whole.err == ""


def test_a_wide_table_is_whole_and_steers_no_terminal(run: Run, load_git: str) -> None:
    long = "https://example.org/" + "x" * 300
    run("task", "add", load_git, long, "odd=\x1b[31mred\nline")

    header, row = run("task", "list", "-o", "wide").out.splitlines()

    assert header.startswith("id  type")
    assert long in row
    assert "\x1b" not in row


def test_task_show_prints_the_task_and_its_newest_runs(run: Run, backend: SchedulerBackend, load_git: str) -> None:
    (task,) = backend.create_tasks([{"type": load_git, "arguments": {"args": ["u"], "kwargs": {}}, "next_run": NOW}])
    for n in range(3):
        backend.schedule_task_run(task["id"], f"run-{n}", timestamp=NOW)
        backend.start_task_run(f"run-{n}", timestamp=NOW)
        backend.end_task_run(f"run-{n}", "failed", {"error": "broke"}, timestamp=NOW + timedelta(seconds=90))

    as_json = run("task", "show", str(task["id"]), "--json").json
    text = run("task", "show", str(task["id"]), "--runs", "1").out

    assert [entry["backend_id"] for entry in as_json["runs"]] == ["run-0", "run-1", "run-2"]
    assert as_json["runs"][0]["ended"] == "2026-01-31T12:01:30+00:00"
    assert as_json["arguments"] == {"args": ["u"], "kwargs": {}}
    assert "runs (newest 1 of 3)" in text
    assert "run-2" in text
    assert "run-1" not in text
    assert "1m30s" in text
    assert "broke" in text


def test_a_task_that_does_not_exist_exits_1(run: Run) -> None:
    outcome = run("task", "show", "99")

    assert (outcome.status, outcome.err) == (1, "swh-sched-runner: No task has the id 99\n")
