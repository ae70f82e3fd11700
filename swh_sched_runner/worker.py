"""What a Celery application imports so that its workers report what became of each task.

Two lines make an application report, whatever its broker::

    from swh_sched_runner.worker import configure
    configure(app)

They are the same as ``Celery(…, task_cls="swh_sched_runner.worker:SchedulerTask",
events="swh_sched_runner.worker:Events")`` and workers that are started with ``-E``. A task with a base class of its own
inherits from ``SchedulerTask`` there. Nothing else of this package is imported by a worker.
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

# Celery's own topic exchange for events; any other declaration of it is refused.
EVENT_EXCHANGE = "celeryev"
# Where the events of tasks wait for the listener, on every broker.
EVENT_QUEUE = "swh-sched-runner.events"
# The key in an application's configuration that names another queue; on Redis, where workers fill it themselves.
EVENT_QUEUE_OPTION = "swh_sched_runner_event_queue"
# What that queue takes. Heartbeats are left out: a backlog of them tells nothing.
EVENT_KEYS = ("task.#", "worker.online", "worker.offline")
RESULT_EVENT = "task-result"
STARTED_EVENT = "task-started"

MAX_RESULT_BYTES = 65_536
MAX_ERROR_CHARACTERS = 1_000
# A list of Redis knows no bound of its own. Without a listener the oldest events go before the broker's memory does:
# a message has one event or, from prefork workers, up to 24.
MAX_STORED_MESSAGES = 250_000
TRIM_EVERY = 1_000

_default_exchange = Exchange("")
logger = logging.getLogger(__name__)


def configure(app: Celery, event_queue: str = EVENT_QUEUE) -> Celery:
    """Make the workers of ``app`` report, and return it. Call it before the application's tasks are first used.

    Sets the base class of its tasks and its class of events, and switches events on. ``event_queue`` is the
    scheduler's ``broker.event_queue``; only Redis needs to be told.
    """
    app.task_cls = SchedulerTask
    app.events_cls = Events
    for made_from_them in ("Task", "events"):
        app.__dict__.pop(made_from_them, None)
    app.conf.worker_send_task_events = True
    app.conf[EVENT_QUEUE_OPTION] = event_queue
    return app


class SchedulerTask(Task):
    """A task whose returned value reaches the scheduler, as the event ``task-result``.

    Return ``{"status": "eventful" | "uneventful" | "failed", …}`` or any value: a true one is eventful, a false one
    isn't. A value that JSON can't hold is not sent, and one above 64 KiB is cut down to what decides; the run then
    ends all the same. Nothing here ever makes a task fail. A class that overrides ``on_success`` calls ``super()``.
    """

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        super().on_success(retval, task_id, args, kwargs)
        if self.request.is_eager or self.request.called_directly:
            return
        try:
            self.send_event(RESULT_EVENT, **result_fields(retval))
        except Exception as error:
            # The task is done: a broker that is away, or a value of a strange kind, must not undo that.
            logger.warning("The result of task %s was not reported: %r", task_id, error)


def result_fields(value: Any) -> dict[str, Any]:
    """The fields of a ``task-result``: the value, or what it comes down to and its size where it is too long.

    Raises TypeError or ValueError for a value that JSON can't hold.
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
    """Sends events as Celery does; on Redis, where nobody would keep them, it puts those of tasks into a list as well.

    On RabbitMQ a durable queue keeps them. Events of the worker itself and ``task-started`` say which life they are
    of: a random id a process, since in containers every process has pid 1.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._queue = self.app.conf.get(EVENT_QUEUE_OPTION) or EVENT_QUEUE
        # Celery makes its exchange a fanout exactly where events are heard only by those who listen now.
        self._keeps = self.exchange.type == "fanout"
        self._kept = 0

    def send(self, type: str, *args: Any, **fields: Any) -> Any:
        """Send an event."""
        if type == STARTED_EVENT or type.startswith("worker-"):
            fields["life"] = _life()
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
        # Where this one fails after the other, both are sent again: an event told twice counts once.
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
                logger.warning("No listener takes events from %s: the oldest %s are dropped", self._queue, excess)
                client.ltrim(key, 0, MAX_STORED_MESSAGES - 1)


def _is_wanted(routing_key: str) -> bool:
    return routing_key.startswith("task.") or routing_key in EVENT_KEYS


class Events(StockEvents):
    """Celery's events with the dispatcher of this module."""

    dispatcher_cls = EventDispatcher
