"""What becomes of workers' lives by what they sign, and what an audit of their events finds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swh_sched_runner.backend.workers.leaving import MOST_LEFT, Ends
from swh_sched_runner.backend.workers.life import (
    MOST_STARTS,
    MOST_STARTS_AT_FIRST,
    Life,
    Lives,
    Starts,
    WorkerKey,
    WorkerSign,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def a_sign(kind: str, second: float, life: str | None = None, pid: int = 1, **more: Any) -> WorkerSign:
    clock = more.pop("clock", int(second))
    return WorkerSign(WorkerKey("w1@here", pid, life), kind, at(second), clock, **more)  # type: ignore[arg-type]


def starts(*clocks: int, pid: int = 1, life: str | None = None, second: float | None = None) -> Starts:
    signed = at(max(clocks) if second is None else second)
    return Starts(WorkerKey("w1@here", pid, life), signed, signed, set(clocks))


def ends(*clocks: int, run: str | None = None, pid: int = 1) -> Ends:
    return Ends("w1@here", pid, [(clock, run or f"run-{clock}") for clock in clocks])


def told(*signs: WorkerSign | Starts | Ends, pool: str | None = None) -> list[Life]:
    """The lives after all of that, each arriving when it was signed."""
    known: list[Life] = []
    now = NOW
    for sign in signs:
        match sign:
            case Ends():
                lives = Lives(known, now)
                lives.take_in([], [], [sign])
            case Starts():
                lives = Lives(known, now := sign.last)
                lives.take_in([], [sign])
            case WorkerSign():
                lives = Lives(known, now := sign.signed)
                lives.take_in([sign], [])
        known = lives.all()
        for life in known:
            life.pool = pool
    return known


@pytest.mark.parametrize(
    "later",
    [
        a_sign("online", 10, "b", processed=0),
        a_sign("heartbeat", 10, "b", processed=9),
        a_sign("heartbeat", 10, None, pid=2, processed=9),
    ],
)
def test_another_id_or_pid_ends_the_life_before(later: WorkerSign) -> None:
    first, second = told(a_sign("heartbeat", 1, "a" if later.key.life else None, processed=5), later)

    assert (first.ended_by, second.ended_by) == ("succeeded", None)


def test_without_an_id_a_worker_that_has_begun_nothing_is_a_new_life() -> None:
    lives = told(
        a_sign("online", 1, processed=0),
        a_sign("heartbeat", 3, processed=4),
        a_sign("online", 9, clock=99, processed=0),
    )

    assert [(life.ended_by, life.processed) for life in lives] == [("succeeded", 4), (None, 0)]


def test_a_reconnect_is_no_new_life() -> None:
    [life] = told(
        a_sign("online", 1, processed=0),
        a_sign("heartbeat", 3, processed=4),
        a_sign("offline", 4, processed=4, active=1),
        a_sign("online", 6, processed=4),
    )

    assert (life.ended, life.online, life.offline, life.offline_active) == (None, at(6), at(4), 1)


def test_a_clock_and_a_count_that_go_back_together_show_a_new_life() -> None:
    lives = told(a_sign("heartbeat", 50, processed=9), a_sign("heartbeat", 60, clock=3, processed=1))

    assert [life.ended_by for life in lives] == ["succeeded", None]


@pytest.mark.parametrize(
    "sign",
    [
        a_sign("heartbeat", 60, clock=3, processed=9),  # a clock alone
        a_sign("heartbeat", 60, clock=70, processed=1),  # a count alone
        a_sign("heartbeat", 40, processed=5),  # late
        a_sign("heartbeat", 50, processed=9),  # a copy
        a_sign("online", 20, processed=0),  # late: it began so
        a_sign("heartbeat", 60, clock=None, processed=None),
    ],
)
def test_what_proves_no_new_life_ends_none(sign: WorkerSign) -> None:
    [life] = told(a_sign("heartbeat", 50, processed=9), sign)

    assert life.ended is None


def test_a_late_heartbeat_of_the_life_before_ends_nothing() -> None:
    old, new = told(
        a_sign("heartbeat", 1, "a", processed=5),
        a_sign("heartbeat", 10, "b", processed=0),
        a_sign("heartbeat", 2, "a", processed=5),
    )

    assert (old.ended_by, new.ended) == ("succeeded", None)


def test_a_life_that_goes_on_signing_is_not_over_but_for_one_that_was_forgotten() -> None:
    lives = Lives(told(a_sign("heartbeat", 1, "a"), a_sign("heartbeat", 10, "b")), at(40))
    lives.take_in([a_sign("heartbeat", 40, "a")], [])
    assert [life.ended for life in lives.all()] == [None, None]

    forgotten = Life("w1@here", 1, "a", at(1), at(1), at(1), clock=1, ended=at(2), ended_by="forgotten")
    lives = Lives([forgotten], at(40))
    lives.take_in([a_sign("heartbeat", 40, "a")], [])
    assert forgotten.ended_by == "forgotten"


def test_an_event_from_the_future_ends_no_life_that_goes_on_signing() -> None:
    known = told(a_sign("heartbeat", 1, "a"))
    lives = Lives(known, at(2))
    lives.take_in([WorkerSign(WorkerKey("w1@here", 1, "x"), "online", at(3600), 1, 0)], [])
    for second in range(20, 60, 2):
        lives = Lives(lives.all(), at(second))
        lives.take_in([a_sign("heartbeat", second, "a")], [])

    assert known[0].ended is None


def test_a_clock_that_was_set_back_hides_a_new_life_for_half_a_minute() -> None:
    known = told(a_sign("heartbeat", 5_000, "a"))
    for second in range(5_010, 5_050, 2):
        lives = Lives(known, at(second))
        lives.take_in([a_sign("heartbeat", second - 3_600, "b")], [])
        known = lives.all()

    assert [life.ended_by for life in known] == ["succeeded", None]


def test_a_sign_years_ahead_counts_as_of_its_arrival() -> None:
    lives = Lives([], NOW)
    lives.take_in([WorkerSign(WorkerKey("w1@here", 1, "x"), "online", at(10**9), 1, 0)], [])

    assert [life.signed for life in lives.all()] == [NOW]


def a_story() -> list[WorkerSign | Starts]:
    """Three lives of one worker, one after the other, with ids of their own."""
    story: list[WorkerSign | Starts] = []
    for number, life in enumerate("abc"):
        begin = 100 * number
        story += [
            a_sign("online", begin + 1, life, processed=0),
            starts(begin + 2, life=life),
            a_sign("heartbeat", begin + 3, life, processed=1),
            starts(begin + 4, begin + 5, life=life),
            a_sign("heartbeat", begin + 6, life, processed=3),
            a_sign("offline", begin + 7, life, processed=3, active=0),
        ]
    return story


@given(st.data())
def test_any_order_of_signs_with_copies_gives_the_same_lives(data: st.DataObject) -> None:
    def lives_after(batches: list[list[WorkerSign | Starts]]) -> list[tuple[Any, ...]]:
        known: list[Life] = []
        for batch in batches:
            lives = Lives(known, NOW)
            lives.take_in(
                [each for each in batch if isinstance(each, WorkerSign)],
                [each for each in batch if isinstance(each, Starts)],
            )
            known = lives.all()
        return sorted(
            (life.life, life.began, life.signed, life.online, life.offline, life.clock, life.processed, life.ended_by)
            for life in known
        )

    story = a_story()
    shuffled = data.draw(st.permutations([*story, *data.draw(st.lists(st.sampled_from(story), max_size=5))]))
    size = data.draw(st.integers(1, 6))

    mixed = lives_after([shuffled[n : n + size] for n in range(0, len(shuffled), size)])

    assert mixed == lives_after([[each] for each in story])


# The audit


def test_an_audit_finds_no_event_missing_where_none_is() -> None:
    [life] = told(
        a_sign("online", 1, "a", processed=0),
        starts(2, 3, life="a"),
        a_sign("heartbeat", 4, "a", processed=2),
        starts(5, life="a"),
        a_sign("heartbeat", 6, "a", processed=3),
        starts(7, life="a"),
        pool="prefork",
    )

    assert (life.missing, life.audit_starts, life.audit_settled) == (0, 3, 6)


def test_a_start_that_was_lost_is_missing_at_the_second_heartbeat() -> None:
    story = [
        a_sign("online", 1, "a", processed=0),
        starts(2, life="a"),  # of two
        a_sign("heartbeat", 4, "a", processed=2),
        starts(5, life="a"),
    ]
    [life] = told(*story, pool="prefork")
    assert life.missing is None

    [life] = told(*story, a_sign("heartbeat", 6, "a", processed=3), starts(7, life="a"), pool="prefork")
    assert life.missing == 1


def test_copies_of_starts_count_once_before_and_after_a_comparison() -> None:
    [life] = told(
        a_sign("online", 1, "a", processed=0),
        starts(2, 3, life="a"),
        starts(2, life="a", second=3),
        a_sign("heartbeat", 4, "a", processed=3),  # one is missing
        starts(5, life="a"),
        starts(2, 3, life="a", second=5),
        a_sign("heartbeat", 6, "a", processed=4),
        starts(7, life="a"),
        pool="prefork",
    )

    assert life.missing == 1


def test_a_heartbeat_waits_for_the_starts_before_it() -> None:
    [life] = told(
        a_sign("online", 1, "a", processed=0),
        a_sign("heartbeat", 4, "a", processed=2),
        a_sign("heartbeat", 6, "a", processed=2),
        pool="prefork",
    )
    assert (life.sample_clock, life.missing) == (4, None)

    life.start(starts(2, 3, life="a"))
    life.compare_sample(all_recorded=True)
    assert (life.sample_clock, life.unmatched) == (None, 0)


def test_who_joins_late_counts_from_the_first_heartbeat_on() -> None:
    [life] = told(
        a_sign("heartbeat", 100, "a", processed=50),
        starts(99, life="a", second=101),  # before it
        starts(102, life="a"),
        a_sign("heartbeat", 103, "a", processed=51),
        starts(104, life="a"),
        a_sign("heartbeat", 105, "a", processed=52),
        starts(106, life="a"),
        pool="prefork",
    )

    assert (life.audit_from, life.missing) == (100, 0)


@pytest.mark.parametrize(("active", "missing"), [(1, None), (0, 1)])
def test_threads_are_compared_at_rest_alone(active: int, missing: int | None) -> None:
    [life] = told(
        a_sign("online", 1, "a", processed=0),
        starts(2, life="a"),
        a_sign("heartbeat", 4, "a", processed=2, active=active),
        starts(5, life="a"),
        a_sign("heartbeat", 6, "a", processed=3, active=active),
        starts(7, life="a"),
        pool="threads",
    )

    assert life.missing == missing


@pytest.mark.parametrize(("audit_from", "most"), [(None, MOST_STARTS_AT_FIRST), (1, MOST_STARTS)])
def test_starts_that_no_heartbeat_is_compared_with_are_not_kept_for_ever(audit_from: int | None, most: int) -> None:
    life = Life("w1@here", 1, "a", NOW, NOW, NOW, audit_from=audit_from, audit_processed=0, missing=7)

    life.start(Starts(life.key, NOW, NOW, range(1, most + 1)))
    assert (len(life.recent_starts), life.missing) == (most, 7)

    life.start(Starts(life.key, NOW, NOW, [most + 1]))
    assert (life.recent_starts, life.audit_from, life.audit_settled) == ([], None, most + 1)
    assert life.missing is None  # the count begins anew


ONLINE = a_sign("online", 1, processed=0)
LEAVES = a_sign("offline", 10, active=2)


@pytest.mark.parametrize(
    ("signs", "running"),
    [
        ([LEAVES], 2),
        ([LEAVES, ends(11)], 1),
        ([LEAVES, ends(11, 12)], 0),
        ([LEAVES, ends(11), LEAVES, ends(11), ends(12)], 0),  # delivered again
        ([LEAVES, ends(11, 12, run="run-1")], 1),  # a hard time limit sends two ends
        ([LEAVES, ends(8, 9)], 2),  # they were on their way
        ([LEAVES, ends(11, 12, pid=2)], 2),
        ([LEAVES, starts(11), ends(12, 13)], 1),  # it was handed to the pool before
        ([LEAVES, starts(11), starts(11), ends(12, 13, 14)], 0),
        ([LEAVES, starts(9), ends(12, 13)], 0),  # sent before
        ([starts(11), LEAVES, ends(12, 13)], None),  # a start overtook it
        ([a_sign("offline", 10, active=2, clock=None), ends(12, 13)], None),
        ([a_sign("offline", 10), ends(12, 13)], None),  # it does not say how many
        ([LEAVES, a_sign("online", 15, processed=3), a_sign("offline", 20, active=1), ends(16, 17)], 1),
        ([LEAVES, starts(*range(11, 12 + MOST_LEFT))], None),
    ],
)
def test_a_life_that_shuts_down_executes_what_has_not_ended(signs: list[Any], running: int | None) -> None:
    [life] = told(ONLINE, *signs, pool="prefork")

    assert (life.is_leaving, life.left_running) == (True, running)


@pytest.mark.parametrize(
    ("active", "late", "running"), [(0, [], 0), (0, [starts(11)], None), (2, [ends(11, 12)], None)]
)
def test_in_a_pool_of_threads_only_a_life_that_executed_nothing_is_counted(
    active: int, late: list[Any], running: int | None
) -> None:
    [life] = told(
        ONLINE, a_sign("heartbeat", 2, processed=0), a_sign("offline", 10, active=active), *late, pool="threads"
    )

    assert life.left_running == running


def test_a_life_that_begins_something_after_it_was_over_was_not() -> None:
    [life] = told(ONLINE, a_sign("offline", 10, active=0), pool="prefork")
    life.ended, life.ended_by = at(11), "left"

    lives = Lives([life], at(12))
    lives.take_in([], [starts(12)])

    assert (life.ended, life.ended_by, life.left_running) == (None, None, 1)


def test_where_two_lives_of_one_pid_shut_down_no_end_counts() -> None:
    known = told(a_sign("offline", 10, "a", active=1), pool="prefork")
    known += told(a_sign("offline", 10, "b", active=1), pool="prefork")

    Lives(known, at(12)).take_in([], [], [ends(11)])

    assert [life.left_running for life in known] == [1, 1]
