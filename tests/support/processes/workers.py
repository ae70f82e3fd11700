"""Real Celery workers: processes of their own that tests kill and start again.

``WorkerProcess`` is a container to pytest-celery (it only asks for these names), so ``node`` makes one of its
``CeleryTestWorker`` out of it, without Docker.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import celery
import psutil
from celery import Celery
from pytest_celery import CeleryTestWorker

from swh_sched_runner.embedded import process
from tests.support.wait import until

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 40.0


class WorkerProcess:
    """A worker of ``tests.support.processes.tasks_app`` (or another ``app``) on ``broker_url`` for ``queues``.

    ``config`` are Celery settings, ``stock`` leaves our base class and dispatcher out, ``events=False`` leaves ``-E``
    out, ``echoes`` are further names of the task ``echo``, ``python`` is an interpreter with another Celery, ``under``
    is a command that runs it. Its log, and the file of executions, are in ``directory``.
    """

    def __init__(
        self,
        directory: Path,
        broker_url: str,
        queues: Sequence[str],
        *,
        name: str | None = None,
        app: str = "tests.support.processes.tasks_app",
        pool: str = "prefork",
        concurrency: int = 2,
        events: bool = True,
        stock: bool = False,
        config: Mapping[str, Any] | None = None,
        echoes: Sequence[str] = (),
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        python: Path | str = sys.executable,
        under: Sequence[str] = (),
    ) -> None:
        self.worker = name or f"w{uuid.uuid4().hex[:8]}"
        self.hostname = f"{self.worker}@test"
        self.queues = list(queues)
        self.broker_url = broker_url
        self.log = process.private(directory) / f"{self.worker}.log"
        self.executions_file = directory / f"{self.worker}.executions"
        self._command = [*under, str(python), "-m", "celery", "-A", app, "worker", "-n", self.hostname]
        self._command += ["-Q", ",".join(queues)]
        self._command += ["-P", pool, "-c", str(concurrency), "-l", "INFO", *(["-E"] if events else []), *options]
        self._environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "C_FORCE_ROOT": "1",
            "TMPDIR": str(directory),  # a killed worker leaves its folder of semaphores behind
            "TASKS_BROKER_URL": broker_url,
            "TASKS_CONFIG": json.dumps(dict(config or {})),
            "TASKS_EXECUTIONS": str(self.executions_file),
            "TASKS_ECHOES": ",".join(echoes),
            "TASKS_STOCK": "1" if stock else "",
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self, *, wait: bool = True) -> WorkerProcess:
        """Start the process and, unless told otherwise, wait until it takes tasks (about 1.5 s)."""
        self._log_start = process.fresh_log(self.log)
        self._process = process.launch(
            self._command, log=self.log, death_signal=signal.SIGKILL, environment=self._environment
        )
        if wait:
            self.ready()
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def children(self) -> list[int]:
        """The pids of the pool's processes."""
        return [child.pid for child in psutil.Process(self.pid).children(recursive=True)]

    def executions(self) -> list[tuple[str, str]]:
        """(task id, task name) of every time that a task's body began, over all lives of this worker."""
        if not self.executions_file.exists():
            return []
        lines = self.executions_file.read_text().splitlines()
        return [(task_id, name) for task_id, name in (line.split(" ", 1) for line in lines)]

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal; SIGKILL goes to the whole process group and is waited for, as when the machine dies."""
        if self._process is None:
            return
        number = _number(signal)
        if number == _number("SIGKILL"):
            _kill_group(self._process.pid)
            self._process.wait()
        else:
            self._process.send_signal(number)

    def kill_parent(self) -> None:
        """SIGKILL the worker's main process alone; its children notice and go by themselves."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """A warm shutdown; what isn't done in 10 s is killed."""
        if self._process is not None:
            process.end(self._process, (signal.SIGTERM, 10.0))
            _kill_group(self._process.pid)

    # What pytest-celery asks of a container, beside kill.

    @property
    def status(self) -> str:
        return "running" if self._process is not None and self._process.poll() is None else "exited"

    @property
    def name(self) -> str:
        return self.worker

    @property
    def id(self) -> str:
        return self.worker

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {"broker_url": self.broker_url}

    def ready(self) -> bool:
        """Wait until this life of the worker says that it is ready; fails the test if it dies or takes long."""
        mark = f"{self.hostname} ready."
        until(lambda: mark in self._new_log() or self.status == "exited", START_SECONDS, what=mark)
        assert mark in self._new_log(), f"the worker ended: {self._new_log()[-2000:]}"
        return True

    def reload(self) -> None:
        """Nothing to read again: a process has no cached picture."""

    def restart(self, timeout: float = 10) -> None:
        """End it if it still runs, and start it again under its name."""
        if self.status == "running":
            self.stop()
        self.start()

    def logs(self) -> str:
        """The log of all its lives."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def teardown(self) -> None:
        self.stop()

    def version(self) -> str:
        return str(celery.__version__)

    def log_level(self) -> str:
        return "INFO"

    def worker_name(self) -> str:
        return self.worker

    def worker_queue(self) -> str:
        return self.queues[0]

    def _new_log(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")


class StartWorker(Protocol):
    """What the fixture ``start_worker`` gives; the options are those of ``WorkerProcess``."""

    def __call__(self, broker_url: str, queues: Sequence[str], **options: Any) -> WorkerProcess: ...


def node(worker: WorkerProcess, app: Celery) -> CeleryTestWorker:
    """The worker as a node of pytest-celery."""
    return CeleryTestWorker(worker, app)


def _number(name: str | int) -> int:
    return name if isinstance(name, int) else int(signal.Signals[name])


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
