"""Waiting for a condition, with a deadline, instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], timeout_seconds: float = 30, *, what: str = "") -> T:
    """What ``condition`` returns once it is true; fails the test when that takes too long."""
    deadline = time.monotonic() + timeout_seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            name = what or getattr(condition, "__name__", repr(condition))
            raise AssertionError(f"not within {timeout_seconds} s: {name} (last: {result!r})")
        time.sleep(0.01)
    return result
