"""Reads messages of Software Heritage's journal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from swh_sched_runner.backend import SchedulerBackend, validate
from swh_sched_runner.backend.origins.outcomes import check
from swh_sched_runner.exc import InvalidArgument, shown
from swh_sched_runner.model import VisitOutcome

MESSAGE_TYPE = "origin_visit_status"
_KEYS = ("origin", "type", "date", "status", "snapshot")
# Number of reasons logged per call: thousands of wrong messages from one producer have the same reason.
REASONS_LOGGED = 3

log = structlog.get_logger(__name__)


def process_journal_objects(messages: Mapping[str, Iterable[Mapping[str, Any]]], *, scheduler: SchedulerBackend) -> int:
    """Record the outcomes of visits from journal messages, with ``SchedulerBackend.record_visit_outcomes``.

    ``messages`` is ``{"origin_visit_status": [{"origin", "type", "date", "status", "snapshot", …}]}``; date is a
    datetime with a time zone, snapshot the bytes of an identifier or None; other keys are ignored. An invalid message,
    such as one with a missing key, is skipped with a warning; the others are recorded. Returns the number of skipped
    messages. Raises ``InvalidArgument`` for another type of message, and then writes nothing.
    """
    for kind in messages:
        if kind != MESSAGE_TYPE:
            raise InvalidArgument(argument="messages", reason=f"may only contain {MESSAGE_TYPE}", value=shown(kind))
    outcomes: list[VisitOutcome] = []
    reasons: list[str] = []
    for message in messages.get(MESSAGE_TYPE, ()):
        try:
            outcomes.append(_outcome(message))
        except InvalidArgument as error:
            reasons.append(str(error))
    scheduler.record_visit_outcomes(outcomes)
    if reasons:
        log.warning(
            "journal messages skipped",
            skipped=len(reasons),
            recorded=len(outcomes),
            reasons=reasons[:REASONS_LOGGED],
        )
    return len(reasons)


def _outcome(message: Any) -> VisitOutcome:
    if not isinstance(message, Mapping):
        validate.refuse(MESSAGE_TYPE, "must be a dict", message)
    for key in _KEYS:
        if key not in message:
            validate.refuse(MESSAGE_TYPE, f"{key} is missing", list(message))
    snapshot = message["snapshot"]
    if snapshot is not None and not isinstance(snapshot, bytes):
        validate.refuse("snapshot", "must be bytes", snapshot)
    outcome = VisitOutcome(
        url=message["origin"],
        visit_type=message["type"],
        date=validate.timestamp("date", message["date"]),
        status=message["status"],
        snapshot=snapshot,
    )
    check(outcome)
    return outcome
