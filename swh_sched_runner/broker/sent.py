"""What became of messages that were sent together."""

from __future__ import annotations

import time
from collections.abc import Iterable


class Sent:
    """``confirmed`` are the ids that the broker has for certain; of others nothing is known once it is ``done``.

    ``began`` is when the first was written, by ``time.monotonic``.
    """

    __slots__ = ("began", "confirmed", "messages", "refused", "returned", "unanswered")

    def __init__(self, messages: int, confirmed: Iterable[str] = ()) -> None:
        self.messages = messages
        self.began = time.monotonic()
        self.confirmed = set(confirmed)
        self.returned: set[str] = set()
        self.refused = 0
        self.unanswered = 0

    @property
    def done(self) -> bool:
        """Whether the broker will say nothing more of them."""
        return not self.unanswered

    @property
    def complete(self) -> bool:
        """Whether all of them were handed over, and none was refused so far."""
        return self.unanswered + len(self.confirmed) == self.messages

    def give_up(self) -> None:
        """Nothing more is heard of those that are unanswered."""
        self.unanswered = 0
