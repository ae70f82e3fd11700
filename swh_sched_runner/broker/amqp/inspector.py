"""Looking at the queues of RabbitMQ."""

from __future__ import annotations

from celery import Celery

from swh_sched_runner.broker.amqp import connection as amqp_connection
from swh_sched_runner.broker.amqp.connection import AmqpLink
from swh_sched_runner.broker.interface import QueueInfo, QueueInspector


class AmqpInspector(QueueInspector):
    """Asks with passive declarations."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._link = AmqpLink(app)

    @property
    def broken(self) -> bool:
        return self._link.broken is not None

    def depth(self, queue: str) -> int:
        return amqp_connection.depth(self._link, queue) or 0

    def info(self, queue: str, message: str | None = None) -> QueueInfo:
        counted = amqp_connection.counts(self._link, queue)
        ready, consumers = counted or (0, 0)
        holds = False if message is not None and not ready else None
        return QueueInfo(queue, counted is not None, ready, consumers, holds)

    def worker_is_connected(self, hostname: str) -> bool | None:
        return amqp_connection.exists(self._link, f"{hostname}.{self._app.control.mailbox.namespace}.pidbox")

    def declare(self, queue: str) -> None:
        amqp_connection.declare(self._link, self._app, queue)

    def close(self) -> None:
        self._link.close()
