"""The way in for messages of Software Heritage's journal."""

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
# So many reasons are logged of one call: thousands of messages that a producer gets wrong have one and the same.
REASONS_LOGGED = 3

log = structlog.get_logger(__name__)


def process_journal_objects(messages: Mapping[str, Iterable[Mapping[str, Any]]], *, scheduler: SchedulerBackend) -> int:
    """Record what the journal says about visits, as ``SchedulerBackend.record_visit_outcomes`` does.

    ``messages`` is ``{"origin_visit_status": [{"origin", "type", "date", "status", "snapshot", …}]}``; date is a
    datetime with a time zone, snapshot the bytes of an identifier or None, other keys are left alone. A message that
    can't be used, such as one without one of the keys, is skipped with a warning, and the others are recorded; answers
    how many were skipped. Another type of message raises ``InvalidArgument`` and nothing is written.
    """
    for kind in messages:
        if kind != MESSAGE_TYPE:
            raise InvalidArgument(argument="messages", reason=f"holds {MESSAGE_TYPE} alone", value=shown(kind))
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
