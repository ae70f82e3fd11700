"""A Celery application for real workers in tests; ``tests.support.processes.workers`` starts them.

Environment: TASKS_BROKER_URL; TASKS_CONFIG, a JSON object of Celery settings; TASKS_EXECUTIONS, a file that gets a line
``<task id> <task name>`` whenever a task's body begins; TASKS_ECHOES, further names of the task ``echo``, separated by
commas; TASKS_STOCK, when set, keeps the application a stock one, without our base class and dispatcher; TASKS_LIMIT,
after how many seconds the task ``limited`` is killed; TASKS_MUTE, a file: while it exists, the worker keeps the events
of tasks in hand, as if the broker did not take them.

Each task has a sibling ``stock_<name>`` with Celery's own base class.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, Reject

from swh_sched_runner.worker import configure
from tests.support.processes.mute import keep_events_while
from tests.support.wait import until

app = Celery("tests", broker=os.environ["TASKS_BROKER_URL"], set_as_current=False)
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_proc_alive_timeout=30,
)
app.conf.update(json.loads(os.environ.get("TASKS_CONFIG", "{}")))
if not os.environ.get("TASKS_STOCK"):
    configure(app)
if os.environ.get("TASKS_MUTE"):
    keep_events_while(app, Path(os.environ["TASKS_MUTE"]))


def task(body: Callable[..., Any], *, names: tuple[str, ...] = (), **options: Any) -> None:
    """Register ``body`` under its name, its further names, and with Celery's own base class."""

    def recorded(self: Task, *args: Any, **kwargs: Any) -> Any:
        if file := os.environ.get("TASKS_EXECUTIONS"):
            with open(file, "a") as executions:
                executions.write(f"{self.request.id} {self.name}\n")
        return body(self, *args, **kwargs)

    name = body.__name__
    for ours in (name, *names):
        app.task(recorded, name=ours, bind=True, **options)
    app.task(recorded, name=f"stock_{name}", bind=True, base=Task, **options)


def echo(self: Task, *args: Any, **kwargs: Any) -> Any:
    """Return the first argument, else the keyword arguments."""
    return args[0] if args else kwargs


def fail(self: Task, message: str = "on purpose") -> None:
    """Raise."""
    raise RuntimeError(message)


def wait(self: Task, path: str, timeout_seconds: float = 60, result: Any = None) -> Any:
    """Make ``<path>.started``, and return when the file ``path`` is there."""
    Path(f"{path}.started").touch()
    until(Path(path).exists, timeout_seconds)
    return {"status": "success", "eventful": True} if result is None else result


def retry(self: Task, times: int = 1, countdown: float = 0) -> dict[str, Any]:
    """Succeed at the attempt after ``times`` retries, so many seconds after each other."""
    if self.request.retries < times:
        raise self.retry(countdown=countdown, max_retries=times, exc=RuntimeError(f"attempt {self.request.retries}"))
    return {"status": "success", "eventful": True}


def retry_and_wait(self: Task, path: str) -> dict[str, Any]:
    """Be retried, and end the first try only when the second one has begun and waits; needs two processes."""
    if not self.request.retries:
        try:
            self.retry(countdown=0)
        finally:
            until(Path(f"{path}.started").exists, 60)
    Path(f"{path}.started").touch()
    until(Path(path).exists, 60)
    return {"status": "success", "eventful": True}


def reject(self: Task, requeue: bool = False) -> None:
    """Be rejected; with ``requeue`` only the first time."""
    if requeue and self.request.delivery_info["redelivered"]:
        return
    raise Reject("on purpose", requeue=requeue)


def ignore(self: Task) -> None:
    """End without a terminal event."""
    raise Ignore


def exhaust(self: Task) -> None:
    """Raise what Celery raises on: a pool of threads sends no terminal event then."""
    raise MemoryError


def die(self: Task) -> None:
    """Kill the pool's child."""
    os.kill(os.getpid(), signal.SIGKILL)


def limited(self: Task, path: str) -> None:
    """Wait for a file, and be killed if that takes long."""
    until(Path(path).exists, 60)


def unserialisable(self: Task) -> object:
    """Return what JSON can't hold."""
    return object()


task(echo, names=tuple(filter(None, os.environ.get("TASKS_ECHOES", "").split(","))))
task(limited, time_limit=float(os.environ.get("TASKS_LIMIT", "1")))
for simple in (fail, wait, retry, retry_and_wait, reject, ignore, exhaust, die, unserialisable):
    task(simple)
