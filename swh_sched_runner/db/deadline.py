"""Deadlines on a connection: who waits for an answer that doesn't come is cut off, and told so.

The driver blocks in libpq, which has no limit for an answer, and a network that forwards nothing while it acknowledges
everything looks alive to TCP. One thread in the process looks after all that wait, and shuts sockets down.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, ParamSpec, TypeVar

import psycopg2
import psycopg2.extensions as driver
from psycopg2.sql import Composable

P = ParamSpec("P")
T = TypeVar("T")

# How often the thread looks: an answer is waited for that much longer at most.
LOOK_SECONDS = 0.25
# A process that is to stop waits so long for an answer, and so long once one did not come.
STOPPING_SECONDS = 4.0
STOPPING_SILENT_SECONDS = 1.0


class NoAnswer(psycopg2.OperationalError):
    """PostgreSQL did not answer in time. This is not retried at once."""


class Wait:
    """One call that waits for PostgreSQL."""

    __slots__ = ("began", "over", "seconds", "socket")

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self.socket = sock
        self.seconds = seconds
        self.began = time.monotonic()
        self.over = False


class Watchdog:
    """Shuts down the sockets of those that wait for too long. Its thread starts with the first deadline."""

    def __init__(self) -> None:
        self._start_anew()

    def _start_anew(self) -> None:
        self._waits: dict[int, Wait] = {}
        self._lock = threading.Lock()
        self._awake = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopping = 0  # how many supervisors are about to stop
        self._stopping_since = 0.0
        self._silent = False  # whether an answer did not come since then

    def begin(self, sock: socket.socket, seconds: float) -> Wait:
        """Somebody waits for an answer from now on, ``seconds`` at most; ``inf`` is until the process is to stop."""
        wait = Wait(sock, seconds)
        self._waits[id(wait)] = wait
        if self._thread is None:
            if seconds < math.inf:
                self._start()
        elif not self._awake.is_set():
            self._awake.set()
        return wait

    def end(self, wait: Wait) -> None:
        """The answer is there, or will not come; from now on the socket is left alone."""
        with self._lock:
            del self._waits[id(wait)]

    def silent(self) -> None:
        """An answer did not come: a process that is to stop waits for others hardly any more."""
        self._silent = True

    @property
    def stopping(self) -> bool:
        """Whether nobody waits for long any more."""
        return self._stopping > 0

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """While entered the process is about to stop: nobody waits for an answer for longer than a few seconds."""
        with self._lock:
            if not self._stopping:
                self._stopping_since, self._silent = time.monotonic(), False
            self._stopping += 1
        self._start()
        try:
            yield
        finally:
            with self._lock:
                self._stopping -= 1

    def _start(self) -> None:
        _watch_forks()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                self._thread.start()
        self._awake.set()

    def _watch(self) -> None:
        while True:
            self._awake.clear()
            if not self._waits:  # after the flag: who comes in between sets it again
                self._awake.wait()
            time.sleep(LOOK_SECONDS)
            for wait in list(self._waits.values()):
                if time.monotonic() >= self._limit(wait):
                    self._cut_off(wait)

    def _limit(self, wait: Wait) -> float:
        limit = wait.began + wait.seconds
        if not self._stopping:
            return limit
        seconds = STOPPING_SILENT_SECONDS if self._silent else STOPPING_SECONDS
        return min(limit, max(wait.began, self._stopping_since) + seconds)

    def _cut_off(self, wait: Wait) -> None:
        with self._lock:
            if wait.over or id(wait) not in self._waits:
                return
            wait.over = True
            self._silent = True
            with suppress(OSError):
                wait.socket.shutdown(socket.SHUT_RDWR)


watchdog = Watchdog()


@cache
def _watch_forks() -> None:
    # No thread survives a fork, and who waited is the parent's.
    os.register_at_fork(after_in_child=watchdog._start_anew)


class Guarded(driver.connection):
    """A connection on which nothing is waited for longer than ``patience_seconds``.

    ``inf`` is until the process is to stop, None without any end.
    """

    patience_seconds: float | None = math.inf
    # What is sent with the first statement of each transaction, on the same trip; with each one outside of transactions
    # where ``opens_each`` is set.
    opening = ""
    opens_each = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = _Cursor
        # Another descriptor of the same socket: libpq may close its own at any time, and its number be used anew.
        self._socket = socket.socket(fileno=os.dup(self.fileno()))

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """A cursor that waits no longer than its connection, also where the driver's helpers ask for its plain one."""
        if factory := kwargs.get("cursor_factory"):
            kwargs["cursor_factory"] = _guarded(factory)
        return super().cursor(*args, **kwargs)

    def guard(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``call(…)``, which waits for an answer; raises ``NoAnswer`` when that does not come in time."""
        if self.patience_seconds is None or self.closed:
            return call(*args, **kwargs)
        wait = watchdog.begin(self._socket, self.patience_seconds)
        try:
            return call(*args, **kwargs)
        except psycopg2.Error as error:
            if not wait.over:
                raise
            raise NoAnswer(f"no answer within {time.monotonic() - wait.began:.0f} s") from error
        finally:
            watchdog.end(wait)
            if wait.over or self.closed:
                self.close()

    def commit(self) -> None:
        """Commit, within the deadline."""
        self.guard(super().commit)

    def rollback(self) -> None:
        """Roll back, within the deadline."""
        self.guard(super().rollback)

    def set_isolation_level(self, level: int | None) -> None:
        """Ends a transaction, and may tell the server.

        Read committed is what the session is set to. Were it noted here as well, the driver would repeat it at each
        change into autocommit mode and back, in round trips without a deadline.
        """
        self.guard(super().set_isolation_level, None if level == driver.ISOLATION_LEVEL_READ_COMMITTED else level)

    def close(self) -> None:
        """End the session. Waits for nothing: the server is told, and not asked."""
        super().close()
        self._socket.close()


class _Cursor(driver.cursor):
    connection: Guarded

    def execute(self, query: str | bytes | Composable, vars: Any = None) -> None:
        if opening := self._opening():
            text = query.as_string(self) if isinstance(query, Composable) else query
            query = opening.encode() + text if isinstance(text, bytes) else opening + text
        self.connection.guard(super().execute, query, vars)

    def executemany(self, query: str | bytes | Composable, vars_list: Any) -> None:
        if opening := self._opening():  # on a trip of its own: once, not with each of them
            self.connection.guard(super().execute, opening)
        self.connection.guard(super().executemany, query, vars_list)

    def _opening(self) -> str:
        conn = self.connection
        begins = conn.status == driver.STATUS_READY and (conn.opens_each or not conn.autocommit)
        return conn.opening if begins else ""


@cache
def _guarded(factory: type[driver.cursor]) -> type[driver.cursor]:
    return factory if issubclass(factory, _Cursor) else type(factory.__name__, (_Cursor, factory), {})
