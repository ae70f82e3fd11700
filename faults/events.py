"""What the drainer says of a task, as a worker would: it started, and how it ended."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

# How a run has to end, and the event that says so.
OUTCOMES: Sequence[tuple[str, str, Mapping[str, Any]]] = (
    ("eventful", "task-result", {"result": {"status": "success", "eventful": True}}),
    ("uneventful", "task-result", {"result": {"status": "success", "eventful": False}}),
    ("failed", "task-result", {"result": {"status": "failed", "error": "as planned"}}),
    ("eventful", "task-succeeded", {"result": "'ok'", "runtime": 0.1}),
    ("failed", "task-failed", {"exception": "ValueError('as planned')", "traceback": "Traceback …\nValueError"}),
)
EXCHANGE = "celeryev"
# Events in a list, as prefork workers send theirs.
KEY = "task.multi"


def outcome(identifier: str) -> tuple[str, str, Mapping[str, Any]]:
    """How the run with this id ends; each time the same, whoever asks."""
    return OUTCOMES[zlib.crc32(identifier.encode()) % len(OUTCOMES)]


def body(identifiers: Sequence[str]) -> str:
    """The events of these runs, which begin and end now, as the body of one message."""
    events: list[dict[str, Any]] = []
    for identifier in identifiers:
        shared = {"uuid": identifier, "hostname": "drainer@faults", "pid": 1, "clock": 1, "utcoffset": 0}
        _, kind, fields = outcome(identifier)
        events.append(shared | {"type": "task-started", "timestamp": time.time()})
        events.append(shared | {"type": kind, "timestamp": time.time()} | dict(fields))
    return json.dumps(events)
