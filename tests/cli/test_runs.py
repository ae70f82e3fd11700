"""``runs prune``: what goes, what it says, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from swh_sched_runner.backend import SchedulerBackend
from tests.cli.conftest import Run
from tests.support.samples import a_task, a_type

OLD = datetime.now(UTC) - timedelta(days=100)


@pytest.fixture
def backend(backend: SchedulerBackend) -> SchedulerBackend:
    """Two types, each with a task of three old runs; the first keeps them for 90 days."""
    for name in ("load-git", "load-hg"):
        backend.create_task_type(a_type(name))
        [task] = backend.create_tasks([a_task(0, name)])
        for n in range(3):
            backend.schedule_task_run(task["id"], f"{name}-{n}", timestamp=OLD)
            backend.end_task_run(f"{name}-{n}", "eventful", timestamp=OLD)
    backend.set_task_type_limits("load-git", keep_runs=timedelta(days=90))
    return backend


def left(backend: SchedulerBackend) -> int:
    return len(backend.get_task_runs(task["id"] for task in backend.search_tasks()))


def test_runs_prune_deletes_what_is_older_than_it_is_kept(run: Run, backend: SchedulerBackend) -> None:
    dry = run("runs", "prune", "--dry-run", "--json")
    assert (dry.status, dry.json) == (0, {"dry_run": True, "pruned": {"load-git": 2}})
    assert left(backend) == 6

    done = run("runs", "prune")
    assert (done.status, [line.split() for line in done.out.splitlines()]) == (
        0,
        [["type", "pruned"], ["load-git", "2"]],
    )
    assert left(backend) == 4
    assert run("runs", "prune").out == "  no run is older than it is kept\n"


def test_runs_prune_takes_a_type_and_an_age(run: Run, backend: SchedulerBackend) -> None:
    assert run("runs", "prune", "--task-type", "load-hg", "--json").json["pruned"] == {}
    assert run("runs", "prune", "--older-than", "101d", "--json").json["pruned"] == {}

    older = run("runs", "prune", "--task-type", "load-hg", "--older-than", "99d", "--json")

    assert older.json == {"dry_run": False, "pruned": {"load-hg": 2}}
    assert left(backend) == 4


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--task-type", "nosuch"), 1, "no task type 'nosuch'"),
        (("--older-than", "400000d"), 64, "400000d must be at most 365000 days"),
        (("--older-than", "long"), 64, "'long' is not a duration"),
    ],
)
def test_what_runs_prune_can_not_follow_is_refused(
    run: Run, backend: SchedulerBackend, words: tuple[str, ...], status: int, message: str
) -> None:
    outcome = run("runs", "prune", *words)

    assert (outcome.status, outcome.out) == (status, "")
    assert message in outcome.err
    assert left(backend) == 6
