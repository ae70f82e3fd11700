"""Folds events into one change a run, in any order of arrival."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.broker.celery.events import TaskEvent, TaskReceived, TaskRetried, TaskStarted, cut
from swh_sched_runner.broker.celery.run_outcome import End, end_of

# What their column holds.
MOST_ATTEMPTS = 2**31 - 1
# What the event of a retry without an exception says: workers send its repr.
NO_EXCEPTION = "None"


class _Folded:
    """What the events of one run say together."""

    __slots__ = ("attempts", "end", "ended", "noted", "started")

    def __init__(self) -> None:
        self.started: float | None = None
        self.end: End | None = None
        self.ended = 0.0
        self.noted: dict[str, Any] = {}
        self.attempts: int | None = None

    def add(self, event: TaskEvent) -> None:
        match event:
            case TaskReceived():
                self.noted["worker"] = cut(event.hostname)
                self.attempts = max(self.attempts or 0, min((event.retries or 0) + 1, MOST_ATTEMPTS))
            case TaskStarted():
                self.started = event.timestamp if self.started is None else min(self.started, event.timestamp)
                self.noted |= {"worker": cut(event.hostname), "worker_pid": event.pid}
            case TaskRetried():
                if event.exception and event.exception != NO_EXCEPTION:
                    self.noted["retried"] = cut(event.exception)
            case _:
                self._add_end(end_of(event), event.timestamp)

    def _add_end(self, end: End | None, timestamp: float) -> None:
        """A higher evidence corrects a lower one; of equals the first stays."""
        if end is None:
            return
        if self.end is None or (end.evidence, -timestamp) > (self.end.evidence, -self.ended):
            self.end, self.ended = end, timestamp

    def change(self, backend_id: str) -> RunChange:
        started = None if self.started is None else datetime.fromtimestamp(self.started, UTC)
        if self.end is None:
            return RunChange(backend_id, started=started, noted=self.noted, attempts=self.attempts)
        return RunChange(
            backend_id,
            started=started,
            status=self.end.status,
            ended=datetime.fromtimestamp(self.ended, UTC),
            evidence=self.end.evidence,
            noted=self.noted,
            end_noted=self.end.note,
            attempts=self.attempts,
        )


def fold(events: Iterable[TaskEvent]) -> list[RunChange]:
    """One change for every run that the events name, in order of first mention."""
    folded: dict[str, _Folded] = {}
    for event in events:
        folded.setdefault(event.uuid, _Folded()).add(event)
    return [run.change(backend_id) for backend_id, run in folded.items()]
