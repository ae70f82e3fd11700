"""What is pruned: ended runs that are older than they are kept, and none that their task follows."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.tasks.retention import PruneRule, Retention
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import InvalidArgument, UnknownTaskType
from swh_sched_runner.model import Evidence
from tests.support.samples import NOW, a_task, a_type

DAY = timedelta(days=1)
KEPT = timedelta(days=90)
LATER = NOW + 100 * DAY
EVERY = PruneRule()


@pytest.fixture
def backend(backend: SchedulerBackend) -> SchedulerBackend:
    """With two types, of which one keeps its runs for 90 days and the other for ever."""
    for name in ("load-git", "load-hg"):
        backend.create_task_type(a_type(name))
    backend.set_task_type_limits("load-git", keep_runs=KEPT)
    return backend


@pytest.fixture
def retention(database: Database) -> Retention:
    return Retention(database)


def run(
    backend: SchedulerBackend,
    task: int,
    name: str,
    opened: datetime = NOW,
    ended: datetime | None = NOW,
    status: str = "eventful",
) -> None:
    backend.schedule_task_run(task, name, timestamp=opened)
    if ended is not None:
        backend.end_task_run(name, status, timestamp=ended)


def a_task_with_runs(backend: SchedulerBackend, *names: str, task_type: str = "load-git", ended: datetime = NOW) -> int:
    """A task with these ended runs, the last of which it follows."""
    [task] = backend.create_tasks([a_task(len(backend.search_tasks()), task_type)])
    for name in names:
        run(backend, task["id"], name, ended=ended)
    number: int = task["id"]
    return number


def pruned(retention: Retention, rule: PruneRule = EVERY, now: datetime = LATER, rows: int = 1000) -> Counter[str]:
    found: Counter[str] = Counter()
    last: int | None = 0
    while last is not None:
        page = retention.prune_page(rule, last, rows, now)
        found.update(page.pruned)
        last = page.last
    return found


def left(backend: SchedulerBackend) -> set[str]:
    ids = [task["id"] for task in backend.search_tasks()]
    return {each["backend_id"] for each in backend.get_task_runs(ids)}


def test_ended_runs_go_when_they_are_older_than_their_type_keeps_them(
    backend: SchedulerBackend, retention: Retention
) -> None:
    a_task_with_runs(backend, "old", "older-than-its-task-s", ended=LATER - KEPT - timedelta(seconds=1))
    a_task_with_runs(backend, "young", "young-too", ended=LATER - KEPT)
    a_task_with_runs(backend, "kept", "kept-too", task_type="load-hg")

    assert pruned(retention) == {"load-git": 1}
    assert left(backend) == {"older-than-its-task-s", "young", "young-too", "kept", "kept-too"}
    assert pruned(retention) == {}


def test_without_keep_runs_nothing_is_pruned(backend: SchedulerBackend, retention: Retention) -> None:
    backend.set_task_type_limits("load-git", keep_runs=None)
    a_task_with_runs(backend, "a", "b")

    assert pruned(retention) == {}
    assert left(backend) == {"a", "b"}


def test_an_open_run_is_never_pruned(backend: SchedulerBackend, retention: Retention) -> None:
    [task] = backend.create_tasks([a_task()])
    run(backend, task["id"], "open", ended=None)
    run(backend, task["id"], "started", ended=None)
    backend.start_task_run("started", timestamp=NOW)
    backend.set_status_tasks([task["id"]], "next_run_not_scheduled")  # it follows neither any more

    assert pruned(retention) == {}
    assert left(backend) == {"open", "started"}


@pytest.mark.parametrize("evidence", list(Evidence))
def test_a_run_that_its_task_follows_stays_and_its_end_may_still_be_corrected(
    backend: SchedulerBackend, retention: Retention, database: Database, evidence: Evidence
) -> None:
    # given a one-shot task that is disabled, since its only run failed long ago
    [task] = backend.create_tasks([a_task(policy="oneshot", retries_left=0)])
    backend.schedule_task_run(task["id"], "run", timestamp=NOW)
    change = RunChange("run", status="failed", ended=NOW, evidence=evidence)
    Dispatch(database).record_events([change])

    # when runs are pruned, and its result comes after all
    assert pruned(retention) == {}
    Dispatch(database).record_events([RunChange("run", status="eventful", ended=NOW, evidence=Evidence.RESULT)])

    # then it counts, unless the end was one
    [corrected] = backend.get_tasks([task["id"]])
    assert corrected["status"] == ("disabled" if evidence is Evidence.RESULT else "completed")


def test_late_evidence_of_a_pruned_run_is_of_no_run_of_ours(
    backend: SchedulerBackend, retention: Retention, database: Database
) -> None:
    task = a_task_with_runs(backend, "gone", "followed")
    before = backend.get_tasks([task])
    assert pruned(retention) == {"load-git": 1}

    recorded = Dispatch(database).record_events(
        [RunChange("gone", status="failed", ended=NOW, evidence=Evidence.RESULT)]
    )

    assert recorded.known == frozenset()
    assert backend.get_tasks([task]) == before


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 1000])
def test_pages_of_any_size_prune_the_same(backend: SchedulerBackend, retention: Retention, rows: int) -> None:
    for n in range(5):
        a_task_with_runs(backend, f"old-{n}", f"followed-{n}")
        a_task_with_runs(backend, f"kept-{n}", f"kept-too-{n}", task_type="load-hg")

    assert pruned(retention, rows=rows) == {"load-git": 5}
    assert len(left(backend)) == 15


def test_a_pass_ends_where_everything_is_younger(backend: SchedulerBackend, retention: Retention) -> None:
    a_task_with_runs(backend, "a", "b")
    task = a_task_with_runs(backend)
    for n in range(4):
        run(backend, task, f"young-{n}", opened=LATER, ended=LATER)

    first = retention.prune_page(EVERY, 0, 2, LATER)
    second = retention.prune_page(EVERY, first.last or 0, 2, LATER)

    assert (first.pruned, first.last is None) == ({"load-git": 1}, False)
    assert (second.pruned, second.last) == ({}, None)


def test_a_rule_may_name_a_type_and_an_age_of_its_own(backend: SchedulerBackend, retention: Retention) -> None:
    for name in ("load-git", "load-hg"):
        a_task_with_runs(backend, f"{name}-old", f"{name}-followed", task_type=name)
        a_task_with_runs(
            backend, f"{name}-young", f"{name}-young-followed", task_type=name, ended=LATER - DAY + timedelta(1e-5)
        )

    assert pruned(retention, PruneRule("load-hg")) == {}
    assert pruned(retention, PruneRule("load-hg", DAY)) == {"load-hg": 1}
    assert pruned(retention, PruneRule(None, timedelta(0))) == {"load-git": 2, "load-hg": 1}


def test_a_dry_run_counts_and_deletes_nothing(backend: SchedulerBackend, retention: Retention) -> None:
    a_task_with_runs(backend, "a", "b", "c")
    before = left(backend)

    assert pruned(retention, PruneRule(dry_run=True)) == {"load-git": 2}
    assert left(backend) == before


def test_a_rule_that_can_not_be_followed_is_refused(backend: SchedulerBackend, retention: Retention) -> None:
    with pytest.raises(UnknownTaskType, match="nosuch"):
        retention.require(PruneRule("nosuch"))
    with pytest.raises(InvalidArgument, match="older_than"):
        retention.require(PruneRule(older_than=timedelta(-1)))
    retention.require(PruneRule("load-git", DAY))


def test_several_at_once_delete_each_run_once_beside_ends(
    backend: SchedulerBackend, retention: Retention, database: Database
) -> None:
    # given many old runs whose ends are being corrected, in another order
    tasks = [a_task_with_runs(backend, *(f"{n}-{k}" for k in range(6))) for n in range(20)]
    names = sorted(left(backend), reverse=True)
    begin = threading.Barrier(4)

    def prune() -> Counter[str]:
        begin.wait()
        return pruned(retention, rows=7)

    def correct() -> None:
        begin.wait()
        for at in range(0, len(names), 10):
            Dispatch(database).record_events(
                [RunChange(name, started=NOW, noted={"seen": True}, attempts=2) for name in names[at : at + 10]]
            )

    # when three prune at once beside it
    with ThreadPoolExecutor(4) as pool:
        pruners = [pool.submit(prune) for _ in range(3)]
        pool.submit(correct).result()
        counts = [each.result() for each in pruners]

    # then each run is counted once, and what was locked goes the next time
    assert sum(counts, Counter()) + pruned(retention) == {"load-git": 20 * 5}
    assert left(backend) == {f"{n}-5" for n in range(len(tasks))}


def test_a_run_that_somebody_has_locked_is_left_and_not_waited_for(
    backend: SchedulerBackend, retention: Retention, database: Database
) -> None:
    a_task_with_runs(backend, "locked", "free", "followed")
    with database.engine.begin() as conn:
        conn.execute(text("select 1 from task_run where backend_id = 'locked' for no key update"))
        assert pruned(retention) == {"load-git": 1}
    assert left(backend) == {"locked", "followed"}
    assert pruned(retention) == {"load-git": 1}
