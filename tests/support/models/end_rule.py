"""The rule of what an end of a run does to its task, a second time and in plain Python (docs/state-machine.md).

Every test that has to know the rule asks here. Whether an end counts is for the caller to say: this is the rule for one
that does.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from swh_sched_runner.model import Task, TaskType

SUCCEEDED = ("eventful", "uneventful")
WAITING = "next_run_not_scheduled"
HOUR = timedelta(hours=1)
LONGEST = timedelta(days=365_000)


def status_after(end: str, policy: str, retries_left: int = 0) -> str:
    """The status of a task whose run has ended so."""
    if end == "permfailed":
        return "disabled"
    if end in SUCCEEDED:
        return "completed" if policy == "oneshot" else WAITING
    return "disabled" if policy == "oneshot" and retries_left <= 0 else WAITING


def task_after(task: Task, task_type: TaskType, end: str, ended: datetime) -> Task:
    """The task as it is after its run has ended so, at ``ended``."""
    after = task.copy()
    after["status"] = status_after(end, task["policy"], task["retries_left"])
    if after["status"] != WAITING:
        return after
    if end not in SUCCEEDED and task["retries_left"] > 0:
        delay = task_type["retry_delay"]
        after["next_run"] = ended + (HOUR if delay is None else delay)
        after["retries_left"] = task["retries_left"] - 1
        return after
    if end in SUCCEEDED:
        after["current_interval"] = interval_after(task, task_type, end)
    interval = after["current_interval"]
    after["next_run"] = ended + (HOUR if interval is None else interval)
    after["retries_left"] = task_type["num_retries"] or 0
    return after


def interval_after(task: Task, task_type: TaskType, end: str) -> timedelta:
    """The interval of a recurring task whose run has succeeded."""
    interval, factor = task["current_interval"], task_type["backoff_factor"] or 1.0
    assert interval is not None
    change = 1 / factor if end == "eventful" else factor
    if interval.total_seconds() * change >= LONGEST.total_seconds():
        interval = LONGEST
    else:
        interval = interval / factor if end == "eventful" else interval * factor
    shortest, longest = task_type["min_interval"], task_type["max_interval"]
    interval = interval if longest is None else min(interval, longest)
    return interval if shortest is None else max(interval, shortest)
