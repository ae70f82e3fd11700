"""The Celery application of the workers: each execution is written down before and after, for the judge."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.exceptions import Reject

from faults.lost.load import course
from swh_sched_runner.worker import configure


class Writer:
    """Appends to the record; a line is there, whole, even if its process is killed just afterwards."""

    def __init__(self, file: Path, worker: str) -> None:
        """The life is the worker's main process, which makes this before it forks."""
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._shared = {"worker": worker, "life": os.getpid()}

    def write(self, what: str, request: Any, **more: object) -> None:
        """Note what this process does with a run now."""
        line = {"what": what, "run": request.id, "pid": os.getpid(), "at": time.time(), **self._shared, **more}
        os.write(self._file, json.dumps(line).encode() + b"\n")


def made(broker_url: str, names: Sequence[str], writer: Writer, settings: Mapping[str, Any], *, stock: bool) -> Celery:
    """The application, with a task for each of these names; ``stock`` is one that knows nothing of the scheduler."""
    app = Celery("faults", broker=broker_url, set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_proc_alive_timeout=30,
        worker_lost_wait=1.0,  # until a task whose process is gone has failed
        **settings,
    )
    if not stock:
        configure(app)

    def work(self: Task, n: int) -> Any:
        writer.write("began", self.request, task=n, name=self.name)
        try:
            status, result = _go(self, writer, stock)
        except Reject:  # the broker didn't take the message of the next attempt
            writer.write("ended", self.request, status="failed")
            raise
        writer.write("ended", self.request, status=status)
        if isinstance(result, Exception):
            raise result
        return result

    for name in names:
        app.task(work, name=name, bind=True)
    return app


def _go(task: Task, writer: Writer, stock: bool) -> tuple[str, Any]:
    """Take the run's course: what has to be reported, and what is returned or raised."""
    going = course(task.request.id, task.name)
    time.sleep(going.seconds)
    status = going.status(stock)
    match going.way:
        case "retries" if task.request.retries == 0:
            return "retried", task.retry(countdown=0, max_retries=1, exc=RuntimeError("once more"), throw=False)
        case "raises":
            return status, RuntimeError("on purpose")
        case "crashes":
            writer.write("ended", task.request, status=status)
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()
        case "failed":
            return status, {"status": "failed", "error": "on purpose"}
    return status, {"status": "success", "eventful": going.way != "uneventful"}
