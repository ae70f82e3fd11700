"""What may be archived is shown once, and exactly that is deleted."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch, OpenBatch
from swh_sched_runner.backend.tasks import archive
from swh_sched_runner.backend.tasks.runs import Evidence, RunChange
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import InvalidArgument, SchedulerException, UnknownTask
from swh_sched_runner.model import Task
from tests.support.samples import NOW, a_task, a_type, run_of_a_task
from tests.support.wait import until

pytestmark = pytest.mark.slow

ROW_KEYS = {
    "task_id",
    "task_policy",
    "task_status",
    "task_run_id",
    "arguments",
    "type",
    "backend_id",
    "metadata",
    "scheduled",
    "started",
    "ended",
    "task_run_status",
}
HOUR = timedelta(hours=1)


@pytest.fixture
def backend(backend: SchedulerBackend) -> SchedulerBackend:
    backend.create_task_type(a_type())
    return backend


def ended(backend: SchedulerBackend, name: str, status: str = "eventful", at: datetime = NOW, **task: Any) -> Task:
    """A task whose run ``name`` was opened and started at ``at`` and ended then."""
    [made] = backend.create_tasks([a_task(**{"policy": "oneshot"} | task)])
    backend.schedule_task_run(made["id"], name, timestamp=at)
    backend.start_task_run(name, timestamp=at)
    backend.end_task_run(name, status, timestamp=at)
    return backend.get_tasks([made["id"]])[0]


def pages(
    backend: SchedulerBackend, after: Any = NOW - HOUR, before: Any = NOW + HOUR, limit: int = 10
) -> Iterator[Any]:
    token = None
    while True:
        page = backend.filter_task_to_archive(after, before, limit=limit, page_token=token)
        yield page["tasks"]
        if "next_page_token" not in page:
            return
        token = page["next_page_token"]


def shown(backend: SchedulerBackend, *args: Any, **kwargs: Any) -> list[str]:
    return [row["backend_id"] for page in pages(backend, *args, **kwargs) for row in page]


def test_a_row_tells_all_of_a_run_and_its_task(backend: SchedulerBackend) -> None:
    task = ended(backend, "run", arguments={"args": ["a", {"b": 1}], "kwargs": {"url": "https://é.example"}})

    page = backend.filter_task_to_archive(NOW, NOW + HOUR)

    assert page.keys() == {"tasks"}
    [row] = page["tasks"]
    [run] = backend.get_task_runs([task["id"]])
    assert row.keys() == ROW_KEYS
    assert row["arguments"]["args"] == {0: "a", 1: {"b": 1}}
    assert json.loads(row["arguments"]["kwargs"]) == {"url": "https://é.example"}
    assert row["task_id"] == task["id"]
    assert row["task_policy"] == "oneshot"
    assert row["task_status"] == "completed"
    assert row["type"] == "load-git"
    assert row["task_run_id"] == run["id"]
    assert row["task_run_status"] == "eventful"
    for key in ("backend_id", "metadata", "scheduled", "started", "ended"):
        assert row[key] == run[key]  # type: ignore[literal-required]


@pytest.mark.parametrize(
    ("policy", "status", "archived"),
    [
        ("oneshot", "completed", True),
        ("oneshot", "disabled", True),
        ("oneshot", "next_run_not_scheduled", False),
        ("oneshot", "next_run_scheduled", False),
        ("recurring", "disabled", True),
        ("recurring", "completed", False),
        ("recurring", "next_run_not_scheduled", False),
        ("recurring", "next_run_scheduled", False),
    ],
)
def test_only_what_is_done_with_may_be_archived(
    backend: SchedulerBackend, policy: str, status: str, archived: bool
) -> None:
    task = ended(backend, "run", policy=policy)
    backend.set_status_tasks([task["id"]], status)

    assert shown(backend) == (["run"] if archived else [])


def test_the_interval_begins_with_its_first_timestamp_and_ends_before_its_last(backend: SchedulerBackend) -> None:
    for n, at in enumerate([NOW - timedelta(microseconds=1), NOW, NOW + HOUR - timedelta(microseconds=1), NOW + HOUR]):
        ended(backend, f"run-{n}", at=at, number=n)

    assert shown(backend, NOW, NOW + HOUR) == ["run-1", "run-2"]
    assert shown(backend, NOW, NOW) == []


def test_a_run_that_never_started_counts_by_when_it_was_opened(backend: SchedulerBackend) -> None:
    late, never = (run_of_a_task(backend, name, number=n, policy="oneshot") for n, name in enumerate(("late", "never")))
    backend.start_task_run("late", timestamp=NOW + 10 * HOUR)
    backend.set_status_tasks([late["id"], never["id"]], "disabled")

    assert shown(backend, NOW, NOW + HOUR) == ["never"]
    assert shown(backend, NOW + HOUR, NOW + 20 * HOUR) == ["late"]


@pytest.mark.parametrize(
    ("after", "before"),
    [
        ("2026-03-01", "2026-03-02"),
        ("2026-03-01T12:00:00", "2026-03-01T12:00:00.000001Z"),
        ("2026-03-01T13:00:00+01:00", "2026-03-01T13:30:00+01:00"),
        (NOW, "2026-03-02"),
    ],
)
def test_bounds_are_timestamps_or_iso_texts_in_utc(backend: SchedulerBackend, after: Any, before: Any) -> None:
    ended(backend, "run")

    assert shown(backend, after, before) == ["run"]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_show_every_run_once_in_order_and_end(backend: SchedulerBackend, limit: int) -> None:
    # Three runs of one task at the same time, more than fit on a page of two, and others before and after.
    [task] = backend.create_tasks([a_task(policy="oneshot")])
    for name in ("same-1", "same-2", "same-3"):
        backend.schedule_task_run(task["id"], name, timestamp=NOW)
    backend.end_task_run("same-3", "eventful", timestamp=NOW)
    ended(backend, "later", at=NOW + timedelta(minutes=1), number=1)
    ended(backend, "earlier", at=NOW - timedelta(minutes=1), number=2)

    found = list(pages(backend, limit=limit))

    assert [row["backend_id"] for page in found for row in page] == ["earlier", "same-1", "same-2", "same-3", "later"]
    assert all(len(page) == limit for page in found[:-1])
    assert 0 < len(found[-1]) <= limit


def test_pages_that_are_deleted_one_by_one_leave_nothing(backend: SchedulerBackend) -> None:
    tasks = [ended(backend, f"run-{n}", at=NOW + timedelta(seconds=n % 3), number=n) for n in range(10)]
    for n, task in enumerate(tasks):
        backend.schedule_task_run(task["id"], f"second-{n}", timestamp=NOW)
    backend.set_status_tasks([task["id"] for task in tasks], "disabled")

    seen = 0
    for page in pages(backend, limit=3):
        seen += len(page)
        backend.delete_archived_tasks(page)

    assert seen == 20
    assert shown(backend) == []
    assert backend.search_tasks() == []


def test_a_token_of_an_earlier_interval_shows_nothing_before_this_one(backend: SchedulerBackend) -> None:
    for n in range(3):
        ended(backend, f"run-{n}", at=NOW + n * HOUR, number=n)
    token = backend.filter_task_to_archive(NOW, NOW + 9 * HOUR, limit=1)["next_page_token"]

    page = backend.filter_task_to_archive(NOW + 2 * HOUR, NOW + 9 * HOUR, page_token=token)

    assert [row["backend_id"] for row in page["tasks"]] == ["run-2"]


def test_exactly_the_runs_that_are_named_are_deleted(backend: SchedulerBackend) -> None:
    whole, half = (ended(backend, f"run-{n}", number=n) for n in range(2))
    backend.schedule_task_run(half["id"], "kept", timestamp=NOW)
    [page] = pages(backend)

    backend.delete_archived_tasks(row for row in page if row["backend_id"].startswith("run-"))

    assert [task["id"] for task in backend.search_tasks()] == [half["id"]]
    assert [run["backend_id"] for run in backend.get_task_runs([whole["id"], half["id"]])] == ["kept"]


def test_a_task_goes_with_the_last_of_its_runs_whatever_its_status(backend: SchedulerBackend) -> None:
    task = run_of_a_task(backend, "open", policy="oneshot")
    [run] = backend.get_task_runs([task["id"]])

    backend.delete_archived_tasks([{"task_id": task["id"], "task_run_id": run["id"]}])

    assert backend.search_tasks() == []
    assert backend.end_task_run("open", "eventful") is None


def test_a_task_that_an_operator_set_to_run_again_stays(backend: SchedulerBackend) -> None:
    task = ended(backend, "run")
    page = backend.filter_task_to_archive(NOW, NOW + HOUR)["tasks"]
    backend.set_status_tasks([task["id"]], "next_run_not_scheduled", NOW)

    backend.delete_archived_tasks(page)

    assert backend.get_task_runs([task["id"]]) == []
    assert [ready["id"] for ready in backend.grab_ready_tasks("load-git", NOW)] == [task["id"]]


def test_deleting_again_changes_nothing(backend: SchedulerBackend) -> None:
    ended(backend, "run")
    other = ended(backend, "other", at=NOW + 5 * HOUR, number=1)
    page = backend.filter_task_to_archive(NOW, NOW + HOUR)["tasks"]

    for _ in range(2):
        backend.delete_archived_tasks(page)
    backend.delete_archived_tasks([])
    backend.delete_archived_tasks(iter(()))

    assert [task["id"] for task in backend.search_tasks()] == [other["id"]]


def test_a_run_named_with_another_task_is_refused_and_nothing_is_deleted(backend: SchedulerBackend) -> None:
    one, two = (ended(backend, f"run-{n}", number=n) for n in range(2))
    [run] = backend.get_task_runs([one["id"]])
    [other] = backend.get_task_runs([two["id"]])

    with pytest.raises(InvalidArgument, match=rf"^task_run_id: .* of task {two['id']}"):
        backend.delete_archived_tasks(
            [
                {"task_id": one["id"], "task_run_id": run["id"]},
                {"task_id": one["id"], "task_run_id": other["id"]},
            ]
        )
    assert len(shown(backend)) == 2


def test_a_batch_that_is_open_forgets_the_runs_that_were_deleted(backend: SchedulerBackend, database: Database) -> None:
    backend.create_tasks([a_task(n, policy="oneshot") for n in range(2)])
    dispatch = Dispatch(database)
    session = dispatch.open_session()
    [group] = dispatch.ready_snapshot(now=NOW).groups
    batch = dispatch.open_batch(session.id, "q", group, 10, NOW)
    assert batch is not None
    gone, kept = batch.messages
    runs = backend.get_task_runs(task["id"] for task in backend.search_tasks())
    [run] = [run for run in runs if run["backend_id"] == gone.backend_id]

    backend.delete_archived_tasks([{"task_id": run["task"], "task_run_id": run["id"]}])

    again = dispatch.read_batch(session.id, OpenBatch(batch.id, "q"))
    assert again is not None
    assert [message.backend_id for message in again.messages] == [kept.backend_id]
    session.close()


def test_a_run_that_is_opened_meanwhile_waits_and_learns_that_its_task_is_gone(
    backend: SchedulerBackend, database: Database
) -> None:
    task = ended(backend, "run")
    page = backend.filter_task_to_archive(NOW, NOW + HOUR)["tasks"]
    locked, release = threading.Event(), threading.Event()

    def delete_slowly(conn: Any) -> None:
        archive.delete(conn, page)
        locked.set()
        assert release.wait(30)

    with ThreadPoolExecutor(2) as pool:
        deletion = pool.submit(database.run, delete_slowly)
        assert locked.wait(30)
        opening = pool.submit(backend.schedule_task_run, task["id"], "late")
        release.set()
        deletion.result(30)
        with pytest.raises(UnknownTask):
            opening.result(30)


def test_a_run_that_was_being_opened_keeps_its_task(
    backend: SchedulerBackend, database: Database, database_url: str
) -> None:
    task = ended(backend, "run")
    page = backend.filter_task_to_archive(NOW, NOW + HOUR)["tasks"]
    waiting = text(
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    )

    with closing(psycopg2.connect(database_url)) as conn, ThreadPoolExecutor(1) as pool:
        SchedulerBackend(conn).schedule_task_run(task["id"], "early")
        deletion = pool.submit(backend.delete_archived_tasks, page)
        until(lambda: database.run(lambda conn: conn.execute(waiting).scalar_one()) == 1)
        conn.commit()
        deletion.result(30)

    assert [run["backend_id"] for run in backend.get_task_runs([task["id"]])] == ["early"]


def test_deletions_and_ends_of_the_same_tasks_never_deadlock(
    backend: SchedulerBackend, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swh_sched_runner.db.engine.ATTEMPTS", 1)  # a deadlock that a retry hides would not be seen
    tasks = backend.create_tasks(a_task(n, policy="oneshot") for n in range(100))
    backend.mass_schedule_task_runs({"task": t["id"], "backend_id": str(t["id"])} for t in reversed(tasks))  # type: ignore[misc]
    runs = backend.get_task_runs(t["id"] for t in tasks)
    pairs = [{"task_id": run["task"], "task_run_id": run["id"]} for run in runs]
    together = threading.Barrier(4)

    def work(number: int) -> None:
        together.wait()
        for start in range(0, 100, 20):
            if number % 2:
                backend.delete_archived_tasks(pairs[start : start + 20][:: 1 if number == 1 else -1])
            else:
                Dispatch(database).record_events(
                    [
                        RunChange(run["backend_id"], status="failed", ended=NOW, evidence=Evidence.FAILED)
                        for run in runs[start : start + 20]
                    ]
                )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))

    assert backend.search_tasks() == []


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda b: b.filter_task_to_archive("yesterday", NOW), "after_ts"),
        (lambda b: b.filter_task_to_archive(None, NOW), "after_ts"),
        (lambda b: b.filter_task_to_archive(NOW.replace(tzinfo=None), NOW), "after_ts"),
        (lambda b: b.filter_task_to_archive(NOW, 5), "before_ts"),
        (lambda b: b.filter_task_to_archive(NOW, NOW, limit=0), "limit"),
        (lambda b: b.filter_task_to_archive(NOW, NOW, limit="10"), "limit"),
        (lambda b: b.filter_task_to_archive(NOW, NOW, page_token="hunter2"), "page_token"),
        (lambda b: b.filter_task_to_archive(NOW, NOW, page_token=""), "page_token"),
        (lambda b: b.filter_task_to_archive(NOW, NOW, page_token="W10="), "page_token"),
        (lambda b: b.filter_task_to_archive(NOW, NOW, page_token="WyIyMDI2LTAzLTAxIiwgMV0="), "page_token"),
        (lambda b: b.filter_task_to_archive(NOW, NOW, page_token=7), "page_token"),
        (lambda b: b.delete_archived_tasks([7]), "task_ids"),
        (lambda b: b.delete_archived_tasks([{"task_run_id": 1}]), "task_id"),
        (lambda b: b.delete_archived_tasks([{"task_id": 1}]), "task_run_id"),
        (lambda b: b.delete_archived_tasks([{"task_id": "1", "task_run_id": 1}]), "task_id"),
    ],
)
def test_a_wrong_argument_is_named(backend: SchedulerBackend, call: Any, named: str) -> None:
    with pytest.raises(SchedulerException, match=rf"^{named}: "):
        call(backend)


def test_timestamps_of_a_page_are_in_utc(backend: SchedulerBackend) -> None:
    ended(backend, "run")

    [row] = backend.filter_task_to_archive(NOW, NOW + HOUR)["tasks"]

    assert row["started"].utcoffset() == UTC.utcoffset(None)
