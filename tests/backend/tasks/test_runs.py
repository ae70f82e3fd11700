"""Runs: opening, starting, ending, reading."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import DuplicateBackendId, InvalidArgument, UnknownTask
from swh_sched_runner.model import Evidence
from tests.support.samples import NOW, a_task, a_type, run_of_a_task

HOUR = timedelta(hours=1)
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 (that is the point)


def test_a_run_that_is_scheduled_comes_back_whole(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    [task] = backend.create_tasks([a_task()])

    run = backend.schedule_task_run(task["id"], "id-1", {"by": "hand"}, NOW)

    assert run == {
        "id": run["id"],
        "task": task["id"],
        "backend_id": "id-1",
        "scheduled": NOW,
        "started": None,
        "ended": None,
        "metadata": {"by": "hand"},
        "status": "scheduled",
    }
    assert backend.get_tasks([task["id"]])[0]["status"] == "next_run_scheduled"
    assert backend.get_task_runs([task["id"]]) == [run]


def test_without_a_timestamp_the_database_s_clock_counts(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    [task] = backend.create_tasks([a_task()])

    run = backend.schedule_task_run(task["id"], "id-1")
    started = backend.start_task_run("id-1")
    ended = backend.end_task_run("id-1", "eventful")

    assert run["scheduled"] is not None
    assert started is not None
    assert started["started"] is not None
    assert ended is not None
    assert ended["ended"] is not None
    assert run["scheduled"] < started["started"] < ended["ended"]
    assert run["metadata"] == {}


def test_many_runs_are_opened_at_once_and_their_tasks_follow_the_last_one(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    one, two = (task["id"] for task in backend.create_tasks([a_task(1), a_task(2)]))

    answer = backend.mass_schedule_task_runs(  # type: ignore[func-returns-value]
        {"task": task, "backend_id": backend_id, "scheduled": NOW, "metadata": {}}  # type: ignore[misc]
        for task, backend_id in [(one, "a"), (two, "b"), (one, "c")]
    )
    backend.end_task_run("a", "permfailed")

    assert answer is None
    assert [run["backend_id"] for run in backend.get_task_runs([one, two])] == ["a", "b", "c"]
    assert backend.get_tasks([one])[0]["status"] == "next_run_scheduled"  # c is its run


@pytest.mark.parametrize("backend_ids", [["new", "old"], ["twice", "twice"]])
def test_a_backend_id_that_is_taken_is_refused_and_nothing_is_written(
    backend: SchedulerBackend, backend_ids: list[str]
) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend, "old")
    [other] = backend.create_tasks([a_task(1)])

    with pytest.raises(DuplicateBackendId, match=r"'old'|'twice'"):
        backend.mass_schedule_task_runs({"task": other["id"], "backend_id": each} for each in backend_ids)  # type: ignore[misc]
    assert backend.get_task_runs([other["id"]]) == []
    assert len(backend.get_task_runs([task["id"]])) == 1


def test_a_run_of_an_unknown_task_is_refused(backend: SchedulerBackend) -> None:
    with pytest.raises(UnknownTask, match="12345"):
        backend.schedule_task_run(12345, "id-1")


def test_start_and_end_merge_metadata_and_later_keys_win(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    [task] = backend.create_tasks([a_task()])
    backend.schedule_task_run(task["id"], "id-1", {"a": 0, "b": 0, "c": 0}, NOW)

    started = backend.start_task_run("id-1", {"b": 1, "c": 1}, NOW + HOUR)
    ended = backend.end_task_run("id-1", "uneventful", {"c": 2}, NOW + 2 * HOUR, result={"status": "uneventful"})

    assert started is not None
    assert ended is not None
    assert (started["status"], started["started"], started["ended"]) == ("started", NOW + HOUR, None)
    assert (ended["status"], ended["started"], ended["ended"]) == ("uneventful", NOW + HOUR, NOW + 2 * HOUR)
    assert ended["metadata"] == {"a": 0, "b": 1, "c": 2, "result": {"status": "uneventful"}}


def test_a_start_replayed_changes_nothing_and_a_late_one_only_sets_started(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    run_of_a_task(backend, "twice")
    run_of_a_task(backend, "late", number=1)
    backend.end_task_run("late", "failed", timestamp=NOW + 2 * HOUR)

    first = backend.start_task_run("twice", {"n": 1}, NOW + HOUR)
    second = backend.start_task_run("twice", {"n": 2}, NOW)
    late = backend.start_task_run("late", timestamp=NOW + HOUR)

    assert second == first
    assert late is not None
    assert (late["status"], late["started"], late["ended"]) == ("failed", NOW + HOUR, NOW + 2 * HOUR)


def test_an_unknown_backend_id_gives_none(backend: SchedulerBackend) -> None:
    assert backend.start_task_run("nobody's") is None
    assert backend.end_task_run("nobody's", "eventful") is None


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda b: b.end_task_run("id-1", "started"), "status"),
        (lambda b: b.end_task_run("id-1", "good"), "status"),
        (lambda b: b.end_task_run("id-1", "failed", timestamp=NAIVE), "timestamp"),
        (lambda b: b.end_task_run("id-1", "failed", metadata=["x"]), "metadata"),
        (lambda b: b.end_task_run("id-1", "failed", result=object()), "metadata"),
        (lambda b: b.start_task_run(5), "backend_id"),
        (lambda b: b.start_task_run("id-1", metadata={"a": float("inf")}), "metadata"),
        (lambda b: b.schedule_task_run("1", "id-1"), "task"),
        (lambda b: b.mass_schedule_task_runs([{"task": 1}]), "backend_id"),
        (lambda b: b.mass_schedule_task_runs([{"task": 1, "backend_id": "x", "ended": NOW}]), "task_run"),
        (lambda b: b.get_task_runs(["1"]), "task_ids"),
    ],
)
def test_a_wrong_argument_is_named(
    backend: SchedulerBackend, call: Callable[[SchedulerBackend], object], named: str
) -> None:
    backend.create_task_type(a_type())
    run_of_a_task(backend, "id-1")

    with pytest.raises(InvalidArgument, match=rf"^{named}: "):
        call(backend)
    assert backend.get_task_runs([1])[0]["status"] == "scheduled"


def test_runs_of_tasks_come_in_order_of_id_up_to_a_limit(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    [task] = backend.create_tasks([a_task()])
    for name in "abc":
        backend.schedule_task_run(task["id"], name)

    assert [run["backend_id"] for run in backend.get_task_runs(iter([task["id"]]))] == ["a", "b", "c"]
    assert [run["backend_id"] for run in backend.get_task_runs([task["id"]], limit=2)] == ["a", "b"]
    assert backend.get_task_runs([]) == []


def test_two_ends_at_once_count_once(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend, "contested")
    together = threading.Barrier(8)

    def end(_: int) -> None:
        together.wait()
        backend.end_task_run("contested", "failed")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(end, range(8)))

    assert backend.get_tasks([task["id"]])[0]["retries_left"] == 1


def test_flushes_of_the_same_runs_in_any_order_never_deadlock(
    backend: SchedulerBackend, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swh_sched_runner.db.engine.ATTEMPTS", 1)  # a deadlock that a retry hides would not be seen
    backend.create_task_type(a_type())
    tasks = backend.create_tasks(a_task(n) for n in range(200))
    backend.mass_schedule_task_runs({"task": t["id"], "backend_id": str(t["id"])} for t in reversed(tasks))  # type: ignore[misc]
    together = threading.Barrier(6)

    def flush(number: int) -> None:
        order = tasks if number % 2 else tasks[::-1]
        together.wait()
        for _ in range(3):
            Dispatch(database).record_events(
                [
                    RunChange(str(t["id"]), started=NOW, status="eventful", ended=NOW, evidence=Evidence.RESULT)
                    for t in order
                ]
            )

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(flush, range(6)))

    assert {run["status"] for run in backend.get_task_runs(t["id"] for t in tasks)} == {"eventful"}
