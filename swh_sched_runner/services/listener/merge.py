"""Merges events into one change a run, in any order of arrival; and batches of messages into what is to be recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

import attrs

from swh_sched_runner.backend.dispatch.listener_lock import HeldLock
from swh_sched_runner.backend.events.rejected import Rejection
from swh_sched_runner.backend.tasks.lost import Marks
from swh_sched_runner.backend.tasks.runs import MOST_EXECUTIONS, RunChange
from swh_sched_runner.backend.workers.lives import Signs
from swh_sched_runner.broker.celery.events import (
    Event,
    Mark,
    TaskCancelled,
    TaskEvent,
    TaskReceived,
    TaskRejected,
    TaskRetried,
    TaskStarted,
    Unreadable,
    cut,
    parse,
)
from swh_sched_runner.broker.celery.run_outcome import End, end_of
from swh_sched_runner.broker.interface import Delivery
from swh_sched_runner.services.listener.signs import key_of, signs_of, timestamp_of

# What their column holds.
MOST_ATTEMPTS = 2**31 - 1
# What the event of a retry without an exception says: workers send its repr.
NO_EXCEPTION = "None"


class _Folded:
    """What the events of one run say together."""

    __slots__ = ("attempts", "begun", "end", "ended", "executions", "noted", "signed", "started", "waits")

    def __init__(self) -> None:
        self.started: float | None = None
        self.end: End | None = None
        self.ended = 0.0
        self.noted: dict[str, Any] = {}
        self.attempts: int | None = None
        self.begun: TaskStarted | None = None
        self.waits: float | None = None
        self.signed: TaskEvent | None = None  # the last one that says where the run is
        self.executions: set[int] = set()

    def add(self, event: TaskEvent) -> None:
        match event:
            case TaskStarted():
                self._add_start(event)
            case TaskReceived():
                self.attempts = max(self.attempts or 0, min((event.retries or 0) + 1, MOST_ATTEMPTS))
                self._add_wait(event)
            case TaskRetried():
                if event.exception and event.exception != NO_EXCEPTION:
                    self.noted["retried"] = cut(event.exception)
                self._add_wait(event)
            case TaskCancelled():
                self.noted["cancelled"] = True
                self._add_wait(event)
            case TaskRejected(requeue=True):
                self._add_wait(event)
            case _:
                self._add_end(end_of(event), event.timestamp)

    def _add_start(self, event: TaskStarted) -> None:
        self.started = event.timestamp if self.started is None else min(self.started, event.timestamp)
        self.executions.add(_execution(event))
        if self.begun is None or _rank(event) > _rank(self.begun):
            self.begun = event
        self._sign(event)

    def _add_wait(self, event: TaskEvent) -> None:
        self.waits = event.timestamp if self.waits is None else max(self.waits, event.timestamp)
        self._sign(event)

    def _sign(self, event: TaskEvent) -> None:
        if self.signed is None or _rank(event) > _rank(self.signed):
            self.signed = event

    def _add_end(self, end: End | None, timestamp: float) -> None:
        """A higher evidence corrects a lower one; of equals the first stays."""
        if end is None:
            return
        if self.end is None or (end.evidence, -timestamp) > (self.end.evidence, -self.ended):
            self.end, self.ended = end, timestamp

    def change(self, backend_id: str, workers: dict[tuple[str, int | None], dict[str, Any]]) -> RunChange:
        signed = self.signed and (self.signed.hostname, self.signed.pid)
        if signed and signed not in workers:
            workers[signed] = {"worker": cut(signed[0]), "worker_pid": signed[1]}
        started = _known(self.started)
        is_only = self.begun is not None and self.begun.timestamp == self.started
        return RunChange(
            backend_id,
            started=started,
            status=None if self.end is None else self.end.status,
            ended=None if self.end is None else _known(self.ended),
            evidence=None if self.end is None else self.end.evidence,
            noted=self.noted,
            end_noted={} if self.end is None else self.end.note,
            attempts=self.attempts,
            begun=started if is_only else _known(None if self.begun is None else self.begun.timestamp),
            waits_since=_known(self.waits),
            worker_noted=workers[signed] if signed else None,
            executions=sorted(self.executions)[:MOST_EXECUTIONS],
            begun_by=None if self.begun is None else key_of(self.begun),
        )


def _known(seconds: float | None) -> datetime | None:
    return None if seconds is None else timestamp_of(seconds)


def _rank(event: TaskEvent) -> tuple[float, bool, tuple[str, int, str]]:
    return event.timestamp, isinstance(event, TaskStarted), key_of(event).rank


def _execution(event: TaskStarted) -> int:
    """What copies of a task-started have in common and no other has: its life, its clock, its timestamp."""
    said = f"{event.hostname}/{event.pid}/{event.life}/{event.clock}/{event.timestamp!r}"
    return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), signed=True)


def fold(events: Iterable[TaskEvent]) -> list[RunChange]:
    """One change for every run that the events name, in order of first mention."""
    folded: dict[str, _Folded] = {}
    for event in events:
        folded.setdefault(event.uuid, _Folded()).add(event)
    workers: dict[tuple[str, int | None], dict[str, Any]] = {}
    return [run.change(backend_id, workers) for backend_id, run in folded.items()]


@attrs.define(slots=True, frozen=True)
class Message:
    """A message that was read: its events, and those of tasks among them by run. Its body is not kept.

    ``in_order``: all that was in the queue before it is acknowledged, or in hand; else its marks prove nothing.
    """

    delivery: Delivery
    events: list[Event | Unreadable]
    runs: set[str]
    in_order: bool = False

    @classmethod
    def read(cls, delivery: Delivery, *, in_order: bool = False) -> Message:
        """What a delivery says. Never raises."""
        events = parse(delivery.body, delivery.size)
        without_body = Delivery(b"", delivery.tag, delivery.size, delivery.properties)
        return cls(without_body, events, {event.uuid for event in events if isinstance(event, TaskEvent)}, in_order)

    def events_of(self, runs: Collection[str]) -> list[TaskEvent]:
        """What is told of these runs."""
        return [event for event in self.events if isinstance(event, TaskEvent) and event.uuid in runs]

    def events_but_of(self, runs: Collection[str]) -> list[TaskEvent]:
        """What is told of other runs."""
        return [event for event in self.events if isinstance(event, TaskEvent) and event.uuid not in runs]


@attrs.define(slots=True, frozen=True)
class Batch:
    """Messages, and what is to be recorded: changes, and the ``events`` that they were merged from.

    ``signs`` are what the events say of workers. ``tries_again``: with it what the database refused before.
    ``marks`` are noted with it if nothing of it has to wait.
    ``compares``: nothing is left to record, so what heartbeats count can be compared with the starts that came.
    """

    messages: Sequence[Message]
    changes: Sequence[RunChange]
    unreadable: Sequence[Rejection]
    events: Sequence[TaskEvent] = ()
    signs: Signs | None = None
    tries_again: bool = False
    compares: bool = False
    marks: Marks | None = None

    @classmethod
    def of(
        cls,
        messages: Sequence[Message],
        waiting: Collection[str] = (),
        again: Sequence[TaskEvent] = (),
        lock: HeldLock | None = None,
    ) -> Batch:
        """All that the messages say, but of runs that wait already, and what is to be tried again.

        While anything waits, marks prove nothing: what came before them is not recorded.
        """
        events = list(again)
        tries_again = bool(events)
        for message in messages:
            events += message.events_but_of(waiting)
        unreadable = [
            Rejection(event.reason, event.body, event.size, message.delivery.properties())
            for message in messages
            for event in message.events
            if isinstance(event, Unreadable)
        ]
        signs = signs_of([*again, *(event for message in messages for event in message.events)])
        marks = None if waiting or again else marks_of(messages, lock)
        return cls(messages, fold(events), unreadable, events, signs, tries_again, marks=marks)


def marks_of(messages: Iterable[Message], lock: HeldLock | None) -> Marks | None:
    """The marks of the event queue in these messages that prove something."""
    ids = frozenset(
        str(event.id)
        for message in messages
        if message.in_order
        for event in message.events
        if isinstance(event, Mark) and not event.dead_letters
    )
    return Marks(ids, lock=lock) if ids else None
