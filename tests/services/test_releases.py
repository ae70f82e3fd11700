"""Stock workers of the releases of Celery that fleets have run what the runner sends."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.model import TaskRun
from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.listener.listener import Listener
from swh_sched_runner.services.service import Heartbeat
from tests.support.processes.releases import Release
from tests.support.processes.workers import StartWorker, WorkerProcess
from tests.support.queues import depth
from tests.support.samples import a_task, a_type
from tests.support.wait import until

OLDEST, NEWEST = "5.3", "5.7"
TYPES = {"look": "fleet.look", "again": "fleet.again"}
ARGUMENTS: list[dict[str, Any]] = [
    {"args": [], "kwargs": {}},
    {"args": ["https://forge.example/ü/😀.git", 1, 2.5, None, True], "kwargs": {"nested": {"deep": [[], {"ß": "\n"}]}}},
    {"args": ["x" * 5_000], "kwargs": {"large": "é" * 300_000}},
]
# A third attempt at telling the two apart would cost 2 s: the releases between are seen once on each broker.
WITH_EVENTS = [
    pytest.param(release, broker, stock, id=f"{release}-{broker.removesuffix('_url')}-{'stock' if stock else 'ours'}")
    for release in ("5.3", "5.4", "5.5", "5.6", "5.7")
    for broker, stock in (("rabbitmq_url", True), ("rabbitmq_url", False), ("valkey_url", False))
    if release in (OLDEST, NEWEST) or (broker, stock) != ("rabbitmq_url", False)
]


class Seen(dict[str, list[dict[str, Any]]]):
    """What the executions of each task saw, by task id."""

    def __init__(self, worker: WorkerProcess) -> None:
        super().__init__()
        for task_id, name_and_seen in worker.executions():
            self.setdefault(task_id, []).append(json.loads(name_and_seen.split(" ", 1)[1]))


@pytest.fixture
def runs(backend: SchedulerBackend, make_runner: Callable[..., Runner]) -> Callable[[], list[TaskRun]]:
    """Sends a task for each of ``ARGUMENTS``, then one that has to be tried twice; reads their runs in this order."""
    for name, backend_name in TYPES.items():
        backend.create_task_type(a_type(name, backend_name=backend_name))
    looks = [a_task(task_type="look", arguments=arguments) for arguments in ARGUMENTS]
    tasks = backend.create_tasks([*looks, a_task(task_type="again", arguments=ARGUMENTS[1])], "oneshot")
    runner = make_runner()
    while runner.run_once(Heartbeat()):
        pass
    return lambda: sorted(backend.get_task_runs(task["id"] for task in tasks), key=lambda run: run["task"])


def start(start_worker: StartWorker, broker_url: str, release: Release, *, stock: bool, results: Path) -> WorkerProcess:
    results.mkdir()
    worker = start_worker(
        broker_url,
        list(TYPES.values()),
        app="tests.support.processes.release_app",
        python=release.python,
        stock=stock,
        concurrency=1,
        config={"result_backend": f"file://{results}"},
    )
    assert f" v{release.name}." in worker.logs()
    return worker


def assert_all_ran(worker: WorkerProcess, runs: list[TaskRun], results: Path) -> None:
    """Each under the id of its run and with its arguments, and a result is kept where the task wants it."""
    looks, again = runs[:-1], runs[-1]
    seen = Seen(worker)
    expected = [(run["backend_id"], arguments, [0]) for run, arguments in zip(looks, ARGUMENTS, strict=True)]
    expected.append((again["backend_id"], ARGUMENTS[1], [0, 1]))
    assert seen == {
        task_id: [{**arguments, "retries": retries, "root_id": task_id} for retries in attempts]
        for task_id, arguments, attempts in expected
    }
    kept = {file.name.removeprefix("celery-task-meta-") for file in results.iterdir()}
    assert kept == {run["backend_id"] for run in looks}
    assert "ERROR" not in worker.logs()
    assert "Traceback" not in worker.logs()


@pytest.mark.parametrize(("release", "broker_url", "stock"), WITH_EVENTS, indirect=["release", "broker_url"])
def test_workers_of_a_release_run_what_is_sent_and_their_events_end_the_runs(
    release: Release,
    broker_url: str,
    stock: bool,
    listener: Listener,
    runs: Callable[[], list[TaskRun]],
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    worker = start(start_worker, broker_url, release, stock=stock, results=tmp_path / "results")

    until(lambda: listener.run_once(Heartbeat()) and all(run["ended"] is not None for run in runs()), 30)

    assert_all_ran(worker, runs(), tmp_path / "results")
    # Without our base class nobody tells what a task returned: it counts as a change.
    assert Counter(run["status"] for run in runs()) == {"eventful" if stock else "uneventful": len(runs())}
    assert all(run["started"] is not None for run in runs())


@pytest.mark.parametrize(
    ("release", "broker_url"), [(OLDEST, "valkey_url"), (NEWEST, "valkey_url")], indirect=["release", "broker_url"]
)
def test_stock_workers_of_a_release_run_what_the_runner_sends_through_redis(
    release: Release,
    broker_url: str,
    app: Celery,
    runs: Callable[[], list[TaskRun]],
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    worker = start(start_worker, broker_url, release, stock=True, results=tmp_path / "results")

    until(lambda: len(list((tmp_path / "results").iterdir())) >= len(ARGUMENTS) and len(worker.executions()) >= 5, 30)

    assert_all_ran(worker, runs(), tmp_path / "results")
    assert [depth(app, queue) for queue in TYPES.values()] == [0, 0]
