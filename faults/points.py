"""Points of a dispatch at which a runner kills itself. Only in the process that is to die: the product has no hooks."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from threading import local
from typing import Any

import amqp.transport

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.db.engine import Database

METHOD_FRAME = 1
BASIC_PUBLISH = struct.pack(">HH", 60, 40)
# What a runner that dies at a point says last.
REACHED = "reached the point"

AFTER_GRAB = "after the grab, before the commit"
AFTER_COMMIT = "after the commit, before the first message"
HALF_SENT = "half-way through a send"
AFTER_CONFIRM = "after the confirms, before the batch is closed"
AFTER_CLOSE = "after the batch is closed"
NAMES = (AFTER_GRAB, AFTER_COMMIT, HALF_SENT, AFTER_CONFIRM, AFTER_CLOSE)
GRABS = ("open_batch", "open_visit_batch")

IsTime = Callable[[], bool]


@dataclass(frozen=True)
class Point:
    """Where to die, and at which passage (from 1)."""

    name: str
    passage: int = 1


def arm(point: Point) -> None:
    """From now on this process dies at ``point``, by SIGKILL."""
    passed = 0

    def is_time() -> bool:
        nonlocal passed
        passed += 1
        return passed == point.passage

    _ARMING[point.name](is_time)


def die() -> None:
    """SIGKILL to this process: nothing is closed, flushed or told."""
    os.write(2, f"{REACHED}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()  # the signal may take a while, and nothing may happen in it


def _after_grab(is_time: IsTime) -> None:
    """Die in the transaction of a grab that has taken something."""
    now = local()
    run = Database.run

    def in_a_grab(grab: Any) -> Any:
        @wraps(grab)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            now.grabbing = True
            try:
                return grab(*args, **kwargs)
            finally:
                now.grabbing = False

        return wrapper

    def watched(self: Database, work: Any, *args: Any, **kwargs: Any) -> Any:
        def work_and_die(*args: Any, **kwargs: Any) -> Any:
            taken = work(*args, **kwargs)
            if taken is not None and getattr(now, "grabbing", False) and is_time():
                die()
            return taken

        return run(self, work_and_die, *args, **kwargs)

    for name in GRABS:
        setattr(Dispatch, name, in_a_grab(getattr(Dispatch, name)))
    Database.run = watched  # type: ignore[method-assign]


def _after_commit(is_time: IsTime) -> None:
    def followed_by_death(grab: Any) -> Any:
        @wraps(grab)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            taken = grab(*args, **kwargs)
            if taken is not None and is_time():
                die()
            return taken

        return wrapper

    for name in GRABS:
        setattr(Dispatch, name, followed_by_death(getattr(Dispatch, name)))


def _half_way(is_time: IsTime) -> None:
    """Die when the socket has taken half of a chunk of messages, which hardly ever is the end of a message."""
    original = amqp.transport._AbstractTransport.write

    def write(self: Any, data: bytes) -> None:
        chunk = bytes(data)
        if chunk[:1] == bytes([METHOD_FRAME]) and chunk[7:11] == BASIC_PUBLISH and is_time():
            original(self, chunk[: len(chunk) // 2])
            die()
        original(self, data)

    amqp.transport._AbstractTransport.write = write


def _around_close(is_time: IsTime, *, before: bool) -> None:
    close = Dispatch.close_batch

    @wraps(close)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        its_time = is_time()
        if its_time and before:
            die()
        close(*args, **kwargs)
        if its_time:
            die()

    Dispatch.close_batch = wrapper  # type: ignore[method-assign]


_ARMING: dict[str, Callable[[IsTime], None]] = {
    AFTER_GRAB: _after_grab,
    AFTER_COMMIT: _after_commit,
    HALF_SENT: _half_way,
    AFTER_CONFIRM: lambda is_time: _around_close(is_time, before=True),
    AFTER_CLOSE: lambda is_time: _around_close(is_time, before=False),
}
