"""``task-type pause``, ``resume``, ``set`` and ``show``: the controls of a type."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.model import TypeControls
from tests.cli.conftest import Run
from tests.support.samples import a_type


@pytest.fixture
def load_git(backend: SchedulerBackend) -> str:
    backend.create_task_type(a_type())
    return "load-git"


def controls_of(backend: SchedulerBackend) -> TypeControls:
    [found] = backend.get_controls().task_types
    return found


def test_a_task_type_is_paused_and_resumed(
    run: Run, backend: SchedulerBackend, load_git: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ada")

    paused = run("task-type", "pause", load_git, "--reason", "the forge is down")
    pause = controls_of(backend).pause
    again = run("task-type", "pause", load_git, "--by", "bob", "--reason", "another")
    resumed, idle = run("task-type", "resume", load_git), run("task-type", "resume", load_git)

    assert pause is not None
    assert (pause.by, pause.reason) == (f"ada@{socket.gethostname()}", "the forge is down")
    since = f"since {pause.since:%Y-%m-%d %H:%M:%S} by {pause.by}: the forge is down\n"
    assert (paused.status, paused.out) == (0, "paused task type load-git\n")
    assert (again.status, again.out) == (0, f"task type load-git is already paused, {since}")
    assert (resumed.status, resumed.out) == (0, f"resumed task type load-git, paused {since}")
    assert (idle.status, idle.out) == (0, "task type load-git is not paused\n")
    assert controls_of(backend).pause is None


def test_limits_are_set_one_by_one_and_lifted(run: Run, backend: SchedulerBackend, load_git: str) -> None:
    def limits() -> tuple[int | None, int | None, float | None]:
        found = controls_of(backend)
        return found.max_queue_length, found.max_in_flight, found.rate_limit

    outcome = run("task-type", "set", load_git, "--max-in-flight", "20", "--rate-limit", "0.5")
    assert (outcome.status, outcome.out) == (0, "task type load-git: max_in_flight 20, rate_limit 0.5\n")
    assert limits() == (100, 20, 0.5)

    run("task-type", "set", load_git, "--max-queue-length", "none", "--max-in-flight", "0")
    assert limits() == (None, 0, 0.5)

    run("task-type", "set", load_git, "--max-queue-length", "5", "--max-in-flight", "none", "--rate-limit", "none")
    assert limits() == (5, None, None)


def test_what_limits_the_runs_of_a_type_is_set_and_lifted(run: Run, backend: SchedulerBackend, load_git: str) -> None:
    outcome = run("task-type", "set", load_git, "--max-run-seconds", "3600", "--keep-runs", "90d")
    assert (outcome.status, outcome.out) == (0, "task type load-git: max_run_seconds 3600, keep_runs 90d\n")
    found = controls_of(backend)
    assert (found.max_run_seconds, found.keep_runs) == (3600.0, timedelta(days=90))
    as_json = run("task-type", "show", load_git, "--json").json
    assert (as_json["max_run_seconds"], as_json["keep_runs"]) == (3600, 90 * 86400)
    assert "keep runs        90d\n" in run("task-type", "show", load_git).out

    run("task-type", "set", load_git, "--max-run-seconds", "none")
    found = controls_of(backend)
    assert (found.max_run_seconds, found.keep_runs) == (None, timedelta(days=90))
    run("task-type", "set", load_git, "--keep-runs", "none")
    assert controls_of(backend).keep_runs is None


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ((), 64, "nothing to set"),
        (("--max-run-seconds", "long"), 64, "--max-run-seconds: 'long' is neither a number nor `none`"),
        (("--max-run-seconds", "0"), 64, " must be a number from 0.001 to"),
        (("--max-run-seconds", "-1"), 64, " must be a number from 0.001 to"),
        (("--max-run-seconds", "inf"), 64, " must be a number from 0.001 to"),
        (("--keep-runs", "long"), 64, "--keep-runs: 'long' is neither a duration nor `none`"),
        (("--keep-runs", "400000d", "--max-in-flight", "1"), 64, " must be at most 365000 days"),
        (("--max-in-flight", "many"), 64, "--max-in-flight: 'many' is neither a number nor `none`"),
        (("--max-queue-length", "1.5"), 64, "--max-queue-length: '1.5' is neither a number nor `none`"),
        (("--rate-limit", ""), 64, "--rate-limit: '' is neither a number nor `none`"),
        (("--max-in-flight", "-1"), 64, " must be a whole number from 0 to"),
        (("--rate-limit", "0"), 64, " must be a number from 0.000001 to 1000000"),
        (("--rate-limit", "inf"), 64, " must be a number from"),
        (("--rate-limit", "nan"), 64, " must be a number from"),
    ],
)
def test_wrong_limits_are_refused_and_none_is_set(
    run: Run, backend: SchedulerBackend, load_git: str, words: tuple[str, ...], status: int, message: str
) -> None:
    before = controls_of(backend)

    outcome = run("task-type", "set", load_git, *words)

    assert (outcome.status, outcome.out) == (status, "")
    assert message in outcome.err
    assert controls_of(backend) == before


@pytest.mark.parametrize(
    "words", [("pause",), ("resume",), ("show",), ("set", "--max-in-flight", "1")], ids=lambda words: words[0]
)
def test_an_unknown_task_type_exits_1_and_is_named(run: Run, load_git: str, words: tuple[str, ...]) -> None:
    outcome = run("task-type", words[0], "nosuch", *words[1:])

    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith("swh-sched-runner: no task type 'nosuch': ")
    assert outcome.err.count("\n") == 1


def test_a_task_type_is_shown_with_its_controls(run: Run, backend: SchedulerBackend, load_git: str) -> None:
    backend.pause_task_type(load_git, by="ada", reason="looking")
    backend.set_task_type_limits(load_git, max_in_flight=7, rate_limit=0.5)

    as_json = run("task-type", "show", load_git, "--json").json
    lines = dict(line.split(maxsplit=1) for line in run("task-type", "show", load_git).out.splitlines())
    [listed] = run("task-type", "list", "--json").json

    assert as_json == listed
    assert (as_json["max_in_flight"], as_json["rate_limit"], as_json["max_queue_length"]) == (7, 0.5, 100)
    assert (as_json["pause"]["by"], as_json["pause"]["reason"]) == ("ada", "looking")
    assert (lines["type"], lines["queue"], lines["tasks/s"]) == (load_git, "tests.load-git", "0.5")
    assert lines["paused"].endswith(" by ada: looking")
