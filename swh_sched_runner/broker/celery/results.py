"""What a result backend says of tasks: the results and failures that workers stored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
import msgspec
from celery import Celery
from celery.backends.base import BaseKeyValueStoreBackend
from celery.backends.cache import CacheBackend

from swh_sched_runner.broker.celery.app import reason_of
from swh_sched_runner.broker.celery.events import TaskFailed, TaskResult, TaskRevoked, clean
from swh_sched_runner.broker.celery.run_outcome import EndStatus, end_of
from swh_sched_runner.exc import ResultsUnavailable

PAGE = 500
JSON = "json"


@attrs.define(slots=True, frozen=True)
class StoredResult:
    """How a task ended, by what was stored: the status of its run, what is noted with it, and when it ended."""

    status: EndStatus
    note: dict[str, Any]
    ended: datetime


def stored(app: Celery, backend_ids: Sequence[str]) -> dict[str, StoredResult]:
    """Of these tasks those that have ended by the result backend. Raises ``ResultsUnavailable``.

    SUCCESS, FAILURE and REVOKED alone; what can't be read is left out. Empty without a result backend, and with those
    that don't keep JSON under a key for each task: rpc hands a result out once, others read pickle.
    """
    backend = _backend(app)
    if backend is None:
        return {}
    found: dict[str, StoredResult] = {}
    for identifier, payload in _payloads(backend, backend_ids):
        result = read(identifier, payload)
        if result is not None:
            found[identifier] = result
    return found


def _backend(app: Celery) -> Any:
    """The result backend, if it is one that can be asked."""
    if not app.conf.result_backend or app.conf.result_serializer != JSON:
        return None
    backend = app.backend
    return backend if isinstance(backend, BaseKeyValueStoreBackend) and not isinstance(backend, CacheBackend) else None


def _payloads(backend: Any, backend_ids: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for at in range(0, len(backend_ids), PAGE):
        page = backend_ids[at : at + PAGE]
        keys = [backend.get_key_for_task(identifier) for identifier in page]
        try:
            payloads = list(_get(backend, keys))
        except Exception as error:  # each kind of backend has errors of its own
            raise ResultsUnavailable(reason=reason_of(error)) from error
        yield from zip(page, payloads, strict=True)


def _get(backend: Any, keys: list[Any]) -> Iterable[Any]:
    try:
        values: Iterable[Any] = backend.mget(keys)
    except NotImplementedError:
        values = (backend.get(key) for key in keys)
    return values


def read(identifier: str, payload: Any) -> StoredResult | None:
    """What is stored under the key of a task says of its end, None if it says nothing. Never raises."""
    if not isinstance(payload, bytes | str):
        return None
    try:
        return _read(identifier, clean(json.loads(payload, parse_constant=lambda _: None)))
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        return None


def _read(identifier: str, meta: Any) -> StoredResult | None:
    match meta:
        case {"task_id": str(task), "status": str(state), "date_done": str(date_done), "result": result} if (
            task == identifier
        ):
            ended = _utc(date_done)
        case _:
            return None
    event: TaskResult | TaskFailed | TaskRevoked
    at = ended.timestamp()
    match state:
        case "SUCCESS":
            event = TaskResult(uuid=identifier, timestamp=at, result=result)
        case "FAILURE":
            traceback = meta.get("traceback")
            text = traceback if isinstance(traceback, str) else None
            event = TaskFailed(uuid=identifier, timestamp=at, exception=_exception(result), traceback=text)
        case "REVOKED":
            reason = _exception(result) or ""
            event = TaskRevoked(
                uuid=identifier, timestamp=at, expired="expired" in reason, terminated="terminated" in reason
            )
        case _:
            return None
    end = end_of(event)
    return None if end is None else StoredResult(end.status, end.note, ended)


def _utc(date_done: str) -> datetime:
    """Celery writes the time of its zone, and older releases UTC without saying so."""
    found = datetime.fromisoformat(date_done)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _exception(result: Any) -> str | None:
    """An exception as it is stored, as the event of a failure shows it."""
    match result:
        case {"exc_type": str(kind), "exc_message": [*said]}:
            return f"{kind}({', '.join(map(repr, said))})"
        case {"exc_type": str(kind), "exc_message": said}:
            return f"{kind}({said!r})"
    return None
