"""The way in for messages of Software Heritage's journal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.exc import InvalidArgument
from swh_sched_runner.model import VisitOutcome

MESSAGE_TYPE = "origin_visit_status"
_KEYS = ("origin", "type", "date", "status", "snapshot")


def process_journal_objects(
    messages: Mapping[str, Iterable[Mapping[str, Any]]], *, scheduler: SchedulerBackend
) -> None:
    """Record what the journal says about visits, as ``SchedulerBackend.record_visit_outcomes`` does.

    ``messages`` is ``{"origin_visit_status": [{"origin", "type", "date", "status", "snapshot", …}]}``; date is a
    datetime with a time zone, snapshot the bytes of an identifier or None, other keys are left alone. Another type
    of message, or a message without one of the keys, raises ``InvalidArgument`` and nothing is written.
    """
    for kind in messages:
        if kind != MESSAGE_TYPE:
            raise InvalidArgument(argument="messages", reason=f"holds {MESSAGE_TYPE} alone", value=repr(kind))
    scheduler.record_visit_outcomes([_outcome(message) for message in messages.get(MESSAGE_TYPE, ())])


def _outcome(message: Mapping[str, Any]) -> VisitOutcome:
    for key in _KEYS:
        if key not in message:
            raise InvalidArgument(argument=MESSAGE_TYPE, reason=f"{key} is missing", value=sorted(message))
    try:
        return VisitOutcome(
            url=message["origin"],
            visit_type=message["type"],
            date=message["date"],
            status=message["status"],
            snapshot=message["snapshot"],
        )
    except (TypeError, ValueError) as error:
        raise InvalidArgument(argument=MESSAGE_TYPE, reason=str(error), value=repr(message["origin"])) from error
