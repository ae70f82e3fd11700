"""How a runner sleeps: it announces until when, and whoever makes a task due before wakes it."""

from __future__ import annotations

import time
from collections.abc import Callable

from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.services.service import Heartbeat

# So short a sleep is not worth its announcement.
NAP_SECONDS = 0.02
# Who can't announce its sleep, since somebody is making tasks due right now, looks again after the first, then later.
FIRST_RETRY_SECONDS = 0.005
LAST_RETRY_SECONDS = 0.1
# A sleeping runner notices that it is to stop within this.
WAIT_SECONDS = 0.25


class Sleep:
    """The sleep of one runner, on its dispatcher session. ``keep_alive`` is called while it lasts."""

    def __init__(self, session: DispatcherSession, keep_alive: Callable[[], None]) -> None:
        self._session = session
        self._keep_alive = keep_alive
        self._announced = False
        self._notified = False
        self._refused = 0  # how often in a row the sleep could not be announced
        self._quiet_until = 0.0  # before that nothing is announced, since notifications were of no use

    def announce(self, seconds: float) -> bool:
        """Have whoever makes a task due wake us; True if they do. Then look once more for what was due before.

        Not for a nap, nor where we were woken for nothing shortly before.
        """
        if seconds <= NAP_SECONDS or time.monotonic() < self._quiet_until:
            return False
        announced = self._session.fall_asleep(seconds)
        self._refused = 0 if announced else self._refused + 1
        self._announced = self._announced or announced
        return announced

    def unannounced_seconds(self, seconds: float) -> float:
        """How long to sleep of these seconds when nobody wakes us."""
        return min(seconds, LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(self._refused, 10))

    def sleep(self, seconds: float, heartbeat: Heartbeat) -> bool:
        """Sleep; True if somebody woke us, False when the time is over or the service is to stop."""
        until = time.monotonic() + seconds
        self._notified = False
        while not heartbeat.stopping and (left := until - time.monotonic()) > 0:
            if self._session.wait(min(left, WAIT_SECONDS)):
                self._notified = True
                break
            heartbeat.beat()
            self._keep_alive()
        return self._notified

    def worked(self, *, due: bool, sent: bool, busy: bool) -> None:
        """A round is over: tasks were due, some were sent, some had been in the round before (``busy``)."""
        # More and more tasks for a queue that takes none: their creators need not wake us for each.
        futile = self._notified and due and not sent
        if futile:
            self._quiet_until = time.monotonic() + LAST_RETRY_SECONDS
        if self._announced and (futile or (busy and sent)):
            # Not after each wake-up: mostly the next sleep is announced shortly after.
            self._session.wake_up()
            self._announced = False
        self._notified = False
