"""What is written to stdout, which may be full, closed, or read by nobody any more."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from swh_sched_runner.exc import SchedulerException

STDIN, STDOUT, STDERR = range(3)


class OutputLost(SchedulerException):
    """stdout can't be written: {reason}"""


class ReaderGone(SchedulerException):
    """Whoever read stdout has gone away"""


class _Told:
    """A stream that raises an error of ours where it can't be written; so that nobody takes it for another one."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise _lost(error) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise _lost(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _lost(error: OSError) -> SchedulerException:
    return ReaderGone() if isinstance(error, BrokenPipeError) else OutputLost(reason=error.strerror or error)


@contextmanager
def told() -> Iterator[None]:
    """While entered, ``OutputLost`` and ``ReaderGone`` are raised where stdout can't be written, at the end at last."""
    before = sys.stdout
    sys.stdout = cast(Any, _Told(before))
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout = before


def own_streams() -> None:
    """Make the three streams what Python and libraries take for granted: open.

    Where one was closed the next file or connection would get its number, and be written to. What is written to a
    closed stdout fails still.
    """
    for number, name, mode in ((STDIN, "stdin", "r"), (STDOUT, "stdout", "w"), (STDERR, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if number == STDERR else os.O_RDONLY)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  (for as long as we live)


def drop_rest() -> None:
    """Forget what could not be written: Python would try again when it exits, and fail with a status of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, STDOUT)
            os.close(devnull)
