"""The rules of tasks a second time, in plain Python, a row at a time: what tests compare long histories with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from swh_sched_runner.model import Task, TaskRun, TaskType
from tests.support.models.end_rule import task_after


@dataclass
class Run:
    id: int
    task: int
    backend_id: str
    scheduled: datetime
    started: datetime | None = None
    ended: datetime | None = None
    status: str = "scheduled"
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> tuple[datetime, int]:
        return self.started or self.scheduled, self.id


class Tasks:
    """Tasks, which are dicts as the API shows them, and their runs."""

    def __init__(self, types: Iterable[TaskType]) -> None:
        self.types = {it["type"]: it for it in types}
        self.tasks: dict[int, Task] = {}
        self.runs: dict[str, Run] = {}
        self._run_id: dict[int, int | None] = {}

    def created(self, given: Task, policy: str, got: Task) -> None:
        """Check what ``create_tasks`` answered for one task."""
        kind = self.types[given["type"]]
        wanted = Task(
            type=given["type"],
            arguments=given["arguments"],
            next_run=given["next_run"],
            policy=policy,
            status="next_run_not_scheduled",
            retries_left=kind.get("num_retries") or 0,
            priority=given.get("priority"),
            current_interval=kind.get("default_interval"),
        )
        existing = next((it for it in self.tasks.values() if _is_duplicate(it, wanted)), None)
        assert got == (existing or wanted | {"id": got["id"]})
        if existing is None:
            assert got["id"] not in self.tasks
            self.tasks[got["id"]], self._run_id[got["id"]] = got, None

    def ready(self, task_type: str, now: datetime, count: int, *, priority: bool) -> list[Task]:
        """What a grab takes, as it is before."""
        due = [
            it
            for it in self.tasks.values()
            if it["type"] == task_type and it["status"] == "next_run_not_scheduled" and it["next_run"] <= now
            if (it["priority"] is not None) is priority
        ]
        order = ["high", "normal", "low", None]
        return sorted(due, key=lambda it: (order.index(it["priority"]), it["next_run"], it["id"]))[:count]

    def set(self, task: int, status: str, next_run: datetime | None = None) -> None:
        """A grab, or an operator's change: the task follows no run."""
        self._run_id[task] = None
        self._write(task, status=status, **({} if next_run is None else {"next_run": next_run}))

    def open(self, got: TaskRun) -> None:
        """A run that was opened, as the API showed it."""
        run = Run(got["id"], got["task"], got["backend_id"], got["scheduled"])  # type: ignore[arg-type]
        assert self.shown(run) == got
        self.runs[run.backend_id], self._run_id[run.task] = run, run.id
        if self.tasks[run.task]["status"] == "next_run_not_scheduled":
            self._write(run.task, status="next_run_scheduled")

    def start(self, backend_id: str, metadata: dict[str, Any], timestamp: datetime) -> TaskRun | None:
        run = self.runs.get(backend_id)
        if run is None:
            return None
        if run.started is None:
            run.started, run.metadata = timestamp, run.metadata | metadata
            run.status = run.status if run.ended else "started"
        return self.shown(run)

    def end(self, backend_id: str, status: str, metadata: dict[str, Any], timestamp: datetime) -> TaskRun | None:
        run = self.runs.get(backend_id)
        if run is None:
            return None
        if run.ended is None:
            run.ended, run.status, run.metadata = timestamp, status, run.metadata | metadata
            task = self.tasks[run.task]
            if self._run_id[run.task] == run.id and task["status"] != "disabled":
                self.tasks[run.task] = task_after(task, self.types[task["type"]], status, timestamp)
        return self.shown(run)

    def archive(self, after: tuple[datetime, int], before: datetime) -> list[Run]:
        """The runs to archive from behind ``after`` on, in order."""
        done = {("disabled", "oneshot"), ("disabled", "recurring"), ("completed", "oneshot")}
        found = [
            run
            for run in self.runs.values()
            if after < run.place and run.place[0] < before
            if (self.tasks[run.task]["status"], self.tasks[run.task]["policy"]) in done
        ]
        return sorted(found, key=lambda run: run.place)

    def delete(self, runs: Sequence[Run]) -> None:
        """What ``delete_archived_tasks`` does."""
        gone = {run.id for run in runs}
        self.runs = {name: run for name, run in self.runs.items() if run.id not in gone}
        left = {run.task for run in self.runs.values()}
        for task in {run.task for run in runs} - left:
            if self.tasks[task]["status"] in ("completed", "disabled") or self._run_id[task] in gone:
                del self.tasks[task]

    @staticmethod
    def shown(run: Run) -> TaskRun:
        """A run as the API shows it."""
        return cast(TaskRun, dict(vars(run)))

    def _write(self, task: int, **changes: Any) -> None:
        self.tasks[task] = Task(**(self.tasks[task] | changes))  # type: ignore[typeddict-item]


def _is_duplicate(old: Task, new: Task) -> bool:
    same = all(old[name] == new[name] for name in ("type", "arguments", "policy", "priority"))
    waiting = old["status"] in ("next_run_not_scheduled", "next_run_scheduled")
    return same and waiting and (new["policy"] == "recurring" or old["next_run"] == new["next_run"])
