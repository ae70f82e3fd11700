"""What a round is to do later: actions, and scripts that yield the seconds until they want to go on."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial

Script = Iterator[float]


class Agenda:
    """Actions by the time at which they are due."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def __bool__(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._due)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something done later."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), action))

    def follow(self, script: Script) -> None:
        """Go on with a script, and again after the seconds that it yields."""
        wait_seconds = next(script, None)
        if wait_seconds is not None:
            self.later(wait_seconds, partial(self.follow, script))

    def catch_up(self) -> None:
        """Do all that is due."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
