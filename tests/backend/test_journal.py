"""Messages of the journal."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.exc import InvalidArgument
from swh_sched_runner.journal_client import process_journal_objects
from swh_sched_runner.model import LastVisitStatus
from tests.support.origins import NOW, url_of


def a_message(number: int = 0, **more: Any) -> dict[str, Any]:
    """A visit status as the journal has it, with keys that don't matter here."""
    given = {"origin": url_of(number), "visit": 1, "type": "git", "date": NOW, "status": "full", "snapshot": b"s" * 20}
    return given | {"metadata": None} | more


def test_visits_of_the_journal_are_recorded(backend: SchedulerBackend) -> None:
    messages = [
        a_message(date=NOW + timedelta(days=1), status="failed", snapshot=None),
        a_message(),
        a_message(1, status="not_found", snapshot=None),
        a_message(2, status="ongoing", snapshot=None),
    ]

    process_journal_objects({"origin_visit_status": messages}, scheduler=backend)

    first, second = backend.origin_visit_stats_get((url_of(n), "git") for n in range(3))
    assert (first.last_visit_status, first.last_successful) == (LastVisitStatus.failed, NOW)
    assert first.last_snapshot == b"s" * 20
    assert second.last_visit_status is LastVisitStatus.not_found


def test_no_messages_are_no_error(backend: SchedulerBackend) -> None:
    process_journal_objects({}, scheduler=backend)
    process_journal_objects({"origin_visit_status": []}, scheduler=backend)


def test_other_types_of_messages_are_refused_and_nothing_is_written(backend: SchedulerBackend) -> None:
    with pytest.raises(InvalidArgument, match=r"origin_visit_status alone.*'origin'"):
        process_journal_objects({"origin_visit_status": [a_message()], "origin": [{}]}, scheduler=backend)

    assert backend.origin_visit_stats_get([(url_of(0), "git")]) == []


def test_a_message_that_says_too_little_or_nonsense_is_refused(backend: SchedulerBackend) -> None:
    short = a_message(1)
    del short["snapshot"]
    wrong = [
        (short, "snapshot is missing"),
        (a_message(1, date="2026-01-01"), "date"),
        (a_message(1, date=NOW.replace(tzinfo=None)), "date"),
        (a_message(1, snapshot="abc"), "snapshot"),
        (a_message(1, status="great"), "status"),
        (a_message(1, type=None), "visit_type"),
    ]

    for message, named in wrong:
        with pytest.raises(InvalidArgument, match=named):
            process_journal_objects({"origin_visit_status": [a_message(), message]}, scheduler=backend)

    assert backend.origin_visit_stats_get([(url_of(0), "git")]) == []
