"""What the exit status says, and that errors are one line on stderr. By running the real program."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swh_sched_runner import __version__
from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.db.engine import connect
from tests.cli.conftest import Run
from tests.support.wait import until

pytestmark = pytest.mark.slow

DATABASE = "SWH_SCHED_RUNNER_DATABASE__URL"


def test_a_command_that_does_its_work_exits_0(program: Run, database_url: str) -> None:
    outcome = program("task-type", "list", "--json", **{DATABASE: database_url})

    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.json == []


def test_the_version_and_help_need_no_configuration(program: Run) -> None:
    version = program("--version", SWH_SCHED_RUNNER_RUNNER__BATCH_SIZE="wrong")
    topic = program("db", "--help", SWH_SCHED_RUNNER_RUNNER__BATCH_SIZE="wrong")

    assert (version.status, version.out) == (0, f"swh-sched-runner {__version__}\n")
    assert topic.status == 0
    assert "upgrade" in topic.out


def test_without_arguments_the_help_is_printed_and_the_usage_is_wrong(program: Run) -> None:
    outcome = program()

    assert outcome.status == 64
    assert "Exit status:" in outcome.err
    assert "task-type" in outcome.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("tsk",),
        ("task", "list", "--nonsense"),
        ("task", "list", "--limit", "x"),
        ("task", "add"),
        ("--log-format", "x"),
    ],
)
def test_wrong_usage_exits_64(run: Run, arguments: tuple[str, ...]) -> None:
    outcome = run(*arguments)

    assert outcome.status == 64
    assert outcome.out == ""
    assert "Error: " in outcome.err


def test_what_the_scheduler_refuses_exits_1_with_one_line(program: Run, database_url: str) -> None:
    outcome = program("task", "add", "nosuch", **{DATABASE: database_url})

    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith("swh-sched-runner: no task type 'nosuch': ")
    assert outcome.err.count("\n") == 1


def test_a_database_that_is_not_there_exits_69(program: Run, tmp_path: Path) -> None:
    url = f"postgresql://user:hidden@/db?host={tmp_path}"

    outcome = program("task", "list", **{DATABASE: url})

    assert outcome.status == 69
    assert outcome.err.startswith("swh-sched-runner: The database can't be reached: ")
    assert outcome.err.count("\n") == 1
    assert "hidden" not in outcome.err


def test_without_configuration_and_without_up_69_names_up(program: Run, environ: dict[str, str]) -> None:
    outcome = program("task", "list")

    assert (outcome.status, outcome.out) == (69, "")
    assert outcome.err == (
        f"swh-sched-runner: database.url is not configured and nothing runs in {environ['HOME']}/.local/share/"
        "swh-sched-runner: run `swh-sched-runner up`, or configure it\n"
    )


def test_the_data_directory_is_an_option(program: Run, tmp_path: Path) -> None:
    assert f"nothing runs in {tmp_path}/data:" in program("--data-dir", str(tmp_path / "data"), "task", "list").err


def test_a_wrong_configuration_exits_78(program: Run, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[runner]\nperid = 1\n")

    by_option = program("--config", str(file), "task", "list")
    by_variable = program("task", "list", SWH_SCHED_RUNNER_CONFIG=str(file))

    assert by_option == by_variable
    assert (by_option.status, by_option.out) == (78, "")
    assert by_option.err == (
        f"swh-sched-runner: unknown option runner.perid, did you mean runner.period_seconds? ({file})\n"
    )


def test_a_file_that_is_absent_exits_78(program: Run) -> None:
    assert program("--config", "/nonexistent", "config", "show").status == 78


def test_an_empty_database_exits_78_and_names_the_command(program: Run, empty_database_url: str) -> None:
    outcome = program("task", "list", **{DATABASE: empty_database_url})

    assert outcome.status == 78
    assert outcome.err == "swh-sched-runner: the database is empty: run `swh-sched-runner db init`\n"


def test_an_unexpected_error_exits_1_and_leaves_its_trace_in_the_log(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a fault of ours, password=hidden")

    monkeypatch.setattr(SchedulerBackend, "search_tasks", fault)

    outcome = run("--log-format", "json", "task", "list")

    assert (outcome.status, outcome.out) == (1, "")
    line = json.loads(outcome.err)
    assert line["event"] == "unexpected error"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("RuntimeError: a fault of ours, password=***")


def test_ctrl_c_is_quiet_and_exits_130(environ: dict[str, str], database_url: str, tmp_path: Path) -> None:
    # given a command that waits for a lock
    lock = connect(database_url)
    lock.cursor().execute("lock table task_type")
    command = subprocess.Popen(
        [sys.executable, "-m", "swh_sched_runner", "task-type", "list"],
        env=environ | {DATABASE: database_url},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        watch = connect(database_url)
        watch.autocommit = True

        def waits() -> bool:
            with watch.cursor() as cursor:
                cursor.execute(
                    "select from pg_locks l join pg_database d on d.oid = l.database "
                    "where not granted and datname = current_database()"
                )
                return cursor.rowcount > 0

        until(waits, 30)
        # when
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=30)
    finally:
        command.kill()
        watch.close()
        lock.close()
    # then
    assert (command.returncode, out, err) == (-signal.SIGINT, "", "")  # a shell calls that 130


def test_a_reader_that_goes_away_is_no_news(environ: dict[str, str], tmp_path: Path) -> None:
    command = subprocess.Popen(
        [sys.executable, "-m", "swh_sched_runner", "db", "sql"],
        env=environ,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    command.stdout.close()

    _, err = command.communicate(timeout=30)

    assert (command.returncode, err) == (141, "")  # as if SIGPIPE had ended it
