"""The fixtures that are shipped work in a project of somebody else's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.sources import CHECKOUT

TASKS = """
from celery import shared_task

@shared_task(name="sample.oneshot")
def oneshot(word):
    if word == "bad":
        raise ValueError(word)
    return {"status": "success", "eventful": True}
"""

TESTS = """
from datetime import datetime, timezone

def test_a_task_of_mine_runs(scheduler_backend, scheduler_worker, scheduler_run_until):
    tasks = scheduler_backend.create_tasks([
        {"type": "sample-oneshot", "arguments": {"args": [word], "kwargs": {}}, "next_run": datetime.now(timezone.utc)}
        for word in ("good", "bad")
    ], policy="oneshot")
    ids = [task["id"] for task in tasks]
    scheduler_worker("my_tasks", "sample.oneshot")

    def ended():
        return [run["ended"] is not None for run in scheduler_backend.get_task_runs(ids)] == [True, True]

    scheduler_run_until(ended)

    assert [run["status"] for run in scheduler_backend.get_task_runs(ids)] == ["eventful", "failed"]

def test_each_test_has_a_database_of_its_own(scheduler_backend):
    assert scheduler_backend.search_tasks() == []
    assert [found["type"] for found in scheduler_backend.get_task_types()] == ["sample-oneshot", "sample-recurring"]
"""


def test_a_project_tests_its_tasks_with_the_shipped_fixtures(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["swh_sched_runner.pytest_plugin"]\n')
    (tmp_path / "my_tasks.py").write_text(TASKS)
    (tmp_path / "test_mine.py").write_text(TESTS)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:pytest_celery"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(CHECKOUT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
