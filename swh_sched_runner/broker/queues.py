"""A look at the broker's queues that connects when first asked, and anew after the connection broke."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from celery import Celery

from swh_sched_runner.broker.factory import event_queue_name, open_inspector
from swh_sched_runner.broker.interface import QueueInfo, QueueInspector
from swh_sched_runner.config.settings import BrokerSettings

__all__ = ["QueueInfo", "Queues"]


class Queues:
    """``QueueInspector``, opened when it is needed. For one thread; close it, or use it in ``with``."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._opened: QueueInspector | None = None

    def depth(self, queue: str) -> int:
        """Ready messages in ``queue``, 0 where it doesn't exist. Raises ``DepthUnreadable``, ``BrokerUnavailable``."""
        return self._inspector().depth(queue)

    def info(self, queue: str, message: str | None = None) -> QueueInfo:
        """Depth and consumers of ``queue``, and what can be told of the message with this id.

        Raises ``DepthUnreadable``, ``BrokerUnavailable``.
        """
        return self._inspector().info(queue, message)

    def events(self, settings: BrokerSettings) -> QueueInfo:
        """Depth and consumers of the event queue. Raises ``DepthUnreadable``, ``BrokerUnavailable``."""
        return self._inspector().info(event_queue_name(self._app, settings))

    def worker_is_connected(self, hostname: str) -> bool | None:
        """Whether a worker of this name is connected; None if unknown. Raises ``BrokerUnavailable``."""
        return self._inspector().worker_is_connected(hostname)

    def declare(self, queue: str) -> None:
        """Make ``queue`` as a worker with ``-Q queue`` does. Raises ``QueueRefused``, ``BrokerUnavailable``."""
        self._inspector().declare(queue)

    def close(self) -> None:
        """End the connection. Never raises."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _inspector(self) -> QueueInspector:
        if self._opened is None or self._opened.broken:
            self._opened = open_inspector(self._app)
        return self._opened
