"""What workers said of a run, all events that the broker got of it taken together."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Any

from faults.lost.record import Event


@dataclass(frozen=True)
class Said:
    """When it first started, its status with the event that has the best evidence, and when that was sent."""

    started: float | None = None
    status: str | None = None
    kind: str | None = None
    ended: float | None = None

    def may_mean(self, wrote: Set[str]) -> bool:
        """Whether workers that wrote these ends of its executions would say so."""
        if self.kind == "task-succeeded":  # what was returned is not in it
            return bool(wrote & {"eventful", "uneventful", "failed"})
        return self.status in wrote


def said_of(events: Iterable[Event]) -> Said:
    """What these events of one run come to."""
    started = None
    best: tuple[int, float] | None = None
    said: tuple[str, str, float] | None = None
    for event in events:
        if event.kind == "task-started":
            started = event.at if started is None else min(started, event.at)
        elif (end := _end(event)) is not None:
            evidence, status = end
            if best is None or (evidence, -event.at) > best:
                best, said = (evidence, -event.at), (status, event.kind, event.at)
    return Said(started) if said is None else Said(started, *said)


def _end(event: Event) -> tuple[int, str] | None:
    """How good the evidence is, and the status it says."""
    match event.kind:
        case "task-result":
            return 3, _returned(event.fields["result"])
        case "task-failed" | "task-revoked":
            return 2, "failed"
        case "task-rejected" if not event.fields.get("requeue"):
            return 2, "failed"
        case "task-succeeded":
            return 1, "eventful"
    return None


def _returned(result: Any) -> str:
    if result["status"] == "failed":
        return "failed"
    return "eventful" if result["eventful"] else "uneventful"
