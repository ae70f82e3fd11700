"""Messages of the journal."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import structlog

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.exc import InvalidArgument
from swh_sched_runner.journal_client import process_journal_objects
from swh_sched_runner.model import LastVisitStatus
from tests.support.origins import NOW, url_of

HOURS = timedelta(hours=14)


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
    with pytest.raises(InvalidArgument, match=r"only contain origin_visit_status.*'origin'"):
        process_journal_objects({"origin_visit_status": [a_message()], "origin": [{}]}, scheduler=backend)

    assert backend.origin_visit_stats_get([(url_of(0), "git")]) == []


def unusable() -> dict[str, Any]:
    """Messages that no outcome can be made of, and what is wrong with each."""
    short = {key: a_message(1) for key in ("origin", "type", "date", "status", "snapshot")}
    for key, message in short.items():
        del message[key]
    return {f"{key} is missing": message for key, message in short.items()} | {
        "must be a dict": "text",
        "date: must be a datetime": a_message(1, date="2026-01-01"),
        "date: must be a datetime with a time zone": a_message(1, date=NOW.replace(tzinfo=None)),
        "date: must lie in the years 1 to 9999": a_message(1, date=datetime.min.replace(tzinfo=timezone(HOURS))),
        "snapshot": a_message(1, snapshot="abc"),
        "status: must be one of": a_message(1, status="great"),
        "status: must be": a_message(1, status=[]),
        "visit_type": a_message(1, type=None),
        "url: must be text": a_message(1, origin="\ud800"),
        "url: must be at most": a_message(1, origin="https://" + "x" * 3_000),
        "date: must": a_message(1, date=nested(5_000)),
        "url": a_message(1, origin=nested(5_000)),
    }


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("reason", unusable())
def test_a_message_that_can_not_be_used_is_skipped_and_its_neighbours_are_recorded(
    backend: SchedulerBackend, reason: str
) -> None:
    messages = [a_message(), unusable()[reason], a_message(2)]

    with structlog.testing.capture_logs() as logs:
        skipped = process_journal_objects({"origin_visit_status": messages}, scheduler=backend)

    assert skipped == 1
    assert len(backend.origin_visit_stats_get([(url_of(0), "git"), (url_of(2), "git")])) == 2
    [line] = logs
    assert (line["log_level"], line["skipped"], line["recorded"]) == ("warning", 1, 2)
    assert reason in line["reasons"][0]


def test_many_messages_that_can_not_be_used_are_one_line_of_the_log(backend: SchedulerBackend) -> None:
    with structlog.testing.capture_logs() as logs:
        skipped = process_journal_objects({"origin_visit_status": [{}] * 1_000}, scheduler=backend)

    assert skipped == 1_000
    assert [(line["skipped"], len(line["reasons"])) for line in logs] == [(1_000, 3)]
