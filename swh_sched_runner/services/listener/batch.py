"""Messages that are recorded together: what they say, put together for the database."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs

from swh_sched_runner.backend.events.rejected import Rejection
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.backend.workers.lives import Signs
from swh_sched_runner.broker.celery.events import Event, TaskEvent, Unreadable, parse
from swh_sched_runner.broker.interface import Delivery
from swh_sched_runner.services.listener.merge import fold
from swh_sched_runner.services.listener.signs import signs_of


@attrs.define(slots=True, frozen=True)
class Message:
    """A message that was read: its events, and those of tasks among them by run. Its body is not kept."""

    delivery: Delivery
    events: list[Event | Unreadable]
    runs: set[str]

    @classmethod
    def read(cls, delivery: Delivery) -> Message:
        """What a delivery says. Never raises."""
        events = parse(delivery.body, delivery.size)
        without_body = Delivery(b"", delivery.tag, delivery.size, delivery.properties)
        return cls(without_body, events, {event.uuid for event in events if isinstance(event, TaskEvent)})

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
    ``compares``: nothing is left to record, so what heartbeats count can be compared with the starts that came.
    """

    messages: Sequence[Message]
    changes: Sequence[RunChange]
    unreadable: Sequence[Rejection]
    events: Sequence[TaskEvent] = ()
    signs: Signs | None = None
    tries_again: bool = False
    compares: bool = False

    @classmethod
    def of(cls, messages: Sequence[Message], waiting: Collection[str] = (), again: Sequence[TaskEvent] = ()) -> Batch:
        """All that the messages say, but of runs that wait already, and what is to be tried again."""
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
        return cls(messages, fold(events), unreadable, events, signs, tries_again)
