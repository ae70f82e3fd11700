"""What an event says of a run's end: its status, how good the evidence is, and what is noted with the run."""

from __future__ import annotations

import signal
from typing import Any, Literal, assert_never, get_args

import msgspec

from swh_sched_runner.broker.celery.events import (
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    TaskReceived,
    TaskRejected,
    TaskResult,
    TaskRetried,
    TaskRevoked,
    TaskStarted,
    TaskSucceeded,
    cut,
)
from swh_sched_runner.model import Evidence

MAX_RESULT_BYTES = 65_536

EndStatus = Literal["eventful", "uneventful", "failed", "permfailed", "lost"]


class End(msgspec.Struct, frozen=True):
    """How a run ended. ``note`` is merged into the run's metadata."""

    status: EndStatus
    evidence: Evidence
    note: dict[str, Any]


def end_of(event: TaskEvent) -> End | None:
    """The end that ``event`` tells of, None where the task goes on or its message comes again, or may."""
    match event:
        case TaskResult():
            return _end_of_result(event)
        case TaskSucceeded():
            # Whether anything changed is not known from this: provisional, until the result says it.
            return End("eventful", Evidence.SUCCEEDED, {})
        case TaskFailed():
            return _failed(_last_line(event.traceback) or event.exception or "failed without a reason")
        case TaskRevoked():
            return _failed(_why_revoked(event))
        case TaskRejected():
            return None if event.requeue else _failed("rejected by the worker")
        case TaskReceived() | TaskStarted() | TaskRetried() | TaskCancelled():
            return None
    assert_never(event)


def outcome(result: Any) -> tuple[EndStatus, str | None]:
    """What a task's returned value means: the status of its run, and an error.

    ``{"status": "success", "eventful": bool}``, uneventful where it isn't said, and ``{"status": <a run status>,
    "error": …}`` are understood; a status that no run can end with is a failure, and any other value is eventful if it
    is true.
    """
    status = result.get("status") if isinstance(result, dict) else None
    if status is None:
        return ("eventful" if result else "uneventful"), None
    error = None if result.get("error") is None else str(result["error"])
    if status == "success":
        return ("eventful" if result.get("eventful") else "uneventful"), error
    for known in get_args(EndStatus):
        if status == known:
            return known, error
    return "failed", f"unknown status {status!r}" + (f": {error}" if error else "")


def _end_of_result(event: TaskResult) -> End:
    status, error = outcome(event.result)
    note: dict[str, Any] = {} if error is None else {"error": cut(error)}
    size = max(event.result_bytes or 0, len(msgspec.json.encode(event.result)))
    if size > MAX_RESULT_BYTES:
        note["result_omitted"] = f"{size} bytes of JSON"
    else:
        note["result"] = event.result
    return End(status, Evidence.RESULT, note)


def _failed(error: str) -> End:
    return End("failed", Evidence.FAILED, {"error": cut(error)})


def _last_line(traceback: str | None) -> str | None:
    """The line of a traceback that says what happened."""
    lines = (traceback or "").strip().rsplit("\n", 1)
    return lines[-1].strip() or None


def _why_revoked(event: TaskRevoked) -> str:
    if event.expired:
        return "revoked: expired"
    if not event.terminated:
        return "revoked"
    return f"revoked: terminated by {_signal_name(event.signum)}"


def _signal_name(signum: int | str | None) -> str:
    try:
        return signal.Signals(int(signum)).name if signum is not None else "a signal"
    except ValueError:
        return f"signal {signum}"
