"""Looking at the queues of Redis or Valkey."""

from __future__ import annotations

from celery import Celery

from swh_sched_runner.broker.interface import QueueInfo, QueueInspector
from swh_sched_runner.broker.redis import connection as redis_connection
from swh_sched_runner.broker.redis import search
from swh_sched_runner.broker.redis.connection import RedisLink


class RedisInspector(QueueInspector):
    """Reads the lists. The client connects anew by itself."""

    broken = False

    def __init__(self, app: Celery) -> None:
        self._link = RedisLink(app)

    def depth(self, queue: str) -> int:
        return redis_connection.depth(self._link, queue)

    def info(self, queue: str, message: str | None = None) -> QueueInfo:
        found = search.Found(None) if message is None else search.find(self._link, queue, message)
        return QueueInfo(queue, True, self.depth(queue), None, found.holds, found.ahead)

    def worker_is_connected(self, hostname: str) -> bool | None:
        return None

    def declare(self, queue: str) -> None:
        """Nothing to do: a list comes into being with its first message."""

    def close(self) -> None:
        self._link.close()
