"""Texts of any length keep tables readable: one line a row from 80 columns on; programs get all of them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.cli import stdout
from tests.cli.conftest import Run
from tests.support.samples import NOW, a_type

LONG = "x" * 100_000
COMMANDS = (("status",), ("task", "list"), ("task-type", "list"), ("queue", "list"), ("task", "show", "1"))


@pytest.fixture
def failed(backend: SchedulerBackend) -> None:
    """A task with long arguments, of a type and on a queue with long names, whose run failed with a long error."""
    backend.create_task_type(a_type("t" * 200, backend_name="q" * 200, default_interval=timedelta(days=1)))
    task = {"type": "t" * 200, "arguments": {"args": [LONG], "kwargs": {}}, "next_run": NOW}
    (created,) = backend.create_tasks([task])
    backend.schedule_task_run(created["id"], "b" * 36)
    backend.end_task_run("b" * 36, "failed", {"error": LONG})
    backend.pause_task_type("t" * 200, "somebody", "a reason " * 100)


@pytest.mark.usefixtures("failed")
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_terminal_gets_one_line_a_row(
    run: Run, words: tuple[str, ...], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdout._Told, "isatty", lambda self: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")

    outcome = run(*words)

    tables = outcome.out.split("runs\n")[-1] if words[1:2] == ("show",) else outcome.out
    assert outcome.status == 0
    sentences = ("no ", "not ", "and ")
    assert all(len(line) <= columns for line in tables.splitlines() if not line.startswith(sentences))


@pytest.mark.usefixtures("failed")
def test_tables_are_cut_to_60_characters_and_wide_ones_to_2000(run: Run) -> None:
    listed, wide = run("task", "list").out, run("task", "list", "-o", "wide").out
    failures, all_failures = run("status").out, run("status", "--output", "wide").out

    assert f'"{"x" * 58}…\n' in listed
    assert f'"{"x" * 1_998}…\n' in wide
    assert f"  {'x' * 59}…\n" in failures
    assert f"  {'x' * 1_999}…\n" in all_failures


@pytest.mark.usefixtures("failed")
def test_show_is_cut_to_2000_characters_and_says_how_to_see_all(run: Run) -> None:
    shown, whole = run("task", "show", "1"), run("task", "show", "1", "-o", "json")

    assert f'arguments     "{"x" * 1_998}…\n' in shown.out
    assert shown.err == "long texts are cut to 2,000 characters: --json prints all of them\n"
    assert whole.json["arguments"]["args"] == [LONG]
    assert whole.json == run("task", "show", "1", "--json").json


@pytest.mark.usefixtures("failed")
def test_people_read_words_of_a_status_and_programs_the_stored_one(run: Run) -> None:
    assert "  waiting  " in run("task", "list").out
    assert "status        waiting\n" in run("task", "show", "1").out
    assert [row["status"] for row in run("task", "list", "--json").json] == ["next_run_not_scheduled"]
    for words, ids in (("waiting", [1]), ("next_run_not_scheduled", [1]), ("in-flight", [])):
        assert [row["id"] for row in run("task", "list", "--status", words, "--json").json] == ids
