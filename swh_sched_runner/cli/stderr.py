"""What C libraries write to stderr by themselves, such as libpq's notices while it connects, as lines of the log."""

from __future__ import annotations

import atexit
import fcntl
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO

LONGEST_LINE = 16_384
STDERR = 2
PIPE_BYTES = 1_048_576
END_SECONDS = 2.0


class Diverted:
    """Takes over the descriptor of stderr; ``stream`` writes to what it was.

    Python's own stderr goes the same way, as does that of child processes.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        """``tell`` is called with each line, in a thread."""
        self._tell = tell
        self._pid = os.getpid()
        self._before = os.dup(STDERR)
        self.stream: IO[str] = os.fdopen(os.dup(self._before), "w", buffering=1, errors="backslashreplace")
        reader, writer = os.pipe()
        with suppress(OSError):  # a library that writes while other threads can't run must not block
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.dup2(writer, STDERR)
        os.close(writer)
        self._thread = threading.Thread(target=self._pump, args=(reader,), name="stderr", daemon=True)
        self._thread.start()
        atexit.register(self.end)

    def end(self) -> None:
        """Give the descriptor back when everything written so far was told."""
        if os.getpid() != self._pid:  # a forked child writes to the pipe that its parent reads
            return
        atexit.unregister(self.end)
        os.dup2(self._before, STDERR)  # closes the pipe for us; a child may still hold it open
        self._thread.join(END_SECONDS)

    def _pump(self, reader: int) -> None:
        rest = b""
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            while content := pipe.read(65_536):
                *lines, rest = (rest + content).split(b"\n")
                if len(rest) > LONGEST_LINE:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._say(line)
        self._say(rest)

    def _say(self, line: bytes) -> None:
        text = line[:LONGEST_LINE].decode("utf-8", "replace").strip()
        if text:
            with suppress(Exception):  # a log that fails must not end the thread: writers would fill the pipe
                self._tell(text)
