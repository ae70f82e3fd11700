"""Marks: messages in the event queue. When one is recorded, so is all that was in the queue before it."""

from __future__ import annotations

from collections.abc import Callable

from swh_sched_runner.backend.tasks.lost import Lost
from swh_sched_runner.broker.interface import EventMarker
from swh_sched_runner.services.service import Heartbeat

# So long a mark is waited for; a backlog is worked off first.
MARK_SECONDS = 60.0
MARK_LOOK_SECONDS = 0.1


class MarkSender:
    """Sends marks through the event queue and waits for them."""

    def __init__(self, lost: Lost, open_marker: Callable[[], EventMarker], seconds: float) -> None:
        self._lost = lost
        self._open_marker = open_marker
        self._seconds = seconds

    def pass_through(self, flush_seconds: float, heartbeat: Heartbeat) -> str | None:
        """Send a mark through the event queue, then one through the dead letters; answers why they have not passed."""
        marker = self._open_marker()
        try:
            if not self._passes(marker, heartbeat, dead_letters=False):
                return f"no mark came back from the event queue within {self._seconds:.0f} s: is a listener running?"
            if not marker.has_dead_letters:
                return None
            if heartbeat.wait(flush_seconds):
                return "the rescuer is stopping"
            if not self._passes(marker, heartbeat, dead_letters=True):
                return f"no mark came back from the dead-letter queue within {self._seconds:.0f} s"
            return None
        finally:
            marker.close()

    def _passes(self, marker: EventMarker, heartbeat: Heartbeat, *, dead_letters: bool) -> bool:
        mark = self._lost.place_mark(dead_letters=dead_letters)
        marker.place(mark, dead_letters=dead_letters)
        left = self._seconds
        while not (recorded := self._lost.mark_recorded(mark)) and left > 0:
            if heartbeat.wait(min(left, MARK_LOOK_SECONDS)):
                return False
            left -= MARK_LOOK_SECONDS
        return recorded
