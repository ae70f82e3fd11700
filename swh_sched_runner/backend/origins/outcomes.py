"""What the outcome of a visit does to its origin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from random import Random

import attrs
from sqlalchemy import Connection

from swh_sched_runner.backend import validate
from swh_sched_runner.backend.origins import stats
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.model import LastVisitStatus, OriginVisitStats, VisitOutcome

STATUSES = ("full", "partial", "failed", "not_found", "created", "ongoing")

FAILURES_TO_DISABLE = 3
LARGEST_OFFSET = 10
LAST_POSITION = 2**63 - 1
SECONDS_PER_DAY = 86400
# Origins that were first seen together would otherwise come due together for ever.
JITTER = 0.1

_sql = Queries("origins/origins")


def record(conn: Connection, outcomes: Sequence[VisitOutcome], random: Random) -> None:
    """Apply outcomes, those of one origin in order of their dates; what is not newer than its last visit is ignored."""
    for outcome in outcomes:
        check(outcome)
    ended = sorted(
        (outcome for outcome in outcomes if outcome.status not in ("created", "ongoing")),
        key=attrgetter("url", "visit_type", "date"),
    )
    histories = {key: list(history) for key, history in groupby(ended, key=attrgetter("url", "visit_type"))}
    if not histories:
        return
    stats.hold(conn, *map(list, zip(*histories, strict=True)))
    known = {(entry.url, entry.visit_type): entry for entry in stats.get(conn, histories)}
    positions = stats.queue_positions(conn)
    changed: list[OriginVisitStats] = []
    failing: list[tuple[str, str]] = []
    for (url, visit_type), history in histories.items():
        before = known.get((url, visit_type)) or OriginVisitStats(url, visit_type)
        after, failed = _apply(before, history, positions.get(visit_type, 0), random)
        if after != before:
            changed.append(after)
        if failed:
            failing.append((url, visit_type))
    stats.write(conn, changed)
    if failing:
        urls, visit_types = map(list, zip(*failing, strict=True))
        conn.execute(_sql.disable, {"urls": urls, "visit_types": visit_types})


def _apply(
    before: OriginVisitStats, history: Iterable[VisitOutcome], position: int, random: Random
) -> tuple[OriginVisitStats, bool]:
    """The statistics after these outcomes, and whether the origin failed too often in a row on the way."""
    current, failed = before, False
    for outcome in history:
        if current.last_visit is None or outcome.date > current.last_visit:
            current = after(current, outcome, position, random)
            failed = failed or (
                current.last_visit_status is not LastVisitStatus.successful
                and current.successive_visits >= FAILURES_TO_DISABLE
            )
    return current, failed


def after(before: OriginVisitStats, outcome: VisitOutcome, position: int, random: Random) -> OriginVisitStats:
    """The statistics after one more outcome; ``position`` is that of its visit type's queue.

    Something that changes is visited more often (the offset falls), something that doesn't less often. The first
    visit says nothing about that yet.
    """
    first = before.last_visit is None
    status = _status(outcome)
    successful = status is LastVisitStatus.successful
    eventful = successful and outcome.snapshot != before.last_snapshot
    offset = before.next_position_offset
    if not first:
        offset = min(max(offset + (-2 if eventful else 1), 0), LARGEST_OFFSET)
    start = position if before.next_visit_queue_position is None else before.next_visit_queue_position
    alike = not first and status is before.last_visit_status
    ahead = days(offset) * SECONDS_PER_DAY * random.uniform(1 - JITTER, 1 + JITTER)
    return attrs.evolve(
        before,
        last_visit=outcome.date,
        last_visit_status=status,
        last_successful=outcome.date if successful else before.last_successful,
        last_snapshot=outcome.snapshot if successful else before.last_snapshot,
        successive_visits=min(before.successive_visits + 1, stats.INT_MAX) if alike else 1,
        next_position_offset=offset,
        next_visit_queue_position=min(start + round(ahead), LAST_POSITION),
    )


def days(offset: int) -> int:
    """How many days ahead the next place in the queue lies."""
    if offset < 2:
        return 1
    return 2 if offset < 5 else 4 ** (min(offset, LARGEST_OFFSET) - 4)


def _status(outcome: VisitOutcome) -> LastVisitStatus:
    if outcome.status == "not_found":
        return LastVisitStatus.not_found
    if outcome.status == "failed" or outcome.snapshot is None:
        return LastVisitStatus.failed
    return LastVisitStatus.successful


def check(outcome: object) -> None:
    """Raise ``InvalidArgument`` unless it is an outcome that can be recorded."""
    if not isinstance(outcome, VisitOutcome):
        validate.refuse("outcomes", "must contain VisitOutcome objects", outcome)
    validate.url("url", outcome.url)
    validate.name("visit_type", outcome.visit_type)
    validate.timestamp("date", outcome.date)
    validate.one_of("status", outcome.status, STATUSES)
