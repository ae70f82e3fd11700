"""A real publisher, with something that happens in the middle of its sending."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from swh_sched_runner.broker.publish import Filler, Message, Publisher, Sent

# Called with the queue that is sent to and the number of the chunk, from 0, before it is sent.
BeforeChunk = Callable[[str, int], object]


class InterruptedPublisher:
    """Does all that ``publisher`` does; ``before_chunk`` is called where it asks whether it may still send."""

    def __init__(self, publisher: Publisher, before_chunk: BeforeChunk) -> None:
        self._publisher = publisher
        self._before_chunk = before_chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._publisher, name)

    @contextmanager
    def fill(self, queue: str, bound: int | None) -> Iterator[Filler | None]:
        """See ``publish.Publisher.fill``."""
        with self._publisher.fill(queue, bound) as filler:
            yield None if filler is None else InterruptedFiller(filler, queue, self._before_chunk)


class InterruptedFiller:
    """Does all that ``filler`` does."""

    def __init__(self, filler: Filler, queue: str, before_chunk: BeforeChunk) -> None:
        self._filler = filler
        self._queue = queue
        self._before_chunk = before_chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filler, name)

    def write(self, messages: Sequence[Message], check_session: Callable[[], None]) -> Sent:
        """See ``publish.Filler.write``."""
        return self._filler.write(messages, self._interrupted(check_session))

    def _interrupted(self, check_session: Callable[[], None]) -> Callable[[], None]:
        chunks = itertools.count()

        def asked() -> None:
            self._before_chunk(self._queue, next(chunks))
            check_session()

        return asked
