"""What a service is, and its tie to the supervisor."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

# A waiting service gives a sign of life this often.
BEAT_SECONDS = 1.0


def in_words(seconds: float) -> str:
    """About how long: ``45 s``, ``20 min``, ``3 h``, ``2 d``."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds)} s"


def debugging(name: str) -> bool:
    """Whether the log of that module has lines of level debug: what only they need need not be asked for otherwise."""
    return logging.getLogger(name).isEnabledFor(logging.DEBUG)


class Heartbeat:
    """A service's tie to its supervisor: whether to stop, and signs of life."""

    def __init__(self, stop: threading.Event | None = None) -> None:
        self._stop = stop or threading.Event()
        self._last = time.monotonic()
        self.status = "starting"
        self.standing_by = False  # whether another process does the work, and this one waits for its end
        self.trouble: str | None = None  # what keeps the service from its work, while something does

    @property
    def stopping(self) -> bool:
        """Whether the service is to finish what it has in hand and return."""
        return self._stop.is_set()

    def beat(self, status: str | None = None) -> None:
        """Give a sign of life, and say in a few words what is going on."""
        self._last = time.monotonic()
        if status is not None:
            self.status = status

    def silent_seconds(self) -> float:
        """How long ago the last sign of life was."""
        return time.monotonic() - self._last

    def wait(self, seconds: float) -> bool:
        """Wait, giving signs of life; returns at once, and True, when the service is to stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.beat()
            if self._stop.wait(min(left, BEAT_SECONDS)):
                break
        return self.stopping


class MaintainingHeartbeat(Heartbeat):
    """A service's heartbeat, at each beat of which ``maintain`` is called: for connections that need care."""

    def __init__(self, service: Heartbeat, maintain: Callable[[], object]) -> None:
        super().__init__()
        self._service = service
        self._maintain = maintain

    @property
    def stopping(self) -> bool:
        """Whether the service is to stop."""
        return self._service.stopping

    def beat(self, status: str | None = None) -> None:
        """Give a sign of life, and maintain."""
        self._service.beat(status)
        self._maintain()

    def wait(self, seconds: float) -> bool:
        """Wait, and maintain meanwhile; returns at once, and True, when the service is to stop."""
        while seconds > 0:
            self.beat()
            if self._service.wait(min(seconds, BEAT_SECONDS)):
                break
            seconds -= BEAT_SECONDS
        return self.stopping


class Service(Protocol):
    """One kind of work, done a round at a time."""

    name: str

    def run_once(self, heartbeat: Heartbeat) -> bool:
        """Do one round. True if there may be more to do at once."""
        ...

    def wait_for_work(self, heartbeat: Heartbeat) -> None:
        """Wait until there may be something to do, or the service is to stop."""
        ...

    def close(self) -> None:
        """Give up connections. What was begun is finished by whoever comes next."""
        ...


class Periodic:
    """A service that does a round every ``period_seconds``."""

    period_seconds: float

    def wait_for_work(self, heartbeat: Heartbeat) -> None:
        """Wait for the next round."""
        heartbeat.wait(self.period_seconds)
