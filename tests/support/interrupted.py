"""A real publisher, with something that happens in the middle of its sending."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from swh_sched_runner.broker.interface import Message, Publisher, PublishResult

# Called with the queue that is sent to and the number of the chunk, from 0, before it is sent.
BeforeChunk = Callable[[str, int], object]


class InterruptedPublisher:
    """Does all that ``publisher`` does; ``before_chunk`` is called where it asks whether it may still send."""

    def __init__(self, publisher: Publisher, before_chunk: BeforeChunk) -> None:
        self._publisher = publisher
        self._before_chunk = before_chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._publisher, name)

    def publish(
        self,
        queue: str,
        messages: Sequence[Message],
        max_queue_length: int | None,
        check_session: Callable[[], None],
    ) -> PublishResult:
        """See ``Publisher.publish``."""
        chunks = itertools.count()

        def asked() -> None:
            self._before_chunk(queue, next(chunks))
            check_session()

        return self._publisher.publish(queue, messages, max_queue_length, asked)
