"""Answers that may be slow, kept briefly: whoever asks never waits long, and asking often costs nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """What ``read`` answered lately. One thread at a time reads, and the end of the program does not wait for it."""

    def __init__(
        self,
        read: Callable[[], T],
        *,
        kept_seconds: float,
        patience_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """An answer, or an error, is kept for ``kept_seconds``; no reading is waited for longer than the patience."""
        self._read = read
        self._kept_seconds = kept_seconds
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._answer: Future[T] | None = None
        self._began = self._kept_until = 0.0

    def begin(self) -> Future[T]:
        """Read, unless what was read is new enough or a reading is under way; doesn't wait."""
        with self._lock:
            answer = self._answer
            if answer is None or (answer.done() and self._clock() >= self._kept_until):
                answer = self._answer = Future()
                self._began = self._clock()
                threading.Thread(target=self._fill, args=(answer,), name="recent", daemon=True).start()
            return answer

    def get(self) -> T:
        """The answer; raises what ``read`` raised, and ``TimeoutError`` when it takes too long."""
        answer = self.begin()
        patience = self._began + self._patience_seconds - self._clock()
        try:
            return answer.result(max(0.0, patience))
        except TimeoutError as error:
            raise TimeoutError(str(error) or f"no answer within {self._patience_seconds:g} s") from error

    def _fill(self, answer: Future[T]) -> None:
        try:
            value = self._read()
        except Exception as error:  # whatever it is: it is the answer
            self._kept_until = self._clock() + self._kept_seconds
            answer.set_exception(error)
        else:
            self._kept_until = self._clock() + self._kept_seconds
            answer.set_result(value)
