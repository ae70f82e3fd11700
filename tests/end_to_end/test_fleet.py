"""The whole way: tasks in PostgreSQL, the programs `run` and `listen`, a broker, real workers, and back."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.model import Task, TaskRun
from tests.support.processes.programs import Programs, terminate
from tests.support.processes.workers import StartWorker
from tests.support.samples import a_task, a_type
from tests.support.wait import until

pytestmark = pytest.mark.slow

TYPES = ("load-git", "load-svn", "load-hg")
QUEUES = [f"tests.{name}" for name in TYPES]
LIMIT = 50


@pytest.fixture(params=["rabbitmq_url", "valkey_url"])
def broker_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def app(broker_url: str) -> Iterator[Celery]:
    app = create_app(BrokerSettings(url=broker_url))
    yield app
    app.close()


@pytest.fixture
def programs(database_url: str, broker_url: str, tmp_path: Path) -> Iterator[Programs]:
    programs = Programs(
        tmp_path, {"SWH_SCHED_RUNNER_DATABASE__URL": database_url, "SWH_SCHED_RUNNER_BROKER__URL": broker_url}
    )
    yield programs
    programs.close()


def runs_of(backend: SchedulerBackend, tasks: list[Task]) -> list[TaskRun]:
    return backend.get_task_runs(task["id"] for task in tasks)


def test_every_task_runs_once_within_the_limits_and_every_run_is_ended(
    backend: SchedulerBackend, app: Celery, broker_url: str, programs: Programs, start_worker: StartWorker
) -> None:
    count = int(os.environ.get("FLEET_TASKS", "300"))
    for name in TYPES:
        backend.create_task_type(a_type(name, max_queue_length=LIMIT))
    tasks = backend.create_tasks(some_tasks(count), "oneshot")
    workers = [start_worker(broker_url, QUEUES, echoes=QUEUES) for _ in range(2)]
    processes = [programs.start("run", "--period", "0.2"), programs.start("listen")]
    depths: list[int] = []

    def all_ended() -> bool:
        with Queues(app) as queues:
            depths.extend(queues.depth(queue) for queue in QUEUES)
        return [run["ended"] is not None for run in runs_of(backend, tasks)] == [True] * count

    until(all_ended, 90)

    runs = runs_of(backend, tasks)
    assert Counter(run["status"] for run in runs) == {"eventful": count // 2, "uneventful": count - count // 2}
    executed = Counter(task_id for worker in workers for task_id, _ in worker.executions())
    assert executed == Counter(run["backend_id"] for run in runs)  # each once, under the id of its run
    assert {task["status"] for task in backend.get_tasks(task["id"] for task in tasks)} == {"completed"}
    assert max(depths) <= LIMIT
    assert [terminate(process) for process in processes] == [0, 0]


def some_tasks(count: int) -> Iterator[Task]:
    return (a_task(n, TYPES[n % 3], arguments={"args": [n % 2], "kwargs": {"n": n}}) for n in range(count))


def test_what_happens_to_a_task_decides_when_it_runs_next(
    backend: SchedulerBackend, broker_url: str, programs: Programs, start_worker: StartWorker
) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "changed": {"args": [{"status": "success", "eventful": True}]},
        "same": {"args": [{"status": "success", "eventful": False}]},
        "broken": {"args": []},
    }
    backend.create_task_type(a_type("echo", backend_name="echo"))
    backend.create_task_type(a_type("fail", backend_name="fail"))
    tasks = {
        kind: backend.create_tasks([a_task(task_type="fail" if kind == "broken" else "echo", arguments=arguments)])[0]
        for kind, arguments in kinds.items()
    }
    start_worker(broker_url, ["echo", "fail"])
    programs.start("run", "--period", "0.2")
    programs.start("listen")
    ids = [task["id"] for task in tasks.values()]

    until(lambda: [run["ended"] is not None for run in backend.get_task_runs(ids)] == [True] * 3, 60)

    moved = {kind: backend.get_tasks([task["id"]])[0] for kind, task in tasks.items()}
    ended = {kind: backend.get_task_runs([task["id"]])[0] for kind, task in tasks.items()}
    assert {kind: run["status"] for kind, run in ended.items()} == {
        "changed": "eventful",
        "same": "uneventful",
        "broken": "failed",
    }
    day = timedelta(days=1)
    waits = {"changed": day / 2, "same": 2 * day, "broken": timedelta(minutes=5)}
    assert {kind: moved[kind]["next_run"] - ended[kind]["ended"] for kind in kinds} == waits  # type: ignore[operator]
    assert moved["broken"]["retries_left"] == 1
    assert "RuntimeError" in ended["broken"]["metadata"]["error"]
