"""The application of a fleet, as it was before there was a scheduler: for workers of any release of Celery.

It imports Celery alone, unless TASKS_STOCK is empty: then it has the two lines that make workers report.
``tests.support.processes.workers`` starts it, with the variables of ``tasks_app``. Each execution is a line of
TASKS_EXECUTIONS that ends in what the task saw of itself, as JSON (``executions``).

As a program it sends tasks instead: it reads ``[{"name", "args", "kwargs", "task_id", "queue"}, …]`` from its input.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from celery import Celery, Task

app = Celery("fleet", broker=os.environ["TASKS_BROKER_URL"])
app.conf.update(json.loads(os.environ.get("TASKS_CONFIG", "{}")), broker_connection_retry_on_startup=True)
if not os.environ.get("TASKS_STOCK"):
    from swh_sched_runner.worker import configure

    configure(app)

RESULT = {"status": "success", "eventful": False}


def record(task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Note that a task's body began, and with what."""
    request = task.request
    seen = {"args": args, "kwargs": kwargs, "retries": request.retries, "root_id": request.root_id}
    with open(os.environ["TASKS_EXECUTIONS"], "a") as executions:
        executions.write(f"{request.id} {task.name} {json.dumps(seen)}\n")


@app.task(name="fleet.look", bind=True)
def look(self: Task, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Find nothing new."""
    record(self, args, kwargs)
    return RESULT


@app.task(name="fleet.again", bind=True, ignore_result=True)
def again(self: Task, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Succeed at the second attempt; nobody wants the result."""
    record(self, args, kwargs)
    if not self.request.retries:
        raise self.retry(countdown=0, max_retries=1)
    return RESULT


if __name__ == "__main__":
    for message in json.load(sys.stdin):
        app.send_task(**message)
