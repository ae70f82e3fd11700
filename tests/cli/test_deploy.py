"""``deploy files``: what runs the program as a service, written where somebody wants it."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run
from tests.support.sources import CHECKOUT

DEPLOY = CHECKOUT / "deploy"


def test_the_files_are_written_and_named(run: Run, tmp_path: Path) -> None:
    outcome = run("deploy", "files", str(tmp_path / "a" / "b"))

    written = sorted(tmp_path.joinpath("a/b").rglob("*.*"))
    assert outcome.status == 0
    assert sorted(outcome.out.splitlines()) == [str(file) for file in written if file.is_file()]
    unit = "swh-sched-runner-run.service"
    assert (tmp_path / "a/b" / unit).read_bytes() == (DEPLOY / unit).read_bytes()
    assert (tmp_path / "a/b/sysusers.d/swh-sched-runner.conf").exists()
    assert not (tmp_path / "a/b/README.md").exists()


def test_a_file_that_was_changed_is_replaced_by_force_alone(run: Run, tmp_path: Path) -> None:
    changed = tmp_path / "prometheus" / "alerts.yml"
    changed.parent.mkdir()
    changed.write_text("mine")

    refused = run("deploy", "files", str(tmp_path))
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == f"Error: {changed} is there and differs: --force replaces it; nothing was written\n"
    assert not (tmp_path / "sysusers.d").exists()

    assert run("deploy", "files", str(tmp_path), "--force").status == 0
    assert changed.read_bytes() == (DEPLOY / "prometheus/alerts.yml").read_bytes()
    assert run("deploy", "files", str(tmp_path)).status == 0


def test_a_folder_that_can_not_be_written_exits_1_with_one_line(run: Run) -> None:
    outcome = run("deploy", "files", "/proc/self/nowhere")

    assert (outcome.status, outcome.out) == (1, "")
    assert "No such file or directory" in outcome.err
    assert outcome.err.count("\n") == 1
