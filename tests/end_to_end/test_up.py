"""`up` on a machine with neither a database nor a broker."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes.programs import Programs, kill_all, terminate
from tests.support.wait import until

pytestmark = pytest.mark.slow

TASKS = """
import pathlib, time
from celery import shared_task

@shared_task(name="quick")
def quick(changed):
    return {"status": "success", "eventful": changed == "yes"}

@shared_task(name="long")
def long(mark):
    pathlib.Path(mark).touch()
    time.sleep(600)
"""


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    (tmp_path / "mytasks.py").write_text(TASKS)
    programs = Programs(tmp_path, {"SWH_SCHED_RUNNER_DATA_DIRECTORY": str(tmp_path / "data")})
    yield programs
    programs.close()


def up(programs: Programs) -> subprocess.Popen[bytes]:
    before = programs.log("up").count("event=ready")
    process = programs.start("up")
    until(lambda: programs.log("up").count("event=ready") > before or process.poll() is not None, 60)
    assert process.poll() is None, programs.log("up")
    return process


def add(programs: Programs, name: str, *arguments: str) -> int:
    kinds = ["--backend-name", name, "--description", name, "--default-interval", "1h", "--if-missing"]
    assert programs.run("task-type", "add", name, *kinds).returncode == 0
    task: int = programs.json("task", "add", name, "--policy", "oneshot", *arguments)["id"]
    return task


def runs(programs: Programs, task: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = programs.json("task", "show", str(task))["runs"]
    return found


def test_from_nothing_to_an_ended_run_and_a_clean_stop(programs: Programs) -> None:
    lonely = programs.run("status")
    assert lonely.returncode == 69
    assert "swh-sched-runner up" in lonely.stderr

    process = up(programs)
    second = programs.run("up")
    assert second.returncode == 1
    assert "another" in second.stderr.lower()

    task = add(programs, "quick", "changed=yes")
    worker = programs.start("worker", "start", "-I", "mytasks", "-c", "1")
    until(lambda: [run["status"] for run in runs(programs, task)] == ["eventful"], 60)

    assert terminate(worker) == 0
    assert terminate(process) == 0
    assert programs.run("status").returncode == 69
    assert "Traceback" not in programs.log("up")


def test_after_sigkill_a_restart_sends_again_what_waited_and_ends_what_was_lost(programs: Programs) -> None:
    process = up(programs)
    mark = programs.directory / "begun"
    lost = add(programs, "long", f"mark={mark}")
    worker = programs.start("worker", "start", "-I", "mytasks", "-c", "1")
    until(mark.exists, 60)
    until(lambda: [run["status"] for run in runs(programs, lost)] == ["started"], 30)
    waiting = add(programs, "quick", "changed=no")
    until(lambda: len(runs(programs, waiting)) == 1, 30)
    [before] = runs(programs, waiting)

    kill_all(worker)
    kill_all(process)
    up(programs)
    worker = programs.start("worker", "start", "-I", "mytasks", "-c", "1")
    until(lambda: [run["status"] for run in runs(programs, waiting)] == ["uneventful"], 60)

    assert runs(programs, waiting)[0]["backend_id"] == before["backend_id"]
    assert [run["status"] for run in runs(programs, lost)] == ["lost"]
