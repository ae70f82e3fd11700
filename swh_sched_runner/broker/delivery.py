"""An event message in hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Delivery:
    """The body of a message, and the tag under which its consumer acknowledges it."""

    body: bytes
    tag: Any
