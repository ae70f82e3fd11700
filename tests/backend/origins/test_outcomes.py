"""What the outcome of a visit does to its origin."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.origins import outcomes
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import InvalidArgument
from swh_sched_runner.model import LastVisitStatus, OriginVisitStats, VisitOutcome
from tests.support.origins import NOW, Steady, a_lister, an_origin, an_outcome, mirrors_that_lie, url_of
from tests.support.wait import until

DAY = timedelta(days=1)
names = itertools.count()

SUCCESSFUL, FAILED, NOT_FOUND = LastVisitStatus.successful, LastVisitStatus.failed, LastVisitStatus.not_found


def record(database: Database, *found: VisitOutcome) -> OriginVisitStats:
    """The statistics of the first outcome's origin after these, with no randomness."""
    database.run(outcomes.record, list(found), Steady())
    return stats_of(SchedulerBackend.of(database), found[0].url)


def stats_of(backend: SchedulerBackend, url: str) -> OriginVisitStats:
    [stats] = backend.origin_visit_stats_get([(url, "git")])
    return stats


def enabled(backend: SchedulerBackend, number: int | str = 0) -> list[bool]:
    """Whether each lister that lists the origin has it enabled."""
    return [origin.enabled for origin in backend.get_listed_origins(url=url_of(number), enabled=None).results]


def test_a_first_success_is_noted_and_leaves_the_offset(database: Database) -> None:
    stats = record(database, an_outcome())

    assert stats == OriginVisitStats(
        url_of(0),
        "git",
        last_successful=NOW,
        last_visit=NOW,
        last_visit_status=SUCCESSFUL,
        last_snapshot=b"s1",
        next_visit_queue_position=2 * 86400,
        next_position_offset=4,
        successive_visits=1,
    )


@pytest.mark.parametrize(
    ("second", "offset", "status"),
    [
        ({"status": "full", "snapshot": b"s2"}, 2, SUCCESSFUL),
        ({"status": "partial", "snapshot": b"s2"}, 2, SUCCESSFUL),
        ({"status": "full", "snapshot": b"s1"}, 5, SUCCESSFUL),
        ({"status": "failed", "snapshot": None}, 5, FAILED),
        ({"status": "failed", "snapshot": b"s2"}, 5, FAILED),
        ({"status": "not_found", "snapshot": None}, 5, NOT_FOUND),
        ({"status": "full", "snapshot": None}, 5, FAILED),
        ({"status": "partial", "snapshot": None}, 5, FAILED),
    ],
)
def test_a_change_brings_the_next_visit_nearer_and_anything_else_defers_it(
    second: dict[str, Any], offset: int, status: LastVisitStatus
) -> None:
    before = outcomes.after(OriginVisitStats(url_of(0), "git"), an_outcome(), 0, Steady())

    after = outcomes.after(before, an_outcome(date=NOW + DAY, **second), 0, Steady())

    assert (after.next_position_offset, after.last_visit_status) == (offset, status)
    assert after.last_visit == NOW + DAY
    successful = status is SUCCESSFUL
    assert after.last_successful == (NOW + DAY if successful else NOW)
    assert after.last_snapshot == (second["snapshot"] if successful else b"s1")
    assert after.successive_visits == (2 if successful else 1)


def test_the_days_ahead_follow_the_offset() -> None:
    assert [outcomes.days(offset) for offset in range(11)] == [1, 1, 2, 2, 2, 4, 16, 64, 256, 1024, 4096]


def test_the_offset_stays_within_its_bounds() -> None:
    stats = OriginVisitStats(url_of(0), "git")
    for n in range(12):
        stats = outcomes.after(stats, an_outcome(date=NOW + n * DAY, snapshot=b"%d" % n), 0, Steady())
    assert stats.next_position_offset == 0
    for n in range(12, 40):
        stats = outcomes.after(stats, an_outcome(date=NOW + n * DAY, snapshot=b"11"), 0, Steady())
    assert stats.next_position_offset == 10


def test_the_next_position_starts_from_its_own_else_the_types_else_zero(
    database: Database, backend: SchedulerBackend
) -> None:
    assert record(database, an_outcome(1)).next_visit_queue_position == 2 * 86400
    backend.visit_scheduler_queue_position_set("git", 1_000_000)
    assert record(database, an_outcome(2)).next_visit_queue_position == 1_000_000 + 2 * 86400
    backend.origin_visit_stats_upsert([OriginVisitStats(url_of(3), "git", next_visit_queue_position=5)])
    assert record(database, an_outcome(3)).next_visit_queue_position == 5 + 2 * 86400


def test_positions_are_spread_by_ten_percent_either_way(database: Database, backend: SchedulerBackend) -> None:
    backend.record_visit_outcomes(an_outcome(n) for n in range(400))

    positions = [
        s.next_visit_queue_position for s in backend.origin_visit_stats_get((url_of(n), "git") for n in range(400))
    ]
    days = [position / 86400 for position in positions if position is not None]
    assert len(days) == 400
    assert 1.8 <= min(days) < 1.85
    assert 2.15 < max(days) <= 2.2
    with database.engine.connect() as conn:  # the same dice, the same positions
        for _ in range(2):
            outcomes.record(conn, [an_outcome("seeded")], random.Random(7))
            conn.commit()
    assert stats_of(backend, url_of("seeded")).next_visit_queue_position == round(
        2 * 86400 * random.Random(7).uniform(0.9, 1.1)
    )


def test_created_and_ongoing_change_nothing(backend: SchedulerBackend) -> None:
    backend.record_visit_outcomes(an_outcome(status=status, snapshot=None) for status in ("created", "ongoing"))

    assert backend.origin_visit_stats_get([(url_of(0), "git")]) == []


def test_a_replay_and_a_late_outcome_change_nothing(database: Database, backend: SchedulerBackend) -> None:
    history = [an_outcome(date=NOW + n * DAY, snapshot=b"%d" % n) for n in range(3)]
    stats = record(database, *history)

    for again in (history, history[:1], [an_outcome(date=NOW + 2 * DAY, status="failed")]):
        assert record(database, *again) == stats


def test_a_visit_that_was_scheduled_stays_so(database: Database, backend: SchedulerBackend) -> None:
    backend.record_listed_origins([an_origin(a_lister(backend))])
    backend.grab_next_visits("git", 1, "oldest_scheduled_first", timestamp=NOW)

    stats = record(database, an_outcome(date=NOW + DAY))

    assert (stats.last_scheduled, stats.successive_visits, stats.next_position_offset) == (NOW, 1, 4)


@pytest.mark.parametrize("status", ["failed", "not_found"])
def test_three_failures_in_a_row_disable_in_every_lister_and_nothing_else(
    backend: SchedulerBackend, status: str
) -> None:
    listers = [a_lister(backend, name) for name in ("a", "b")]
    for lister in listers:
        backend.record_listed_origins([an_origin(lister), an_origin(lister, 1), an_origin(lister, visit_type="svn")])

    for n in range(2):
        backend.record_visit_outcomes([an_outcome(status=status, date=NOW + n * DAY)])
        assert enabled(backend) == [True] * 4
    backend.record_visit_outcomes([an_outcome(status=status, date=NOW + 2 * DAY)])

    found = backend.get_listed_origins(enabled=None).results
    assert {(o.url, o.visit_type) for o in found if not o.enabled} == {(url_of(0), "git")}
    assert len([o for o in found if not o.enabled]) == 2


def test_a_success_in_between_starts_the_count_anew(backend: SchedulerBackend) -> None:
    backend.record_listed_origins([an_origin(a_lister(backend))])

    statuses = ("failed", "failed", "full", "failed", "failed", "not_found", "failed")
    backend.record_visit_outcomes(an_outcome(status=s, date=NOW + n * DAY) for n, s in enumerate(statuses))

    assert enabled(backend) == [True]


def test_three_failures_count_in_one_call_and_also_before_a_success(backend: SchedulerBackend) -> None:
    backend.record_listed_origins([an_origin(a_lister(backend))])

    statuses = ("failed", "failed", "failed", "full")
    history = [an_outcome(status=s, date=NOW + n * DAY) for n, s in enumerate(statuses)]
    backend.record_visit_outcomes(reversed(history))

    assert enabled(backend) == [False]
    assert stats_of(backend, url_of(0)).last_visit_status is SUCCESSFUL


def test_listing_it_again_enables_it_and_a_replay_leaves_it_so(backend: SchedulerBackend) -> None:
    lister = a_lister(backend)
    backend.record_listed_origins([an_origin(lister)])
    history = [an_outcome(status="failed", date=NOW + n * DAY) for n in range(3)]
    backend.record_visit_outcomes(history)
    assert enabled(backend) == [False]

    backend.record_listed_origins([an_origin(lister)])
    backend.record_visit_outcomes(history)
    assert enabled(backend) == [True]

    backend.record_visit_outcomes([an_outcome(status="failed", date=NOW + 3 * DAY)])
    assert enabled(backend) == [False]


def test_outcomes_of_one_origin_recorded_at_once_all_count(backend: SchedulerBackend, engine: Engine) -> None:
    first, second = an_outcome(snapshot=b"s1"), an_outcome(date=NOW + DAY, snapshot=b"s1")

    with engine.connect() as conn, ThreadPoolExecutor(1) as pool:
        outcomes.record(conn, [first], Steady())
        other = pool.submit(backend.record_visit_outcomes, [second])
        until(lambda: engine.connect().exec_driver_sql("select 1 from pg_locks where not granted").scalar())
        conn.commit()
        other.result(timeout=20)

    stats = stats_of(backend, url_of(0))
    assert (stats.successive_visits, stats.next_position_offset, stats.last_visit) == (2, 5, NOW + DAY)


def test_wrong_outcomes_are_named_and_nothing_is_written(backend: SchedulerBackend) -> None:
    for change in ({"url": ""}, {"url": "a\0b"}, {"visit_type": None}, {"status": "lost"}):
        wrong = attrs.evolve(an_outcome(1), **change)
        with pytest.raises(InvalidArgument, match=next(iter(change))):
            backend.record_visit_outcomes([an_outcome(), wrong])
    with pytest.raises(InvalidArgument, match="outcomes"):
        backend.record_visit_outcomes([(url_of(0), "git", NOW, "full", b"s")])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="time zone"):
        an_outcome(date=NOW.replace(tzinfo=None))
    with pytest.raises(TypeError):
        an_outcome(snapshot="s1")
    assert backend.origin_visit_stats_get([(url_of(0), "git")]) == []


# Histories: outcomes in calls of any size and order, listings in between.

Step = Sequence[tuple[int, str, bytes | None]] | None
an_entry = st.tuples(
    st.integers(0, 12),
    st.sampled_from(["full", "partial", "failed", "not_found", "failed", "not_found", "created", "ongoing"]),
    st.sampled_from([None, b"s1", b"s2", b"s3"]),
)
histories = st.lists(st.one_of(st.none(), st.lists(an_entry, max_size=6)), max_size=8)


def recomputed(history: Sequence[Step]) -> tuple[dict[str, Any] | None, bool]:
    """The rule once more: the statistics and whether the origin is enabled, one outcome after the other."""
    stats: dict[str, Any] | None = None
    is_enabled = True
    for step in history:
        if step is None:
            is_enabled = True
            continue
        for day, status, snapshot in sorted(step, key=lambda entry: entry[0]):
            if status in ("created", "ongoing") or (stats and day <= stats["day"]):
                continue
            if status in ("full", "partial"):
                status = "successful" if snapshot else "failed"
            old = stats or {"status": None, "snapshot": None, "success": None, "row": 0, "offset": 4, "position": 0}
            eventful = status == "successful" and snapshot != old["snapshot"]
            offset = old["offset"]
            if stats:
                offset = max(0, offset - 2) if eventful else min(10, offset + 1)
            ahead = 1 if offset < 2 else 2 if offset < 5 else 4 ** (offset - 4)
            stats = {
                "day": day,
                "status": status,
                "snapshot": snapshot if status == "successful" else old["snapshot"],
                "success": day if status == "successful" else old["success"],
                "row": old["row"] + 1 if status == old["status"] else 1,
                "offset": offset,
                "position": old["position"] + ahead * 86400,
            }
            if status != "successful" and stats["row"] >= 3:
                is_enabled = False
    return stats, is_enabled


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories)
def test_any_history_ends_where_the_rule_says(
    database: Database, backend: SchedulerBackend, engine: Engine, history: list[Step]
) -> None:
    number = f"history-{next(names)}"
    listed = [an_origin(a_lister(backend, name), number) for name in ("a", "b")]
    backend.record_listed_origins(listed)

    for step in history:
        if step is None:
            backend.record_listed_origins(listed)
        else:
            found = [an_outcome(number, date=NOW + d * DAY, status=s, snapshot=i) for d, s, i in step]
            database.run(outcomes.record, found, Steady())

    expected, is_enabled = recomputed(history)
    assert enabled(backend, number) == [is_enabled] * 2
    stats = backend.origin_visit_stats_get([(url_of(number), "git")])
    if expected is None:
        assert stats == []
        return
    success = expected["success"]
    assert stats == [
        OriginVisitStats(
            url_of(number),
            "git",
            last_successful=None if success is None else NOW + success * DAY,
            last_visit=NOW + expected["day"] * DAY,
            last_visit_status=expected["status"],
            last_snapshot=expected["snapshot"],
            next_visit_queue_position=expected["position"],
            next_position_offset=expected["offset"],
            successive_visits=expected["row"],
        )
    ]
    assert mirrors_that_lie(engine) == []
