"""What became of messages that were sent together."""

from __future__ import annotations

import time


class Sent:
    """``confirmed`` are the ids that the broker has for certain; of others nothing is known once it is ``done``.

    ``unsendable`` were not written, since they can never be sent: why, by id. ``began`` is when the first was written,
    by ``time.monotonic``.
    """

    __slots__ = ("began", "confirmed", "messages", "refused", "returned", "unanswered", "unsendable")

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.began = time.monotonic()
        self.confirmed: set[str] = set()
        self.returned: set[str] = set()
        self.unsendable: dict[str, str] = {}
        self.refused = 0
        self.unanswered = 0

    @property
    def done(self) -> bool:
        """Whether the broker will say nothing more of them."""
        return not self.unanswered

    @property
    def complete(self) -> bool:
        """Whether all of them that can be sent were handed over, and none was refused so far."""
        return self.unanswered + len(self.confirmed) == self.sendable

    @property
    def sendable(self) -> int:
        """How many of the messages can be sent."""
        return self.messages - len(self.unsendable)

    @property
    def progress(self) -> bool:
        """Whether anything became known for certain."""
        return bool(self.confirmed or self.unsendable)

    def give_up(self) -> None:
        """Nothing more is heard of those that are unanswered."""
        self.unanswered = 0
