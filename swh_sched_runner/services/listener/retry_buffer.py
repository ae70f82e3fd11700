"""Events that the database refuses for now, though their data is right: kept unacknowledged, and tried again."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping

from swh_sched_runner.broker.celery.events import TaskEvent
from swh_sched_runner.broker.interface import Delivery
from swh_sched_runner.exc import StatementRefused

FIRST_AGAIN_SECONDS = 1.0
LAST_AGAIN_SECONDS = 30.0
MOST_BYTES = 16_777_216


class RetryBuffer:
    """Runs that wait with all that is told of them, and the messages that told it."""

    def __init__(self, most_messages: int) -> None:
        self.reason: str | None = None
        self.seconds = FIRST_AGAIN_SECONDS  # from one try to the next
        self._most_messages = most_messages
        self._events: dict[str, list[TaskEvent]] = {}
        self._messages: list[tuple[Delivery, set[str]]] = []
        self._at = 0.0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def runs(self) -> Collection[str]:
        """The runs that wait."""
        return self._events.keys()

    def due(self) -> list[TaskEvent]:
        """All that is told of these runs, when it is time to try them again."""
        if time.monotonic() < self._at:
            return []
        return [event for events in self._events.values() for event in events]

    def tried(self, waiting: Mapping[str, str]) -> list[Delivery]:
        """The runs were tried, and these still wait, with the reasons; answers the messages that need wait no more."""
        went_well = len(self._events) - len(waiting.keys() & self._events.keys())
        self._events = {run: events for run, events in self._events.items() if run in waiting}
        self.seconds = FIRST_AGAIN_SECONDS if went_well else min(2 * self.seconds, LAST_AGAIN_SECONDS)
        self._at = time.monotonic() + self.seconds
        self.reason = next(iter(waiting.values()), None)
        waiting_messages, free = [], []
        for delivery, runs in self._messages:
            left = runs & self._events.keys()
            if left:
                waiting_messages.append((delivery, left))
            else:
                free.append(delivery)
        self._messages = waiting_messages
        return free

    def add(self, delivery: Delivery, runs: set[str], events: Iterable[TaskEvent], reason: str) -> None:
        """A message of which these runs have to wait, with what it tells of them, and why they wait.

        Raises ``StatementRefused`` when it is too much to be kept in hand.
        """
        if not self._messages:
            self.reason, self._at = reason, time.monotonic() + self.seconds
        for event in events:
            self._events.setdefault(event.uuid, []).append(event)
        self._messages.append((delivery, runs))
        size = sum(held.size for held, _ in self._messages)
        if len(self._messages) > self._most_messages or size > MOST_BYTES:
            raise StatementRefused(reason=reason)
