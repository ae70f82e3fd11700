"""Events of workers: from the bytes of a message to typed events. Past this module no dict with string keys travels."""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from swh_sched_runner.broker.interface import KEPT_BYTES

# Far below what Python's and PostgreSQL's stacks bear, and above what anybody returns on purpose.
MAX_DEPTH = 100
# Of a text that is stored with a run: error messages tell what happened at their beginning.
MAX_TEXT_BYTES = 4_096

Uuid = Annotated[str, Meta(min_length=1, max_length=255)]
# Seconds since 1970 that a datetime can hold, up to the year 9999.
Timestamp = Annotated[float, Meta(ge=0, le=253_402_300_799)]
SmallInt = Annotated[int, Meta(ge=0, le=2_147_483_647)]
# Far beyond what any worker counts up to, and what PostgreSQL can hold.
Count = Annotated[int, Meta(ge=0, le=2**53)]
LifeId = Annotated[str, Meta(min_length=1, max_length=64)]


class _Worker(Struct, frozen=True, tag_field="type"):
    """``timestamp`` is in seconds since 1970, by the clock of the worker's machine; ``clock`` is its Lamport clock.

    ``life`` is the random id that our Events class sends. ``processed`` counts the executions that it has begun.
    """

    timestamp: Timestamp
    hostname: str = ""
    pid: SmallInt | None = None
    clock: Count | None = None
    life: LifeId | None = None
    processed: Count | None = None
    active: Count | None = None
    sw_ident: str | None = None
    sw_ver: str | None = None


class _Task(Struct, frozen=True, tag_field="type"):
    """``uuid`` is the task's id, which is a run's ``backend_id`` if the task is one of ours."""

    uuid: Uuid
    timestamp: Timestamp
    hostname: str = ""
    pid: SmallInt | None = None
    clock: Count | None = None


class TaskReceived(_Task, frozen=True, tag="task-received"):
    """A worker took the message of a task. The only event that has the task's name."""

    name: str | None = None
    retries: SmallInt | None = None


class TaskStarted(_Task, frozen=True, tag="task-started"):
    """A worker began with a task. ``life`` as in its own events."""

    life: LifeId | None = None


class TaskResult(_Task, frozen=True, tag="task-result", kw_only=True):
    """What a task returned, as JSON; where it was too long, what it comes down to, and ``result_bytes``."""

    result: Any
    result_bytes: int | None = None


class TaskSucceeded(_Task, frozen=True, tag="task-succeeded"):
    """A task returned; what, is not known from this. ``runtime`` is in seconds."""

    runtime: float | None = None


class TaskFailed(_Task, frozen=True, tag="task-failed"):
    """A task raised, is unknown to the worker, ran out of time, or its process died."""

    exception: str | None = None
    traceback: str | None = None


class TaskRetried(_Task, frozen=True, tag="task-retried"):
    """A task will be tried again under the same id."""

    exception: str | None = None


class TaskRevoked(_Task, frozen=True, tag="task-revoked"):
    """A task was called off, before it began or while it ran."""

    terminated: bool | None = None
    signum: int | str | None = None
    expired: bool | None = None


class TaskRejected(_Task, frozen=True, tag="task-rejected"):
    """A worker gave a message back, or away."""

    requeue: bool | None = None


class TaskCancelled(_Task, frozen=True, tag="task-cancelled"):
    """A worker dropped a task: it shut down at once, or lost its connection. No end follows."""


class WorkerOnline(_Worker, frozen=True, tag="worker-online"):
    """A worker came up, or came back to the broker."""


class WorkerOffline(_Worker, frozen=True, tag="worker-offline"):
    """A worker went down, or says so."""


class WorkerHeartbeat(_Worker, frozen=True, tag="worker-heartbeat"):
    """A worker lives."""


class Mark(Struct, frozen=True, tag_field="type", tag="scheduler-mark"):
    """Put into the event queue, or into that of its dead letters, by the scheduler itself.

    Once it is recorded out of the queue that it was put into, so is all that was there before it.
    """

    id: UUID
    dead_letters: bool


class Other(Struct, frozen=True):
    """An event that the scheduler has no use for."""

    type: str


class Unreadable(Struct, frozen=True):
    """A message that is no event, or has elements that are none: why, what there is of its body, and its length."""

    reason: str
    body: bytes
    size: int


TaskEvent = (
    TaskReceived
    | TaskStarted
    | TaskResult
    | TaskSucceeded
    | TaskFailed
    | TaskRetried
    | TaskRevoked
    | TaskRejected
    | TaskCancelled
)
WorkerEvent = WorkerOnline | WorkerOffline | WorkerHeartbeat
Event = TaskEvent | WorkerEvent | Mark | Other

_Known = TaskEvent | WorkerEvent | Mark
_one = msgspec.json.Decoder(_Known)
_many = msgspec.json.Decoder(list[_Known])
_KNOWN_TYPES = frozenset(kind.__struct_config__.tag for kind in (*TaskEvent.__args__, *WorkerEvent.__args__, Mark))
_REFUSALS = (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError)


def parse(body: bytes, size: int | None = None) -> list[Event | Unreadable]:
    """The events of a message: a JSON object, or a list of them. Never raises.

    ``size`` is that of the whole message where ``body`` is its beginning. NUL characters and lone surrogates, which
    PostgreSQL can't store, are removed wherever they stand. Elements of a list that can't be read do not spoil the
    others: one ``Unreadable`` at the end speaks of them all.
    """
    if size is not None and size > len(body):
        return [Unreadable(f"{size} bytes are more than an event may contain", body[:KEPT_BYTES], size)]
    if _is_plain(body):
        try:
            return [*_many.decode(body)] if body[:1] == b"[" else [_one.decode(body)]
        except _REFUSALS:
            pass  # one of many may be to blame, or a type that is not ours
    return _parse_warily(body)


def mark_body(mark: str, *, dead_letters: bool) -> bytes:
    """The body of a message with this mark."""
    return msgspec.json.encode(Mark(UUID(mark), dead_letters))


def _is_plain(body: bytes) -> bool:
    """Whether nothing has to be removed, and nothing can be nested too deep."""
    escapes = b"\\u0000" in body or b"\\ud" in body or b"\\uD" in body
    return not escapes and body.count(b"[") + body.count(b"{") <= MAX_DEPTH


def _parse_warily(body: bytes) -> list[Event | Unreadable]:
    try:
        content = _decode(body)
    except RecursionError:
        return [Unreadable(f"nested more than {MAX_DEPTH} deep", body, len(body))]
    except _REFUSALS as error:
        return [Unreadable(f"not JSON: {_first_line(error)}", body, len(body))]
    elements = content if isinstance(content, list) else [content]
    events: list[Event | Unreadable] = []
    refused, first = 0, ""
    for element in elements:
        try:
            events.append(_typed(clean(element)))
        except _REFUSALS as error:
            refused += 1
            first = first or _first_line(error)
    if refused:
        which = "" if len(elements) == 1 else f"{refused} of {len(elements)} events, the first: "
        events.append(Unreadable(which + first, body, len(body)))
    return events


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError):
        # Python writes NaN, Infinity and lone surrogates, which are no JSON; Celery's workers are in Python.
        return json.loads(body, parse_constant=lambda _: None)


def _typed(content: Any) -> Event:
    if not isinstance(content, dict):
        raise ValueError(f"an event is a JSON object, not {type(content).__name__}")
    kind = content.get("type")
    if not isinstance(kind, str):
        raise ValueError("it has no type")
    if kind not in _KNOWN_TYPES:
        return Other(kind[:255])
    event: Event = msgspec.convert(content, _Known)
    return event


def clean(value: Any, depth: int = 0) -> Any:
    """``value``, which is JSON, without what jsonb can't hold. Raises ValueError for what is nested too deep."""
    match value:
        case str():
            return _clean_text(value)
        case list() | dict() if depth >= MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        case list():
            return [clean(element, depth + 1) for element in value]
        case dict():
            return {_clean_text(key): clean(element, depth + 1) for key, element in value.items()}
        case float() if value != value or value in (float("inf"), float("-inf")):
            return None
    return value


def cut(text: str) -> str:
    """``text`` as it is stored with a run: its first 4 kB."""
    if len(text) <= MAX_TEXT_BYTES // 4:  # whatever the characters, they fit
        return text
    return text.encode(errors="ignore")[:MAX_TEXT_BYTES].decode(errors="ignore")


def _clean_text(text: str) -> str:
    return text.replace("\0", "").encode(errors="ignore").decode()


def _first_line(error: BaseException) -> str:
    return _clean_text((str(error).splitlines() or [type(error).__name__])[0][:255])
