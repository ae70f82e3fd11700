"""What used to end with a traceback: one line each, and a status that says what kind of fault it is."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome, Run

# Ctrl-C comes just when a module is being imported.
INTERRUPTED = """
import runpy, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
sys.argv = ["swh-sched-runner", *{arguments!r}]
runpy.run_module("swh_sched_runner", run_name="__main__")
"""


def shell(environ: dict[str, str], command: str) -> Outcome:
    """A command of a shell, in which ``$PROGRAM`` is ours."""
    environ = environ | {"PROGRAM": f"{sys.executable} -m swh_sched_runner"}
    done = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, text=True, timeout=60, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("$PROGRAM config show > /dev/full", "No space left on device"),
        ("$PROGRAM config show --json > /dev/full", "No space left on device"),
        ("$PROGRAM --version >&-", "Bad file descriptor"),
    ],
)
def test_stdout_that_can_not_be_written_exits_1(environ: dict[str, str], command: str, reason: str) -> None:
    outcome = shell(environ, command)

    assert (outcome.status, outcome.err) == (1, f"swh-sched-runner: stdout can't be written: {reason}\n")


@pytest.mark.slow
def test_a_closed_stderr_is_nothing_to_stop_at(environ: dict[str, str]) -> None:
    outcome = shell(environ, "$PROGRAM config show 2>&-")

    assert outcome.status == 0
    assert "batch_size = 1000" in outcome.out


def test_stdout_that_fails_in_the_middle_of_a_table_exits_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with suppress(OSError), open("/dev/full", "w", buffering=1) as full, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", full)
        outcome = run("task-type", "list")

    assert (outcome.status, outcome.err) == (1, "swh-sched-runner: stdout can't be written: No space left on device\n")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[" * 5_000 + "]" * 5_000, "nested too deep"),
        ("1" * 5_000, "numbers may have at most 4,300 digits"),
        ("{" * 5_000, "is not JSON"),
    ],
)
def test_arguments_that_no_parser_reads_exit_64(run: Run, value: str, said: str) -> None:
    outcome = run("task", "add", "any", "--json-arguments", value)

    assert (outcome.status, outcome.out) == (64, "")
    assert said in outcome.err
    assert len(outcome.err) < 500


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_data_directory_that_can_not_be_written_exits_78(run: Run, command: str) -> None:
    outcome = run("--data-dir", "/proc/self", command)

    assert (outcome.status, outcome.out) == (78, "")
    assert outcome.err.startswith("swh-sched-runner: /proc/self")
    assert "can't be the data directory: No such file or directory" in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_file_in_the_data_directory_that_can_not_be_written_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data" / "lock").mkdir(parents=True)
    (tmp_path / "data").chmod(0o700)

    outcome = run("--data-dir", str(tmp_path / "data"), "up")

    assert outcome.status == 78
    assert outcome.err.endswith(f"can't be the data directory: Is a directory ({tmp_path}/data/lock)\n")


@pytest.mark.parametrize("url", ["postgresql://[::1", "postgresql://[::1]x/db", "postgresql://::1]/db"])
def test_a_url_that_no_parser_takes_exits_78(run: Run, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SWH_SCHED_RUNNER_DATABASE__URL", url)

    outcome = run("task", "list")

    assert outcome.status == 78
    assert outcome.err.startswith("swh-sched-runner: database.url has a host or a port that can't be parsed")
    assert outcome.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments"),
    [("click", ["--help"]), ("swh_sched_runner.cli.context", ["status"]), ("celery", ["run"])],
)
def test_ctrl_c_in_the_first_second_exits_130(environ: dict[str, str], module: str, arguments: list[str]) -> None:
    code = INTERRUPTED.format(module=module, arguments=arguments)

    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=os.sep, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "swh-sched-runner: interrupted")
