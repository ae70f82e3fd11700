"""What events say of the lives that sent them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from swh_sched_runner.backend.workers.leaving import Ends
from swh_sched_runner.backend.workers.life import MAX_HOSTNAME, MAX_SOFTWARE, Starts, WorkerKey, WorkerSign
from swh_sched_runner.backend.workers.lives import Signs
from swh_sched_runner.broker.celery.events import (
    Event,
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    TaskRejected,
    TaskRetried,
    TaskRevoked,
    TaskStarted,
    TaskSucceeded,
    Unreadable,
    WorkerEvent,
    WorkerHeartbeat,
    WorkerOffline,
    WorkerOnline,
)


def key_of(event: TaskEvent | WorkerEvent) -> WorkerKey:
    """The key of the life that sent the event. Of tasks' events only task-started has the random id of a life."""
    return WorkerKey(event.hostname[:MAX_HOSTNAME], event.pid, getattr(event, "life", None))


def signs_of(events: Iterable[Event | Unreadable]) -> Signs | None:
    """What a batch says of lives, the starts of each together; None if nothing. Events without a host name say nothing.

    A task has ended on its life with task-retried and the like as well, not with task-result, which it sends before.

    The heartbeats of a worker come every two seconds: the last one of each key stands for all.
    """
    started: dict[WorkerKey, list[TaskStarted]] = {}
    signed: list[WorkerEvent] = []
    beats: dict[WorkerKey, WorkerHeartbeat] = {}
    ended: dict[tuple[str, int | None], list[tuple[int, str]]] = {}
    for event in events:
        match event:
            case TaskStarted(hostname=str(hostname)) if hostname:
                started.setdefault(key_of(event), []).append(event)
            case (
                TaskSucceeded()
                | TaskFailed()
                | TaskRetried()
                | TaskRejected()
                | TaskCancelled()
                | TaskRevoked(terminated=True)
            ) if event.hostname and event.clock is not None:
                ended.setdefault((event.hostname[:MAX_HOSTNAME], event.pid), []).append((event.clock, event.uuid))
            case WorkerHeartbeat(hostname=str(hostname)) if hostname:
                known = beats.get(key := key_of(event))
                if known is None or (event.timestamp, event.clock or 0) > (known.timestamp, known.clock or 0):
                    beats[key] = event
            case WorkerOnline(hostname=str(hostname)) | WorkerOffline(hostname=str(hostname)) if hostname:
                signed.append(event)
    if not started and not signed and not beats and not ended:
        return None
    return Signs(
        [_sign(event) for event in (*signed, *beats.values())],
        [_starts(key, each) for key, each in started.items()],
        [Ends(hostname, pid, ends) for (hostname, pid), ends in ended.items()],
    )


def _starts(key: WorkerKey, events: list[TaskStarted]) -> Starts:
    timestamps = [event.timestamp for event in events]
    clocks = {event.clock for event in events if event.clock is not None}
    return Starts(key, timestamp_of(min(timestamps)), timestamp_of(max(timestamps)), clocks)


def _sign(event: WorkerEvent) -> WorkerSign:
    kind: Literal["online", "offline", "heartbeat"] = "heartbeat"
    if isinstance(event, WorkerOnline):
        kind = "online"
    elif isinstance(event, WorkerOffline):
        kind = "offline"
    return WorkerSign(
        key_of(event),
        kind,
        timestamp_of(event.timestamp),
        event.clock,
        event.processed,
        event.active,
        event.sw_ident and event.sw_ident[:MAX_SOFTWARE],
        event.sw_ver and event.sw_ver[:MAX_SOFTWARE],
    )


def timestamp_of(seconds: float) -> datetime:
    """Seconds since 1970 as a timestamp."""
    return datetime.fromtimestamp(seconds, UTC)
