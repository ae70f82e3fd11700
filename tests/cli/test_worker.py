"""``worker list`` and ``worker forget``: what people and programs read of workers' lives."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.workers.lives import Inspected
from swh_sched_runner.backend.workers.registry import Workers
from swh_sched_runner.broker.celery.events import TaskStarted, WorkerHeartbeat, WorkerOnline
from swh_sched_runner.db.engine import Database
from swh_sched_runner.services.listener.merge import fold
from swh_sched_runner.services.listener.signs import signs_of
from tests.cli.conftest import Run
from tests.support.samples import a_type, run_of_a_task


@pytest.fixture
def known(backend: SchedulerBackend, database: Database) -> None:
    """A worker whose clock is ten minutes late, in its second life, which executes a run."""
    backend.create_task_type(a_type())
    run_of_a_task(backend)
    began = datetime.now(UTC).timestamp() - 600
    start = TaskStarted(uuid="run-1", timestamp=began + 21, hostname="w1@here", pid=8, clock=3, life="b")
    events = [
        WorkerOnline(timestamp=began, hostname="w1@here", pid=7, clock=1, life="a", processed=0),
        WorkerOnline(timestamp=began + 20, hostname="w1@here", pid=8, clock=1, life="b", processed=0),
        WorkerHeartbeat(timestamp=began + 22, hostname="w1@here", pid=8, clock=4, life="b", processed=1, active=1),
        start,
    ]
    for event in events:
        Dispatch(database).record_events(fold([start]) if event is start else [], (), signs_of([event]))
    Workers(database).record_answers([Inspected(2, "prefork", False, 60.0, ["tests.load-git", "other"])])


@pytest.mark.usefixtures("known")
def test_a_list_shows_lives_and_what_they_execute(run: Run) -> None:
    shown = run("worker", "list")
    everything = run("worker", "list", "--all", "--json")

    header, line = shown.out.splitlines()
    assert header.split("  ")[0] == "worker"
    assert line.startswith("w1@here  8    online")
    assert "load-git 1 for " in line
    assert "tests.load-git,other" in line
    assert line.rstrip().endswith("!  -")  # nothing is compared yet
    first, second = everything.json
    assert (first["life"], first["state"], second["life"], second["state"]) == ("a", "succeeded", "b", "online")
    assert second["executing"][0]["backend_id"] == "run-1"
    assert second["clock_is_off"] is True
    assert second["missing_events"] is None


@pytest.mark.usefixtures("known")
def test_a_worker_is_forgotten_once_it_is_silent_or_by_force(run: Run) -> None:
    refused = run("worker", "forget", "w1@here")
    forced = run("worker", "forget", "w1@here", "--force")
    unknown = run("worker", "forget", "w1@here")

    assert (refused.status, forced.status, unknown.status) == (1, 0, 1)
    assert "The worker w1@here gave a sign of life" in refused.err
    assert forced.out == "forgot worker w1@here: 1 life\n"
    assert "No worker w1@here is known that has not ended" in unknown.err


def test_without_workers_the_list_says_so(run: Run) -> None:
    assert run("worker", "list").out.strip() == "none"
    assert run("worker", "list", "--json").json == []
