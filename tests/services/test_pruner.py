"""The pruner walks the runs a page a round, and rests between its passes."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.tasks.retention import PrunedPage, PruneRule, Retention
from swh_sched_runner.config import PrunerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.maintenance import retention
from swh_sched_runner.services.maintenance.retention import LEAST_PAGE_RUNS, PAGE_RUNS, Pruner
from swh_sched_runner.services.service import Heartbeat
from tests.support.samples import a_task, a_type

OLD = datetime.now(UTC) - timedelta(days=2)


@pytest.fixture
def backend(backend: SchedulerBackend) -> SchedulerBackend:
    """With a type that keeps its runs for a day, and ten runs of a task that ended before."""
    backend.create_task_type(a_type())
    backend.set_task_type_limits("load-git", keep_runs=timedelta(days=1))
    [task] = backend.create_tasks([a_task()])
    for n in range(10):
        backend.schedule_task_run(task["id"], f"run-{n}", timestamp=OLD)
        backend.end_task_run(f"run-{n}", "eventful", timestamp=OLD)
    return backend


def left(backend: SchedulerBackend) -> list[str]:
    return [run["backend_id"] for run in backend.get_task_runs(task["id"] for task in backend.search_tasks())]


def value(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("swh_sched_runner_runs_pruned_total", {"task_type": "load-git"})


@pytest.fixture
def pages_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PAGE_RUNS", 4)
    monkeypatch.setattr(retention, "PAGE_SECONDS", 1e9)


@pytest.mark.usefixtures("pages_of_four")
def test_a_pass_prunes_page_by_page_and_is_counted(backend: SchedulerBackend, database: Database) -> None:
    instruments = Instruments()
    pruner, heartbeat = Pruner(Retention(database), PrunerSettings(), instruments), Heartbeat()

    more = [pruner.run_once(heartbeat) for _ in range(3)]

    assert more == [True, True, False]
    assert left(backend) == ["run-9"]
    assert (pruner.pruned, value(instruments.registry)) == ({"load-git": 9}, 9)
    assert heartbeat.status == "pruned 9 runs"
    assert not pruner.run_once(heartbeat)  # the next pass begins anew
    assert (pruner.pruned, value(instruments.registry)) == ({}, 9)


@pytest.mark.usefixtures("pages_of_four")
def test_one_that_was_interrupted_is_gone_on_with(backend: SchedulerBackend, database: Database) -> None:
    first = Pruner(Retention(database), PrunerSettings())
    assert first.run_once(Heartbeat())
    assert len(left(backend)) == 6

    second = Pruner(Retention(database), PrunerSettings())
    while second.run_once(Heartbeat()):
        pass

    assert second.pruned == {"load-git": 5}
    assert left(backend) == ["run-9"]


def test_a_dry_run_is_not_counted_as_pruned(backend: SchedulerBackend, database: Database) -> None:
    instruments = Instruments()
    pruner = Pruner(Retention(database), PrunerSettings(), instruments, PruneRule(dry_run=True))

    assert not pruner.run_once(Heartbeat())

    assert pruner.pruned == {"load-git": 9}
    assert value(instruments.registry) is None
    assert len(left(backend)) == 10


class Slow(Retention):
    """Says that there is always another page, and how many runs were to be looked at."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def prune_page(self, rule: PruneRule, after: int, rows: int, now: datetime | None = None) -> PrunedPage:
        self.asked.append(rows)
        return PrunedPage(after + rows, {})


def test_pages_shrink_while_they_take_long_and_grow_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    stop.set()  # so that it does not rest between pages
    slow, heartbeat = Slow(), Heartbeat(stop)
    pruner = Pruner(slow, PrunerSettings())

    monkeypatch.setattr(retention, "PAGE_SECONDS", -1.0)
    for _ in range(7):
        pruner.run_once(heartbeat)
    monkeypatch.setattr(retention, "PAGE_SECONDS", 1e9)
    for _ in range(7):
        pruner.run_once(heartbeat)

    assert slow.asked[0] == slow.asked[-1] == PAGE_RUNS
    assert min(slow.asked) == LEAST_PAGE_RUNS
