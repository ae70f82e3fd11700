"""What the log says of something that stays wrong."""

from __future__ import annotations

import time

FIRST_SECONDS = 60.0
LAST_SECONDS = 3_600.0


class Reminders:
    """Whether to say it again: at once, then after a minute, two, four, … an hour.

    Anew where the text is another one, or it was not to be said for as long as it was silent.
    """

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, float, float, float]] = {}

    def due(self, subject: str, text: str = "") -> bool:
        """Whether to say it now; it counts as said then."""
        now = time.monotonic()
        told, seen, until, delay = self._told.get(subject, (text, now, now, 0.0))
        if text != told or now - seen > delay:
            until, delay = now, 0.0
        is_due = now >= until
        if is_due:
            delay = min(LAST_SECONDS, max(FIRST_SECONDS, 2 * delay))
            until = now + delay
        self._told[subject] = text, now, until, delay
        return is_due

    def forget(self, subject: str) -> None:
        """It is over."""
        self._told.pop(subject, None)
