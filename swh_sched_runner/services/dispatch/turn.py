"""A queue's turn: which group is asked next, and for how many tasks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack

from swh_sched_runner.backend.dispatch.ready import TaskGroup
from swh_sched_runner.services.dispatch.fill import Fill

# A queue that is alone gives its turn up after so long, so that other tasks that became due are looked for.
TURN_SECONDS = 0.5
# A grab locks its tasks, and the next one waits for it: not longer than this, and not for much less.
SLOW_GRAB_SECONDS = 0.25
FAST_GRAB_SECONDS = 0.1
SMALLEST_BATCH = 50


class Pace:
    """How many tasks to take at a time: as many as are allowed, fewer while the database is slow."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = most

    def note(self, taken: int, seconds: float) -> None:
        """A grab took so many tasks and so long."""
        if seconds > SLOW_GRAB_SECONDS:
            self.size = max(min(SMALLEST_BATCH, self._most), self.size // 2)
        elif seconds < FAST_GRAB_SECONDS and taken >= self.size:
            self.size = min(self._most, self.size * 2)


class Turn:
    """A queue's turn. Its groups are asked one after the other, each for its share of the room; who has more gets more.

    ``again``: they are asked round and round, for as long as a turn may last; else each once.
    """

    def __init__(self, groups: Sequence[TaskGroup], fill: Fill, locks: ExitStack, *, again: bool) -> None:
        self.fill = fill
        self.sent = dict.fromkeys(groups, 0)
        self.under_way = 0
        self.started = time.monotonic()
        self._locks = locks
        self._again = again
        self._groups = list(groups)
        self._asked: deque[TaskGroup] = deque(groups)

    def next(self, most: int) -> tuple[TaskGroup, int] | None:
        """The group to ask next, and for how many tasks; None when the turn is over, but for what is under way."""
        if not self._asked and self._again and time.monotonic() - self.started < TURN_SECONDS:
            self._asked.extend(self._groups)
        if not self._asked or self.fill.full:
            return None
        share = most if self.fill.room is None else min(most, -(-self.fill.room // len(self._asked)))
        self.under_way += 1
        if self.fill.room is not None:
            self.fill.room -= share
        return self._asked.popleft(), share

    def grabbed(self, group: TaskGroup, wanted: int, taken: int) -> None:
        """What became of a request."""
        if self.fill.room is not None:
            self.fill.room += wanted - taken
        if taken < wanted and group in self._groups:
            self._groups.remove(group)  # nothing more is due, or may be taken
        if not taken:
            self.under_way -= 1

    def end(self) -> None:
        """Let the queue go."""
        self._locks.close()
