"""The lock that makes one listener the active one, where the broker does not choose it itself."""

from __future__ import annotations

from swh_sched_runner.backend.dispatch.listener_lock import HeldLock, ListenerLock
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.broker.interface import EventConsumer


class ActiveLock:
    """A lock in the database. On RabbitMQ there is none: the queue gives its messages to one consumer alone."""

    def __init__(self, dispatch: Dispatch, consumer: EventConsumer) -> None:
        self._dispatch = dispatch
        self._consumer = consumer
        self._held: ListenerLock | None = None
        self._mine = False

    def is_mine(self) -> bool:
        """Take the lock if nobody has it. With it comes what a listener that is gone had in hand.

        Raises ``DatabaseUnavailable``, also when it was lost.
        """
        if self._consumer.alone:
            return True
        if self._held is None:
            self._held = self._dispatch.open_listener_lock(self._consumer.queue)
        if self._mine:
            self._held.check()
            return True
        self._mine = self._held.take()
        if self._mine:
            self._consumer.recover()
        return self._mine

    @property
    def held(self) -> HeldLock | None:
        """The lock that has to be held for what was received to be all that there was; None where there is none."""
        return None if self._held is None else self._held.held

    def close(self) -> None:
        """Let others have it."""
        if self._held is not None:
            self._held.close()
