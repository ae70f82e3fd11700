"""A life that says that it shuts down, and what it executes after that: rule 2c of docs/explanation/lost-runs.md."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import datetime

import attrs

# So many starts and ends after a worker-offline are counted.
MOST_LEFT = 10_000


@attrs.frozen
class Ends:
    """Ends of executions that a worker signed in a batch, of foreign tasks as well: the clock of each, and its run.

    Events of ends do not have the random id of a life.
    """

    hostname: str
    pid: int | None
    ends: Collection[tuple[int, str]]


@attrs.define(slots=True, kw_only=True)
class Leaving:
    """What a life said of its shutdown, and of its executions since; columns of ``worker``.

    In a pool in which one thread accepts all executions and sends all events, as many different runs must end after
    worker-offline, by the life's own clock, as were executed then and began after it.
    """

    online: datetime | None = None
    offline: datetime | None = None
    offline_active: int | None = None
    offline_clock: int | None = None
    left_at: datetime | None = None
    left_starts: list[int] = attrs.Factory(list)
    left_ends: list[int] = attrs.Factory(list)
    left_running: int | None = None

    def leave(self, signed: datetime, clock: int | None, active: int | None, now: datetime, begun: int) -> None:
        """Take in a worker-offline; ``begun`` is the largest clock of a recorded task-started."""
        if self.offline is not None and signed < self.offline:
            return
        self.offline, self.offline_active, self.left_at = signed, active, now
        if clock is None or clock != self.offline_clock:
            # A start that overtook it may have ended by now: then nothing can be counted.
            self.offline_clock = clock if clock is not None and begun <= clock else None
            self.left_starts, self.left_ends = [], []

    def begins(self, clocks: Collection[int], last: datetime) -> bool:
        """Take in starts; whether any came after worker-offline: the life goes on then."""
        if not self.is_leaving:
            return False
        if self.offline_clock is None:
            return self.offline is not None and last > self.offline
        late = {clock for clock in clocks if clock > self.offline_clock}
        self.left_starts = sorted(late.union(self.left_starts))
        if len(self.left_starts) > MOST_LEFT:
            self._count_nothing()
        return bool(late)

    def ends(self, ends: Collection[tuple[int, str]]) -> None:
        """Take in ends."""
        if self.offline_clock is None or not self.is_leaving or len(self.left_ends) >= MOST_LEFT:
            return
        late = {_hash(run) for clock, run in ends if clock > self.offline_clock}
        self.left_ends = sorted(late.union(self.left_ends))[:MOST_LEFT]

    @property
    def is_leaving(self) -> bool:
        """Whether it has said that it shuts down, and has not come back since."""
        return self.offline is not None and (self.online is None or self.offline > self.online)

    def come_online(self, signed: datetime) -> None:
        """Take in a worker-online."""
        self.online = max(self.online or signed, signed)
        if not self.is_leaving:
            self._count_nothing()

    def _count_nothing(self) -> None:
        self.offline_clock, self.left_starts, self.left_ends = None, [], []

    def count_left(self, *, is_ordered: bool) -> None:
        """Count what it still executes after worker-offline."""
        if self.offline_clock is None or self.offline_active is None:
            self.left_running = None
        elif is_ordered:
            self.left_running = max(0, self.offline_active + len(self.left_starts) - len(self.left_ends))
        else:
            self.left_running = 0 if self.offline_active == 0 and not self.left_starts else None


def _hash(run: str) -> int:
    return int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), signed=True)
