"""What a Celery application imports so that its workers report the results of tasks to the scheduler.

Two lines are enough, with any broker::

    from swh_sched_runner.worker import configure
    configure(app)

This is equivalent to ``Celery(…, task_cls="swh_sched_runner.worker:SchedulerTask",
events="swh_sched_runner.worker:Events")`` and starting the workers with ``-E``. If a task has a base class of its own,
that class must inherit from ``SchedulerTask``. A worker imports nothing else of this package.
"""

from __future__ import annotations

import logging
import os
import secrets
from typing import Any

from celery import Celery, Task
from celery.app.events import Events as StockEvents
from celery.events.dispatcher import EventDispatcher as StockDispatcher
from kombu.entity import Exchange
from kombu.utils.json import dumps

# Celery's own topic exchange for events; RabbitMQ refuses any other declaration of it.
EVENT_EXCHANGE = "celeryev"
# Where the events of tasks wait for the listener, on every broker.
EVENT_QUEUE = "swh-sched-runner.events"
# The key in an application's configuration that names another queue; used on Redis, where workers push into it.
EVENT_QUEUE_OPTION = "swh_sched_runner_event_queue"
# The events in that queue. Heartbeats are not stored: old ones have no use.
EVENT_KEYS = ("task.#", "worker.online", "worker.offline")
RESULT_EVENT = "task-result"
STARTED_EVENT = "task-started"
HEARTBEAT_EVENT = "worker-heartbeat"

# Celery tries without end to send a heartbeat. If the broker has closed the connection, as it does when a solo
# worker is busy for long, the worker may open one connection after the other and do nothing else any more.
HEARTBEAT_RETRIES = {"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}

MAX_RESULT_BYTES = 65_536
MAX_ERROR_CHARACTERS = 1_000
# Redis lists have no limit. If no listener runs, the oldest events are dropped before the broker's memory is full. A
# message has one event or, from prefork workers, up to 24.
MAX_STORED_MESSAGES = 250_000
TRIM_EVERY = 1_000

_default_exchange = Exchange("")
logger = logging.getLogger(__name__)


def configure(app: Celery, event_queue: str = EVENT_QUEUE) -> Celery:
    """Make the workers of ``app`` report results, and return ``app``. Call it before the tasks are first used.

    It sets the base class of tasks and the class of events, and switches events on. ``event_queue`` must equal the
    scheduler's ``broker.event_queue``; it only matters on Redis.
    """
    app.task_cls = SchedulerTask
    app.events_cls = Events
    for made_from_them in ("Task", "events"):
        app.__dict__.pop(made_from_them, None)
    app.conf.worker_send_task_events = True
    app.conf[EVENT_QUEUE_OPTION] = event_queue
    return app


class SchedulerTask(Task):
    """A task whose return value is reported to the scheduler, as the event ``task-result``.

    Return ``{"status": "eventful" | "uneventful" | "failed", …}``, or any other value: true means eventful, false
    uneventful. A value that is not valid JSON is not reported; of a value above 64 KiB only ``status``, ``eventful``
    and ``error`` are. The run ends in both cases, and the task never fails because of this. A class that overrides
    ``on_success`` must call ``super()``.
    """

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        super().on_success(retval, task_id, args, kwargs)
        if self.request.is_eager or self.request.called_directly:
            return
        try:
            self.send_event(RESULT_EVENT, **result_fields(retval))
        except Exception as error:
            # The task has succeeded: an unreachable broker, or a value that is not JSON, must not change that.
            logger.warning("The result of task %s was not reported: %r", task_id, error)


def result_fields(value: Any) -> dict[str, Any]:
    """The fields of a ``task-result``: the value or, if it is too large, its essential keys and its size.

    Raises TypeError or ValueError for a value that is not valid JSON.
    """
    size = len(dumps(value))
    if size <= MAX_RESULT_BYTES:
        return {"result": value}
    return {"result": _essence(value), "result_bytes": size}


def _essence(value: Any) -> Any:
    if not isinstance(value, dict):
        return bool(value)
    kept = {key: value[key] for key in ("status", "eventful") if isinstance(value.get(key), str | bool)}
    if "error" in value:
        kept["error"] = str(value["error"])[:MAX_ERROR_CHARACTERS]
    return kept or True


_lives: dict[int, str] = {}


def _life() -> str:
    """The random id of this process; children that it forks have their own."""
    pid = os.getpid()
    if pid not in _lives:
        _lives[pid] = secrets.token_hex(8)
    return _lives[pid]


class EventDispatcher(StockDispatcher):
    """Sends events as Celery does. On Redis, where events are not stored, it also pushes those of tasks into a list.

    On RabbitMQ, where a durable queue stores them, it does not. Events of the worker itself and ``task-started`` say
    which life they are of: a random id per process, since in containers every process has pid 1.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._queue = self.app.conf.get(EVENT_QUEUE_OPTION) or EVENT_QUEUE
        # Celery uses a fanout exchange exactly for brokers that do not store events.
        self._keeps = self.exchange.type == "fanout"
        self._kept = 0

    def send(self, type: str, *args: Any, **fields: Any) -> Any:
        """Send an event."""
        if type == STARTED_EVENT or type.startswith("worker-"):
            fields["life"] = _life()
        if type == HEARTBEAT_EVENT:
            fields["retry_policy"] = HEARTBEAT_RETRIES
        return super().send(type, *args, **fields)

    def _publish(self, event: Any, producer: Any, routing_key: str, *args: Any, **kwargs: Any) -> None:
        if self._keeps and producer is not None and _is_wanted(routing_key):
            try:
                self._keep(event, producer, **kwargs)
            except Exception:
                if not self.buffer_while_offline:
                    raise
                self._outbound_buffer.append((event, routing_key))
                return
        # If this fails after the push, both are sent again: an event that arrives twice is applied once.
        super()._publish(event, producer, routing_key, *args, **kwargs)

    def _keep(self, event: Any, producer: Any, retry: bool = False, retry_policy: Any = None, **_: Any) -> None:
        producer.publish(
            event,
            exchange=_default_exchange,
            routing_key=self._queue,
            serializer="json",
            headers=self.headers,
            retry=retry,
            retry_policy=retry_policy,
        )
        self._kept += 1
        if self._kept % TRIM_EVERY == 0:
            self._trim(producer.channel)

    def _trim(self, channel: Any) -> None:
        key = f"{channel.global_keyprefix}{self._queue}"
        with channel.conn_or_acquire() as client:
            excess = client.llen(self._queue) - MAX_STORED_MESSAGES
            if excess > 0:
                logger.warning("No listener consumes %s: dropping the oldest %s messages", self._queue, excess)
                client.ltrim(key, 0, MAX_STORED_MESSAGES - 1)


def _is_wanted(routing_key: str) -> bool:
    return routing_key.startswith("task.") or routing_key in EVENT_KEYS


class Events(StockEvents):
    """Celery's events with the dispatcher of this module."""

    dispatcher_cls = EventDispatcher
