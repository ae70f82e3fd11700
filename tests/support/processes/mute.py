"""A worker that can't send what tells of its tasks for a while, and keeps it as Celery does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celery import Celery

from swh_sched_runner.worker import EventDispatcher, Events


def keep_events_while(app: Celery, file: Path) -> None:
    """While the file is there, the workers of ``app`` keep the events of tasks in hand, until they connect again."""

    class KeepingDispatcher(EventDispatcher):
        def _publish(self, event: Any, producer: Any, routing_key: str, *args: Any, **kwargs: Any) -> None:
            if not (routing_key.startswith("task.") and file.exists()):
                super()._publish(event, producer, routing_key, *args, **kwargs)
            elif self.buffer_while_offline:
                self._outbound_buffer.append((event, routing_key))
            else:
                raise OSError("told to keep events")

    class KeepingEvents(Events):
        dispatcher_cls = KeepingDispatcher

    app.events_cls = KeepingEvents
    app.__dict__.pop("events", None)
