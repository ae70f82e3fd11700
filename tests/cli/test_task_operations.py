"""``task set``, ``run-now``, ``disable``, ``enable``, ``respawn``, ``delete``: what they do, say and refuse."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.task_operations import COMMANDS
from swh_sched_runner.exc import BrokerUnavailable
from tests.cli.conftest import Run
from tests.support.samples import NOW, a_task, a_type, run_of_a_task

VERBS = [str(command.name) for command in COMMANDS]
OPTION = {"set": ("--retries", "4")}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def tasks(backend: SchedulerBackend) -> list[int]:
    """Three waiting tasks."""
    backend.create_task_type(a_type())
    return [task["id"] for task in backend.create_tasks(a_task(n) for n in range(3))]


@pytest.fixture
def revoked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages that were revoked."""
    messages: list[str] = []

    def revoke(self: Context, backend_ids: Sequence[str]) -> None:
        messages.extend(backend_ids)

    monkeypatch.setattr(Context, "revoke", revoke)
    return messages


def statuses(backend: SchedulerBackend) -> list[str]:
    return [task["status"] for task in backend.search_tasks()]


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_with_an_example_and_json_is_one_document(
    run: Run, backend: SchedulerBackend, tasks: list[int], verb: str
) -> None:
    assert f"\n  Example: swh-sched-runner task {verb} " in run("task", verb, "--help").out
    if verb == "enable":
        backend.disable_tasks(tasks)
    told = run("task", verb, *map(str, tasks[:2]), *OPTION.get(verb, ()), "--json")

    assert (told.status, told.err) == (0, "")
    empty: dict[str, Any] = {"unchanged": [], "passed_over": [], "refused": [], "ended": []}
    assert told.json == {"dry_run": False, "changed": tasks[:2], **empty}


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_id_exits_1_and_the_others_are_done(run: Run, tasks: list[int], verb: str) -> None:
    outcome = run("task", verb, "99", *OPTION.get(verb, ()))

    assert (outcome.status, outcome.out, outcome.err) == (1, "", "No task has the id 99\n")


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_changes_nothing(run: Run, backend: SchedulerBackend, tasks: list[int], verb: str) -> None:
    if verb == "enable":
        backend.disable_tasks(tasks)
    before = backend.search_tasks()

    outcome = run("task", verb, "--type", "load-git", "--dry-run", *OPTION.get(verb, ()))

    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("3 tasks would be ")
    assert backend.search_tasks() == before


@pytest.mark.parametrize("verb", VERBS)
def test_without_a_terminal_several_tasks_by_conditions_need_yes(
    run: Run, backend: SchedulerBackend, tasks: list[int], verb: str
) -> None:
    words = ("task", verb, "--type", "load-git", *OPTION.get(verb, ()))
    before = backend.search_tasks()

    refused = run(*words)

    assert refused.status == 64
    assert f"{verb} 3 tasks of type load-git: nobody can be asked without a terminal, add --yes" in refused.err
    assert backend.search_tasks() == before
    assert run(*words, "--yes").status == 0


@pytest.mark.parametrize(
    ("answer", "status", "expected"), [("y\n", 0, "disabled"), ("\n", 1, "next_run_not_scheduled")]
)
def test_on_a_terminal_it_asks(
    run: Run,
    backend: SchedulerBackend,
    tasks: list[int],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    status: int,
    expected: str,
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))

    outcome = run("task", "disable", "--type", "load-git")

    assert outcome.status == status
    assert outcome.err.startswith("disable 3 tasks of type load-git? [y/N]")
    assert statuses(backend) == [expected] * 3


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("disable",), 64, "give either IDs or conditions"),
        (("disable", "1", "--type", "load-git"), 64, "give either IDs or conditions"),
        (("disable", "x"), 64, "'x' is not a whole number"),
        (("delete", "--failed-since", "soon"), 64, "'soon' is not a duration"),
        (("respawn", "1", "--next-run", "whenever"), 64, "'whenever' is not a timestamp"),
        (("set", "1"), 64, "give what to change"),
        (("set", "1", "--interval", "0s"), 64, "0s must be above 0"),
        (("set", "1", "--retries", "1000001"), 64, "must be a whole number from 0 to 1000000"),
        (("set", "1", "--priority", "urgent"), 64, "'urgent' is not one of"),
        (("enable", "--type", "nosuch"), 1, "no task type 'nosuch'"),
        (("enable", "--status", "asleep"), 64, "'asleep' is not one of"),
    ],
)
def test_bad_values_are_refused(run: Run, tasks: list[int], words: Sequence[str], status: int, message: str) -> None:
    outcome = run("task", *words)

    assert outcome.status == status
    assert message in outcome.err


def test_set_writes_what_it_was_told(run: Run, backend: SchedulerBackend, tasks: list[int]) -> None:
    later = "2100-01-01T00:00:00+00:00"
    words = ("--interval", "6h", "--next-run", later, "--priority", "low", "--retries", "0")

    assert run("task", "set", str(tasks[1]), *words).out == f"task {tasks[1]} changed\n"

    [row] = backend.get_tasks([tasks[1]])
    assert row["next_run"].isoformat() == later
    assert (row["current_interval"], row["priority"], row["retries_left"]) == (timedelta(hours=6), "low", 0)
    run("task", "set", str(tasks[1]), "--priority", "none")
    assert backend.get_tasks([tasks[1]])[0]["priority"] is None


def test_conditions_choose_tasks_by_their_last_failure(run: Run, backend: SchedulerBackend, tasks: list[int]) -> None:
    for task, error in zip(tasks, ("disk full", "not found", "disk full"), strict=True):
        backend.schedule_task_run(task, f"run-{task}")
        backend.end_task_run(f"run-{task}", "permfailed", {"error": error})

    def listed(*words: str) -> list[int]:
        return [row["id"] for row in run("task", "list", *words, "--json").json]

    assert listed("--error", "disk") == [tasks[0], tasks[2]]
    assert listed("--failed-since", "1h", "--id", str(tasks[1])) == [tasks[1]]
    assert listed("--error", "nothing of the kind") == []
    again = run("task", "respawn", "--failed-since", "1h", "--error", "disk", "--status", "disabled", "--yes")
    assert (again.status, again.out) == (0, "2 tasks respawned\n")
    assert statuses(backend) == ["next_run_not_scheduled", "disabled", "next_run_not_scheduled"]
    assert run("task", "delete", "--before", "2000-01-01").out == "no task meets the conditions\n"
    assert run("task", "delete", "--error", "not found").out == f"task {tasks[1]} deleted\n"  # one: nothing to ask
    assert len(backend.search_tasks()) == 2


@pytest.mark.parametrize("verb", ["respawn", "run-now", "delete"])
def test_a_task_in_flight_is_refused(run: Run, backend: SchedulerBackend, tasks: list[int], verb: str) -> None:
    backend.schedule_task_run(tasks[0], "run-1", timestamp=NOW)
    [open_run] = backend.get_task_runs([tasks[0]])

    outcome = run("task", verb, *map(str, tasks[:2]))

    assert outcome.status == 1
    assert outcome.out.startswith(f"task {tasks[1]} ")
    expected = f"task {tasks[0]} is in flight as run {open_run['id']} since 2026-03-01 12:00:00 UTC; "
    assert outcome.err.startswith(expected)
    assert "--force" in outcome.err
    [refused] = run("task", verb, str(tasks[0]), "--json").json["refused"]
    assert (refused["reason"], refused["run"]) == ("in_flight", open_run["id"])
    assert backend.get_task_runs([tasks[0]]) == [open_run]


@pytest.mark.parametrize("verb", ["respawn", "run-now"])
def test_force_ends_the_run_as_lost_and_revokes_its_message(
    run: Run, backend: SchedulerBackend, revoked: list[str], verb: str
) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend)["id"]
    dry = run("task", verb, str(task), "--force", "--dry-run")
    assert (dry.status, revoked) == (0, [])
    assert dry.out.endswith("1 run would be ended as lost\n")

    outcome = run("task", verb, str(task), "--force", "--json")

    assert (outcome.status, outcome.json["ended"], revoked) == (0, ["run-1"], ["run-1"])
    [ended] = backend.get_task_runs([task])
    assert ended["status"] == "lost"
    assert ended["metadata"]["reason"].endswith(", who had its task run again")
    assert statuses(backend) == ["next_run_not_scheduled"]


def test_a_message_that_can_not_be_revoked_is_told(
    run: Run, backend: SchedulerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def revoke(self: Context, backend_ids: Sequence[str]) -> None:
        raise BrokerUnavailable(reason="refused")

    monkeypatch.setattr(Context, "revoke", revoke)
    backend.create_task_type(a_type())
    task = run_of_a_task(backend)["id"]

    outcome = run("task", "respawn", str(task), "--force")

    assert (outcome.status, outcome.out) == (0, f"task {task} respawned\n1 run ended as lost\n")
    assert outcome.err.startswith("1 message could not be revoked: The broker can't be reached: refused. If a worker")


def test_what_is_so_already_and_what_stands_in_the_way_is_told(
    run: Run, backend: SchedulerBackend, tasks: list[int]
) -> None:
    first = str(tasks[0])
    assert run("task", "enable", first).out == f"task {first} is already enabled\n"
    assert run("task", "disable", first).out == f"task {first} disabled\n"
    assert run("task", "disable", first).out == f"task {first} is already completed or disabled\n"
    refused = run("task", "run-now", first)
    assert (refused.status, refused.err) == (1, f"task {first} is disabled: `task enable {first}` first\n")


def test_of_many_refusals_some_are_told(run: Run, tasks: list[int]) -> None:
    outcome = run("task", "run-now", *map(str, range(1_000, 1_030)))

    assert len(outcome.err.splitlines()) == 21
    assert outcome.err.endswith("10 more tasks refused: --json names all\n")
