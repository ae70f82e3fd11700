"""Values that can't be right are refused with the limit named; what doesn't exist is named, with what may be meant."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from swh_sched_runner.backend import SchedulerBackend
from tests.cli.conftest import Run
from tests.support.samples import a_type

LONG = "9" * 5_000


@pytest.fixture
def typo(backend: SchedulerBackend) -> str:
    backend.create_task_type(a_type("typo"))
    return "typo"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a\nb", "--backend-name", "q"), "must not contain control characters"),
        (("a", "--backend-name", "q\x1b[31m"), "must not contain control characters"),
        (("a", "--backend-name", "q" * 256), "a queue may have 255"),
        (("a", "--backend-name", "q" * 245), "save_code_now:qqq"),
        (("a", "--backend-name", "q", "--default-interval", "0s"), "0s must be above 0"),
        (("a", "--backend-name", "q", "--num-retries", "1000000000000"), "from 0 to 1000000"),
        (("a", "--backend-name", "q", "--num-retries", LONG), "not a whole number from -9223372036854775808 to"),
        (("a", "--backend-name", "q", "--max-queue-length", LONG), "more digits than a number may have"),
        (
            ("a", "--backend-name", "q", "--min-interval", "2d", "--max-interval", "1d"),
            "--min-interval 2d is above --max-interval 1d",
        ),
        (("a", "--backend-name", "q", "--max-interval", "400000d"), "400000d must be at most 365000 days"),
    ],
    ids=str,
)
def test_a_task_type_that_can_not_work_is_refused_with_the_limit(
    run: Run, backend: SchedulerBackend, words: tuple[str, ...], said: str
) -> None:
    outcome = run("task-type", "add", *words)

    assert (outcome.status, outcome.out) == (64, "")
    assert said in outcome.err
    assert len(outcome.err) < 800
    assert backend.get_task_types() == []


@pytest.mark.parametrize(
    "words",
    [
        ("task", "show", LONG),
        ("task", "show", "99999999999999999999"),
        ("task", "list", "--limit", "-1"),
        ("explain", "task", "99999999999999999999"),
        ("events", "rejected", "show", "1.5"),
        ("run", "--batch-size", "0"),
        ("run", "--period", "nan"),
        ("listen", "--batch-size", "99999999"),
        ("task", "add", "typo", "--next-run", "soon"),
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_a_bad_value_of_an_option_exits_64(run: Run, typo: str, words: tuple[str, ...]) -> None:
    outcome = run(*words)

    assert (outcome.status, outcome.out) == (64, "")
    assert len(outcome.err) < 800


def test_a_recurring_task_needs_an_interval(run: Run, backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type("once", default_interval=None))

    outcome = run("task", "add", "once")

    assert outcome.status == 64
    assert "recurring needs a task type with a default_interval" in outcome.err


def test_visits_that_are_not_configured_exit_78(run: Run) -> None:
    outcome = run("visits")

    assert (outcome.status, outcome.out) == (78, "")
    assert outcome.err == "swh-sched-runner: no visit types are configured: add a table [visits.<type>]\n"


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--once", "--task-type", "tpyo"),
        ("task", "list", "--type", "tpyo"),
        ("task", "add", "tpyo"),
        ("task-type", "show", "tpyo"),
        ("task-type", "pause", "tpyo"),
        ("task-type", "set", "tpyo", "--max-in-flight", "1"),
        ("runs", "prune", "--task-type", "tpyo"),
    ],
    ids=lambda words: " ".join(words),
)
def test_an_unknown_task_type_exits_1_and_says_which_is_meant(
    run: Run, typo: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWH_SCHED_RUNNER_BROKER__URL", "redis://127.0.0.1:1")  # not asked

    outcome = run(*words)

    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == "swh-sched-runner: no task type 'tpyo', did you mean 'typo'?\n"


def test_an_unknown_queue_exits_1_and_says_which_is_meant(run: Run, backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type("any", backend_name="my.queue"))

    outcome = run("queue", "pause", "my.quue")

    assert outcome.status == 1
    assert "my.queue" in outcome.err


def test_a_task_that_exists_is_not_printed_as_if_it_were_new(run: Run, typo: str) -> None:
    words = ("task", "add", typo, "1", "--next-run", "2030-01-01")

    first, again, as_json, other = run(*words), run(*words), run(*words, "--json"), run(*words, "2", "--json")

    assert "exists already" not in first.out
    assert again.out == f"task 1 exists already\n{first.out}"
    assert (as_json.json["id"], as_json.json["created"]) == (1, False)
    assert other.json["created"] is True


def test_an_interval_of_nothing_is_refused_by_the_library_too(backend: SchedulerBackend) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        backend.create_task_type(a_type("idle", default_interval=timedelta(0)))


@pytest.mark.parametrize(
    "words",
    [
        ("config", "show", "--json", "--log-level", "debug"),
        ("config", "--log-level", "debug", "show", "--json"),
        ("--log-level", "error", "config", "show", "--json", "--log-level", "debug"),
    ],
    ids=" ".join,
)
def test_global_options_are_taken_after_the_command_as_well(run: Run, words: tuple[str, ...]) -> None:
    assert run(*words).json["log"]["level"] == "debug"


def test_a_configuration_is_named_after_the_command_as_well(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[runner]\nbatch_size = 7\n")

    shown = run("config", "show", "--json", "--config", str(file), "--data-dir", "/there")

    assert (shown.json["runner"]["batch_size"], shown.json["data_directory"]) == (7, "/there")
    assert run("run", "--log-format", "yaml").status == 64
