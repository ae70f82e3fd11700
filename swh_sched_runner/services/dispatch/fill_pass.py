"""A fill pass: which source of a leased queue is asked next, and for how many messages."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import attrs

from swh_sched_runner.backend.dispatch.outbox import Batch
from swh_sched_runner.services.dispatch.lease import QueueLease

# A pass over a queue that is alone ends after so long, so that other tasks that became due are looked for.
PASS_SECONDS = 0.5
# A grab locks its tasks, and the next one waits for it: not longer than this, and not for much less.
SLOW_GRAB_SECONDS = 0.25
FAST_GRAB_SECONDS = 0.1
SMALLEST_BATCH = 50


class Source(Protocol):
    """Where messages to a queue come from: tasks of a group, or visits of a type. Hashable.

    ``due_in_seconds`` is since when the first is due (negative), None where that has no meaning.
    """

    @property
    def task_type(self) -> str: ...
    @property
    def due_in_seconds(self) -> float | None: ...

    def open_batch(self, session_id: int, queue: str, most: int) -> Batch | None:
        """Take up to ``most`` of them and put their messages in the outbox; None if there are none.

        Raises ``StatementRefused``.
        """


@attrs.define(slots=True, frozen=True)
class QueueWork:
    """A queue, its limit (None: none), and where messages to it come from, in the order in which they are asked."""

    queue: str
    max_queue_length: int | None
    sources: Sequence[Source]


class AdaptiveBatchSize:
    """How many messages to take at a time: as many as are allowed, fewer while the database is slow."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = most

    def note(self, taken: int, seconds: float) -> None:
        """A grab took so many tasks and so long."""
        if seconds > SLOW_GRAB_SECONDS:
            self.size = max(min(SMALLEST_BATCH, self._most), self.size // 2)
        elif seconds < FAST_GRAB_SECONDS and taken >= self.size:
            self.size = min(self._most, self.size * 2)


class FillPass:
    """Asks the sources of a queue one after the other, each for its share of the capacity; who has more gets more.

    ``again``: they are asked round and round, for as long as a pass may last; else each once.
    """

    def __init__(self, lease: QueueLease, sources: Sequence[Source], *, again: bool) -> None:
        self.lease = lease
        self.sent = dict.fromkeys(sources, 0)  # confirmed messages
        self.started = time.monotonic()
        self._again = again
        self._sources = list(sources)
        self._asked: deque[Source] = deque(sources)
        self._batches = 0

    @property
    def dry(self) -> bool:
        """Whether its sources had nothing more to give."""
        return not self._sources

    @property
    def busy(self) -> bool:
        """Whether a batch of it is being grabbed, published or closed."""
        return self._batches > 0

    def next(self, most: int) -> tuple[Source, int] | None:
        """The source to ask next, and for how many messages; None when none is to be asked any more."""
        if not self._asked and self._again and time.monotonic() - self.started < PASS_SECONDS:
            self._asked.extend(self._sources)
        capacity = self.lease.capacity
        if not self._asked or capacity == 0:
            return None
        share = most if capacity is None else min(most, -(-capacity // len(self._asked)))
        self.lease.reserve(share)
        self._batches += 1
        return self._asked.popleft(), share

    def grabbed(self, source: Source, wanted: int, taken: int) -> None:
        """A source had so many of the messages that it was asked for."""
        self.lease.give_back(wanted - taken)
        if taken < wanted and source in self._sources:
            self._sources.remove(source)  # it has nothing more, or may not give it
        if not taken:
            self.closed()

    def confirmed(self, source: Source, messages: int) -> None:
        """So many messages of a source were confirmed."""
        self.sent[source] += messages

    def closed(self) -> None:
        """A batch has come to its end."""
        self._batches -= 1
