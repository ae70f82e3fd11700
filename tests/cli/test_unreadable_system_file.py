"""/etc/swh-sched-runner is for the service alone: others are told so where it matters, and served where it doesn't."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from swh_sched_runner.cli.context import Context
from swh_sched_runner.config import sources
from tests.cli.conftest import Run

NOBODY = 65_534


@pytest.fixture
def system_file(monkeypatch: pytest.MonkeyPatch, run: Run) -> Iterator[Path]:
    """A file in a folder that this user may not enter; root becomes nobody meanwhile."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    file = folder / "etc" / "config.toml"
    file.parent.mkdir()
    file.write_text("[runner]\nbatch_size = 7\n")
    home = folder / "home"
    home.mkdir()
    file.parent.chmod(0)
    folder.chmod(0o755)
    monkeypatch.setattr(sources, "SYSTEM_FILE", file)
    monkeypatch.delenv("SWH_SCHED_RUNNER_DATABASE__URL")
    monkeypatch.setenv("HOME", str(home))
    before = os.geteuid()
    if before == 0:
        os.chown(home, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    yield file
    os.seteuid(before)
    file.parent.chmod(0o700)
    shutil.rmtree(folder)


def test_an_unreadable_system_file_is_skipped(run: Run, system_file: Path) -> None:
    outcome = run("config", "show", "--json")

    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.json["runner"]["batch_size"] == 1000


def test_a_command_without_a_database_says_which_file_was_not_read(run: Run, system_file: Path) -> None:
    outcome = run("task", "list")

    assert (outcome.status, outcome.out) == (78, "")
    assert outcome.err.endswith(
        f": {system_file} was not read: Permission denied; use sudo -u swh-sched-runner, or --config\n"
    )
    assert outcome.err.count("\n") == 1


def test_up_and_demo_find_their_data_directory_and_no_servers_of_others(system_file: Path) -> None:
    context = Context(None, {}, os.environ)

    assert context.data_directory == Path(os.environ["HOME"]) / ".local/share/swh-sched-runner"
    assert (context.settings.database.url, context.settings.broker.url) == (None, None)


def test_a_file_that_is_named_is_read_or_refused_whatever_the_system_has(
    run: Run, system_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWH_SCHED_RUNNER_CONFIG", "/dev/null")

    outcome = run("task", "list")

    assert outcome.status == 69
    assert "was not read" not in outcome.err
