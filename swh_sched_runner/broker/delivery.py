"""An event message in hand, and how much of them a consumer takes at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# No event is longer: a list of 24 with long tracebacks stays far below.
MAX_EVENT_BYTES = 1_000_000
# Of a body that is too long for an event so much is kept, for people.
KEPT_BYTES = 65_536
# A consumer hands out no more at a time, and one message beyond: what a batch takes in memory follows from it.
BATCH_BYTES = 4_194_304


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message: what of its body was kept, the size of the whole body, and the tag that acknowledges it."""

    body: bytes
    tag: Any
    size: int

    @classmethod
    def of(cls, body: bytes, tag: Any, max_bytes: int) -> Delivery:
        """A message whose body is at hand: kept whole up to ``max_bytes``, of a longer one the beginning."""
        return cls(body if len(body) <= max_bytes else body[:KEPT_BYTES], tag, len(body))


def bytes_of(deliveries: Iterable[Delivery]) -> int:
    """How many bytes of bodies these hold."""
    return sum(len(delivery.body) for delivery in deliveries)
