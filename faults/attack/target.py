"""What is attacked: a listener as a process of its own, on a broker and a database of its own; and what it says."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import amqp
import psycopg2
from amqp.protocol import queue_declare_ok_t
from prometheus_client.parser import text_string_to_metric_families

from faults import drainer
from faults.servers import Endpoints
from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.model import Task, TaskType
from tests.support.processes.programs import Programs, kill_all, terminate
from tests.support.servers import rabbitmq
from tests.support.wait import until

TYPE = "attacked"
QUEUE = "swh-sched-runner.events.single"
RESTARTS = ("service died", "service waits")
START_SECONDS = 30.0


def open_runs(database_url: str, ids: Sequence[str]) -> None:
    """Open a run with each of these ids."""
    with SchedulerBackend(database_url) as backend:
        backend.create_task_type(TaskType(type=TYPE, description="A type of an attack", backend_name="tests.attacked"))
        now = datetime.now(UTC)
        made = backend.create_tasks(
            [Task(type=TYPE, arguments={"args": [], "kwargs": {"n": n}}, next_run=now) for n, _ in enumerate(ids)],
            "oneshot",
        )
        backend.mass_schedule_task_runs(
            [{"task": task["id"], "backend_id": run} for task, run in zip(made, ids, strict=True)]
        )


class Target:
    """The listener under attack. A process that ends is started again, and counted."""

    def __init__(self, endpoints: Endpoints, directory: Path) -> None:
        self.process_restarts = 0
        self.peak_bytes = 0
        self._endpoints = endpoints
        (self._port,) = rabbitmq.free_ports(1)
        self._programs = Programs(
            directory,
            {
                "SWH_SCHED_RUNNER_DATABASE__URL": endpoints.database_url,
                "SWH_SCHED_RUNNER_BROKER__URL": endpoints.broker_url,
                "SWH_SCHED_RUNNER_WEB__PORT": str(self._port),
            },
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until its queue is there."""
        self._process = self._programs.start("listen")
        until(self._consumes, START_SECONDS, what="the listener consumes its queue")

    def stop(self) -> int:
        """SIGTERM, and SIGKILL where that is not enough; the exit status."""
        assert self._process is not None
        process, self._process = self._process, None
        try:
            return terminate(process)
        except subprocess.TimeoutExpired:
            kill_all(process)
            return -signal.SIGKILL

    def look(self) -> None:
        """See how much memory it had at most, and start it again if it has ended."""
        assert self._process is not None
        if self._process.poll() is None:
            with contextlib.suppress(OSError, StopIteration):
                status = Path(f"/proc/{self._process.pid}/status").read_text()
                line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
                self.peak_bytes = max(self.peak_bytes, int(line.split()[1]) * 1024)
        else:
            self.process_restarts += 1
            self._process = self._programs.start("listen")

    def close(self) -> None:
        """End it however it fares."""
        self._programs.close()

    @property
    def service_restarts(self) -> int:
        """How often its service was started anew, as its log tells."""
        return sum(self._programs.log("listen").count(each) for each in RESTARTS)

    def left(self) -> int:
        """How many messages are in its queue and in nobody's hands."""
        found = self._declared()
        return 0 if found is None else int(found.message_count)

    def counted(self, name: str) -> float:
        """The sum of a counter over its labels; 0 where the process doesn't answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
                families = list(text_string_to_metric_families(answer.read().decode()))
        except OSError:
            return 0
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == f"swh_sched_runner_{name}_total"
        )

    def ask(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """Rows of its database."""
        with contextlib.closing(psycopg2.connect(self._endpoints.database_url)) as conn, conn.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()

    def _consumes(self) -> bool:
        found = self._declared()
        return found is not None and found.consumer_count > 0

    def _declared(self) -> queue_declare_ok_t | None:
        with drainer.connect(self._endpoints.broker_url) as connection:
            try:
                return connection.channel().queue_declare(QUEUE, passive=True)
            except amqp.NotFound:
                return None
