"""A fleet in miniature: the services of `up` in threads, real workers, and the rescuer, a round at a time."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from kombu import Connection
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.workers.lives import LifeListed
from swh_sched_runner.backend.workers.registry import Workers
from swh_sched_runner.cli.assembly import factories
from swh_sched_runner.cli.context import Context
from swh_sched_runner.exc import SchedulerException
from swh_sched_runner.model import Task, TaskRun
from swh_sched_runner.services.service import Heartbeat, Service
from swh_sched_runner.services.supervisor import Supervisor
from tests.support.processes.workers import StartWorker, WorkerProcess
from tests.support.samples import NOW, a_type
from tests.support.wait import until

# The limits of the rescuer that let a test end within a minute. What they are by default: docs/reference/rescuer.md.
LIMITS = {
    "away_seconds": 6,
    "flush_seconds": 1,
    "between_looks_seconds": 1,
    "waiting_seconds": 1,
    "drain_seconds": 2,
    "period_seconds": 0.5,
}
SERVICES = ("runner", "listener", "dead-letters", "heartbeats")
QUEUE = "wait"  # the Celery task of this name waits for a file, so that the test decides when it ends
OTHER_QUEUE = "echo"
CONTROL_QUEUE = "control"  # nobody consumes from it
# Longer than any rule waits: a run that is untouched for so long stays so.
LONG_SECONDS = 2.5 * LIMITS["away_seconds"]
ONE_RESERVED = {"worker_prefetch_multiplier": 1}
LATE_ACKS = {"task_acks_late": True}
BEATS = ("--heartbeat-interval", "1")

VERDICTS = """
select r.metadata->'verdict'->>'verdict'
from task_run r join task t on t.id = r.task
where jsonb_exists(r.metadata, 'verdict') and t.type <> :control
order by r.id
"""

COUNT_ENDED = (
    "select count(*) from task_run r join task t on t.id = r.task where t.type = :type and r.ended is not null"
)


def environment(
    database_url: str, broker_url: str, result_backend: str | None = None, **limits: float
) -> dict[str, str]:
    """What the program is told: where its servers are, and limits of the rescuer."""
    backend = {} if result_backend is None else {"SWH_SCHED_RUNNER_BROKER__RESULT_BACKEND": result_backend}
    return backend | {
        "SWH_SCHED_RUNNER_DATABASE__URL": database_url,
        "SWH_SCHED_RUNNER_BROKER__URL": broker_url,
        "SWH_SCHED_RUNNER_RUNNER__PERIOD_SECONDS": "0.2",
        **{f"SWH_SCHED_RUNNER_RESCUER__{name.upper()}": str(value) for name, value in (LIMITS | limits).items()},
    }


class Fleet:
    """Services and workers on a database and a broker; the test runs the rescuer's rounds.

    ``told`` is the environment of the program, ``worker_url`` the broker as its workers reach it.
    """

    def __init__(
        self, told: Mapping[str, str], directory: Path, start_worker: StartWorker, worker_url: str | None = None
    ) -> None:
        self._context = Context(None, {}, told)
        self._directory = directory
        self._start_worker = start_worker
        self._worker_url = worker_url or str(self._context.broker.url)
        self._heartbeat = Heartbeat()
        self._rescuer: Service | None = None
        self._services = factories(self._context)
        self._supervisor = Supervisor({name: self._services[name] for name in SERVICES if name in self._services})
        self._thread = threading.Thread(target=self._supervisor.run, name="fleet")
        self._thread.start()
        for name in (QUEUE, OTHER_QUEUE, CONTROL_QUEUE):
            # Lost runs are due again at once.
            self.backend.create_task_type(a_type(name, backend_name=name, retry_delay=timedelta(0)))

    @property
    def backend(self) -> SchedulerBackend:
        return self._context.backend

    def close(self) -> None:
        """Stop the services."""
        self._supervisor.stop.set()
        self._close_rescuer()
        self._thread.join()
        self._context.close()

    # Workers

    def worker(self, name: str = "w1", *, queue: str = QUEUE, stock: bool = False, **options: Any) -> WorkerProcess:
        """Start a worker, of one process unless told otherwise, and wait until it is known with its queues."""
        known = {life.id for life in self.lives()}
        worker = self._start_worker(
            self._worker_url, [queue], **{"name": name, "concurrency": 1, "options": BEATS, "stock": stock} | options
        )

        def is_known() -> bool:
            mine = (life for life in self.lives() if life.hostname == worker.hostname and life.id not in known)
            return any(life.queues for life in mine)

        until(is_known, 30, what=f"{worker.hostname} is known")
        return worker

    def lives(self) -> list[LifeListed]:
        """All lives of workers, by host name and beginning."""
        return Workers(self._context.database).list(everything=True)

    def is_connected(self, worker: WorkerProcess) -> bool:
        """Whether the broker still has the queue that belongs to a worker's connection."""
        with self._context.open_queues() as queues:
            return bool(queues.worker_is_connected(worker.hostname))

    def forget(self, worker: WorkerProcess) -> None:
        """What `worker forget --force` does."""
        Workers(self._context.database).forget(worker.hostname, force=True)

    @staticmethod
    def freeze(worker: WorkerProcess) -> None:
        """Stop a worker and its processes, as a machine that hangs."""
        for pid in (worker.pid, *worker.children()):
            os.kill(pid, signal.SIGSTOP)

    @staticmethod
    def thaw(worker: WorkerProcess) -> None:
        """Let a frozen worker go on."""
        for pid in (*worker.children(), worker.pid):
            os.kill(pid, signal.SIGCONT)

    # Tasks

    def file(self, name: str) -> Path:
        """The file that the task of this name waits for."""
        return self._directory / name

    def create(self, *names: str) -> list[Task]:
        """Create tasks that wait, each for its file."""
        arguments = [{"args": [str(self.file(name)), 110], "kwargs": {}} for name in names]
        return self.backend.create_tasks(
            [Task(type=QUEUE, arguments=given, next_run=NOW) for given in arguments]  # type: ignore[typeddict-item]
        )

    def begun(self, name: str) -> Task:
        """A task that waits for its file in a worker; one of the solo pool has not told so."""
        [task] = self.create(name)
        until(self.file(f"{name}.started").exists, 30, what=f"{name} begins")
        return task

    def started(self, name: str) -> Task:
        """A task that waits for its file in a worker, its start recorded."""
        task = self.begun(name)
        until(lambda: self.run(task)["started"] is not None, 30, what=f"{name} is started")
        return task

    def received(self, *names: str) -> list[Task]:
        """Tasks that a worker has received and not started."""
        tasks = self.create(*names)
        until(lambda: all(self._has_run(task, "attempts") for task in tasks), 30, what=f"{names} are received")
        assert all(self.run(task)["started"] is None for task in tasks)
        return tasks

    def _has_run(self, task: Task, noted: str) -> bool:
        return any(noted in (run["metadata"] or {}) for run in self.runs(task))

    def create_quick(self, count: int) -> list[Task]:
        """Create tasks that end at once, of another type."""
        return self.backend.create_tasks(
            Task(type=OTHER_QUEUE, arguments={"args": [str(uuid.uuid4())], "kwargs": {}}, next_run=NOW)
            for _ in range(count)
        )

    def create_other(self, name: str, *args: Any) -> Task:
        """Create a task of another name, with a type and a queue of its own."""
        self.backend.create_task_type(a_type(name, backend_name=name, retry_delay=timedelta(0)))
        arguments: dict[str, Any] = {"args": list(args), "kwargs": {}}
        [task] = self.backend.create_tasks([Task(type=name, arguments=arguments, next_run=NOW)])  # type: ignore[typeddict-item]
        return task

    def let_end(self, *names: str) -> None:
        """Make the files that these tasks wait for."""
        for name in names:
            self.file(name).touch()

    def runs(self, task: Task) -> list[TaskRun]:
        """The runs of a task, in order."""
        return sorted(self.backend.get_task_runs([task["id"]]), key=lambda run: run["id"])

    def count_ended(self, task_type: str) -> int:
        """How many runs of tasks of this type have ended."""
        with self._context.database.engine.connect() as conn:
            return int(conn.execute(text(COUNT_ENDED), {"type": task_type}).scalar_one())

    def run(self, task: Task) -> TaskRun:
        """The first run of a task; waits until there is one."""
        return until(lambda: self.runs(task), 30, what="the task is dispatched")[0]

    def verdict(self, task: Task) -> str | None:
        """Why the first run of a task was judged, None if it was not."""
        run = self.run(task)
        noted = (run["metadata"] or {}).get("verdict")
        return None if noted is None else str(noted["verdict"])

    def end(self, task: Task, seconds: float = 30) -> TaskRun:
        """The first run of a task, once it has ended; the rescuer goes on meanwhile."""
        self.rescue_until(lambda: self.run(task)["ended"] is not None, seconds, what="the run ends")
        return self.run(task)

    def queued(self, queue: str = QUEUE) -> None:
        """Wait until a message is ready in the queue."""
        with self._context.open_queues() as queues:
            until(lambda: queues.depth(queue) > 0, 30, what="a message is ready")

    def purge(self, queue: str = QUEUE) -> None:
        """Wait for a ready message and remove all that are ready."""
        self.queued(queue)
        with Connection(self._context.broker.url) as connection:
            connection.default_channel.queue_purge(queue)

    # The rescuer

    def rescue(self) -> None:
        """A round; one that fails is followed by a fresh start, as the supervisor does it."""
        try:
            if self._rescuer is None:
                self._rescuer = self._services["rescuer"]()
            self._rescuer.run_once(self._heartbeat)
            self._rescuer.wait_for_work(self._heartbeat)
        except SchedulerException:
            self._close_rescuer()
            self._heartbeat.wait(LIMITS["period_seconds"])

    def rescue_for(self, seconds: float, *tasks: Task, until_judged: Task | None = None) -> None:
        """Rounds for so long, after each of which the first run of each of these tasks must be open."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or not (until_judged is None or self.verdict(until_judged)):
            self.rescue()
            for task in tasks:
                assert self.run(task)["ended"] is None, self.run(task)
            assert time.monotonic() < deadline + 60, f"the rescuer judges nothing; undecided: {self.undecided()}"

    def untouched(self, *tasks: Task, seconds: float = LONG_SECONDS) -> None:
        """Rounds for so long, by default longer than any rule waits.

        After each of them the first runs of these tasks must be open. Meanwhile the rescuer finds that a run of another
        queue, which was purged, is lost: so it works.
        """
        # Without a retry: the message of one would be purged in place of the next control run's.
        arguments: dict[str, Any] = {"args": [str(uuid.uuid4())], "kwargs": {}}
        control_task = Task(
            type=CONTROL_QUEUE,
            arguments=arguments,
            next_run=NOW,
            policy="oneshot",
            retries_left=0,  # type: ignore[typeddict-item]
        )
        [control] = self.backend.create_tasks([control_task])
        self.purge(CONTROL_QUEUE)
        self.rescue_for(seconds, *tasks, until_judged=control)

    def rescue_until(self, condition: Callable[[], Any], seconds: float = 60, *tasks: Task, what: str = "") -> None:
        """Rounds until ``condition`` holds, after each of which the first runs of these tasks must be open."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.rescue()
            for task in tasks:
                assert self.run(task)["ended"] is None, self.run(task)
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}; undecided: {self.undecided()}"

    def rescue_lost(self, task: Task, seconds: float = 60) -> str | None:
        """Rounds until the first run of a task is judged; answers the verdict."""
        self.rescue_until(lambda: self.verdict(task) is not None, seconds, what="a verdict")
        return self.verdict(task)

    def undecided(self) -> dict[int, tuple[str, str]]:
        """The runs that can't be judged, with the rule that waits and what for."""
        with self._context.database.engine.connect() as conn:
            rows = conn.execute(text("select run_id, rule, reason from undecided_run"))
            return {row.run_id: (row.rule, row.reason) for row in rows}

    def verdicts(self) -> list[str]:
        """All verdicts that there are, but for runs of which the test knows that they are lost."""
        with self._context.database.engine.connect() as conn:
            return list(conn.execute(text(VERDICTS), {"control": CONTROL_QUEUE}).scalars())

    def _close_rescuer(self) -> None:
        if self._rescuer is not None:
            self._rescuer.close()
            self._rescuer = None
