"""grab_next_visits: what each policy takes, in which order, under which cooldowns, and who gets it."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from multiprocessing import get_context
from typing import Any
from uuid import UUID, uuid4

import attr
import attrs
import pytest
from sqlalchemy import Engine

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.origins import policies
from swh_sched_runner.exc import InvalidArgument, SchedulerException, UnknownPolicy
from swh_sched_runner.model import LastVisitStatus, ListedOrigin, OriginVisitStats
from tests.support.origins import NOW, a_lister, an_origin, mirrors_that_lie, url_of
from tests.support.processes.grabbers import grab_until_empty

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
OFF: dict[str, Any] = dict.fromkeys(
    ("absolute_cooldown", "scheduled_cooldown", "failed_cooldown", "not_found_cooldown")
)
POLICIES = policies.POLICIES
FINISHED = NOW - 5 * DAY

Pair = tuple[ListedOrigin, OriginVisitStats]


# The rules of the policies once more, in plain Python.
def selects(policy: str, origin: ListedOrigin, stats: OriginVisitStats) -> bool:
    match policy:
        case "oldest_scheduled_first":
            return True
        case "never_visited_oldest_update_first":
            return stats.last_snapshot is None and origin.last_update is not None
        case "already_visited_order_by_lag":
            return (
                stats.last_snapshot is not None
                and origin.last_update is not None
                and stats.last_successful is not None
                and origin.last_update > stats.last_successful
            )
        case "origins_without_last_update":
            return origin.last_update is None
        case "stop_after_success":
            return stats.last_visit_status is not LastVisitStatus.successful
        case "first_visits_after_listing":
            return stats.last_scheduled is None or stats.last_scheduled < FINISHED
    raise AssertionError(policy)


def place(policy: str, origin: ListedOrigin, stats: OriginVisitStats) -> Any:
    def nulls(value: Any, first: bool) -> tuple[int, Any]:
        return (0 if first else 2, 0) if value is None else (1, value)

    match policy:
        case "oldest_scheduled_first" | "first_visits_after_listing":
            return nulls(stats.last_scheduled, first=True)
        case "never_visited_oldest_update_first":
            return origin.last_update
        case "already_visited_order_by_lag":
            assert origin.last_update
            assert stats.last_successful
            return stats.last_successful - origin.last_update
        case "origins_without_last_update":
            return nulls(stats.next_visit_queue_position, first=True), origin.first_seen
        case "stop_after_success":
            return nulls(origin.last_update, first=False), origin.first_seen
    raise AssertionError(policy)


def is_due(stats: OriginVisitStats, cooldowns: dict[str, timedelta | None]) -> bool:
    absolute, scheduled, failed, not_found = (cooldowns[name] for name in OFF)
    if stats.last_scheduled is not None:
        if absolute is not None and not stats.last_scheduled < NOW - absolute:
            return False
        if scheduled is not None and not stats.last_scheduled < max(
            NOW - scheduled, stats.last_visit or NOW - scheduled
        ):
            return False
    for status, cooldown in ((LastVisitStatus.failed, failed), (LastVisitStatus.not_found, not_found)):
        ended = stats.last_visit if stats.last_visit_status is status else None
        if cooldown is not None and ended is not None and not ended < NOW - cooldown:
            return False
    return True


def random_stats(dice: random.Random, number: int) -> OriginVisitStats:
    """Statistics of every kind, also such as only an upsert can make; no two timestamps are the same."""

    def timestamp() -> datetime | None:
        days, seconds = dice.choice([0, 1, 3, 9, 20, 50]), dice.random() * 40_000
        return None if dice.random() < 0.3 else NOW - days * DAY - timedelta(seconds=seconds)

    return OriginVisitStats(
        url_of(number),
        "git",
        last_successful=timestamp(),
        last_visit=timestamp(),
        last_visit_status=dice.choice([None, "successful", "failed", "not_found"]),
        last_scheduled=timestamp(),
        last_snapshot=dice.choice([None, b"s"]),
        next_visit_queue_position=dice.choice([None, 1000 * number]),
    )


def fill(backend: SchedulerBackend, dice: random.Random) -> list[Pair]:
    """300 origins of two listers, some listed by both, some never visited, some disabled; others of another type."""
    a, b = a_lister(backend, "a"), a_lister(backend, "b")
    for lister in (a, b):
        [known] = backend.get_listers_by_id([lister])
        backend.update_lister(attr.evolve(known, last_listing_finished_at=FINISHED))
    listed, stats = [], {}
    for number in range(300):
        if dice.random() < 0.8:
            stats[number] = random_stats(dice, number)
        for lister in dice.choice([(a,), (b,), (a, b)]):
            age = timedelta(days=dice.randrange(40), seconds=dice.random() * 80_000)
            last_update = None if dice.random() < 0.3 else NOW - age
            listed.append(an_origin(lister, number, last_update=last_update, enabled=dice.random() < 0.9))
    early = {number for number in stats if dice.random() < 0.5}
    backend.origin_visit_stats_upsert(stats[number] for number in early)
    recorded = [o for n in range(0, len(listed), 12) for o in backend.record_listed_origins(listed[n : n + 12])]
    backend.origin_visit_stats_upsert(stats[number] for number in stats.keys() - early)
    backend.record_listed_origins([an_origin(a, "svn", visit_type="svn", last_update=NOW)])
    by_url = {s.url: s for s in stats.values()}
    return [(origin, by_url.get(origin.url, OriginVisitStats(origin.url, "git"))) for origin in recorded]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_takes_what_its_rule_says_in_its_order(backend: SchedulerBackend, engine: Engine, policy: str) -> None:
    dice = random.Random(policy)
    pairs = fill(backend, dice)
    assert mirrors_that_lie(engine) == []
    lister = a_lister(backend, "a")
    only_a = policy == "first_visits_after_listing"
    defaults: dict[str, timedelta | None] = {"absolute_cooldown": 12 * HOUR, "scheduled_cooldown": 7 * DAY}
    defaults |= {"failed_cooldown": 14 * DAY, "not_found_cooldown": 31 * DAY}
    for cooldowns in (defaults, OFF, *(OFF | {name: cooldown} for name, cooldown in defaults.items())):
        for enabled in (True, False):
            for of_a in (True,) if only_a else (False, True):
                expected = [
                    (origin, stats)
                    for origin, stats in pairs
                    if origin.enabled is enabled
                    and (origin.lister_id == lister or not of_a)
                    and selects(policy, origin, stats)
                    and is_due(stats, cooldowns)
                ]
                with engine.connect() as conn:  # rolled back: every combination sees the same database
                    taken = policies.grab_next(
                        conn,
                        "git",
                        1000,
                        policy,
                        enabled=enabled,
                        lister_uuid=lister if of_a else None,
                        timestamp=NOW,
                        **cooldowns,
                    )
                known = {(origin.lister_id, origin.url): stats for origin, stats in pairs}
                assert sorted(taken) == sorted(origin for origin, _ in expected)
                places = [place(policy, origin, known[origin.lister_id, origin.url]) for origin in taken]
                assert places == sorted(places)
    assert any(selects(policy, *pair) and not is_due(pair[1], defaults) for pair in pairs)


def test_no_more_than_count_are_taken_and_they_are_the_first_ones(backend: SchedulerBackend) -> None:
    lister = a_lister(backend)
    backend.record_listed_origins(an_origin(lister, n, last_update=NOW - n * HOUR) for n in range(9))

    taken = [backend.grab_next_visits("git", 4, "never_visited_oldest_update_first") for _ in range(4)]

    assert [[o.url[-1] for o in batch] for batch in taken] == [["8", "7", "6", "5"], ["4", "3", "2", "1"], ["0"], []]
    assert backend.grab_next_visits("git", 0, "oldest_scheduled_first", **OFF) == []


def test_what_was_taken_is_marked_and_never_backwards(backend: SchedulerBackend) -> None:
    backend.record_listed_origins([an_origin(a_lister(backend))])

    backend.grab_next_visits("git", 1, "oldest_scheduled_first", timestamp=NOW)
    assert backend.origin_visit_stats_get([(url_of(0), "git")]) == [
        OriginVisitStats(url_of(0), "git", last_scheduled=NOW)
    ]

    assert backend.grab_next_visits("git", 1, "oldest_scheduled_first", timestamp=NOW - DAY, **OFF)
    assert backend.origin_visit_stats_get([(url_of(0), "git")])[0].last_scheduled == NOW


def test_without_a_timestamp_the_database_decides(backend: SchedulerBackend) -> None:
    [listed] = backend.record_listed_origins([an_origin(a_lister(backend))])

    backend.grab_next_visits("git", 1, "oldest_scheduled_first")

    [stats] = backend.origin_visit_stats_get([(url_of(0), "git")])
    assert stats.last_scheduled
    assert listed.first_seen
    assert stats.last_scheduled > listed.first_seen


def test_the_same_url_from_two_listers_gives_both_rows(backend: SchedulerBackend) -> None:
    listers = [a_lister(backend, name) for name in ("a", "b")]
    for policy in POLICIES[:-1]:
        last_update = None if policy == "origins_without_last_update" else NOW
        backend.record_listed_origins(an_origin(lister, policy, last_update=last_update) for lister in listers)
        visited = policy == "already_visited_order_by_lag"
        snapshot = b"s" if visited else None
        seen = NOW - DAY if visited else None
        backend.origin_visit_stats_upsert(
            [OriginVisitStats(url_of(policy), "git", last_snapshot=snapshot, last_successful=seen)]
        )

        taken = backend.grab_next_visits("git", 1000, policy, timestamp=NOW, **OFF)

        assert [o.lister_id for o in sorted(taken) if o.url == url_of(policy)] == sorted(listers), policy


def test_a_visit_is_not_taken_again_while_in_flight_and_again_once_visited(backend: SchedulerBackend) -> None:
    backend.record_listed_origins([an_origin(a_lister(backend))])
    grab = partial(backend.grab_next_visits, "git", 1, "oldest_scheduled_first", absolute_cooldown=None)

    assert len(grab(timestamp=NOW)) == 1
    assert grab(timestamp=NOW + 6 * DAY) == []
    backend.origin_visit_stats_upsert([OriginVisitStats(url_of(0), "git", last_visit=NOW + 6 * DAY)])
    assert len(grab(timestamp=NOW + 6 * DAY)) == 1
    assert len(grab(timestamp=NOW + 14 * DAY)) == 1  # given up


def test_a_cooldown_of_any_length_is_understood(backend: SchedulerBackend) -> None:
    backend.record_listed_origins([an_origin(a_lister(backend))])
    backend.grab_next_visits("git", 1, "oldest_scheduled_first", timestamp=NOW)

    later: dict[str, Any] = {"timestamp": NOW + timedelta(microseconds=1)}
    for_ever = OFF | {"absolute_cooldown": timedelta.max}
    none = OFF | {"absolute_cooldown": timedelta(0)}
    assert backend.grab_next_visits("git", 1, "oldest_scheduled_first", **later, **for_ever) == []
    assert backend.grab_next_visits("git", 1, "oldest_scheduled_first", timestamp=NOW, **none) == []
    assert len(backend.grab_next_visits("git", 1, "oldest_scheduled_first", **later, **none)) == 1


def test_lister_filters_combine(backend: SchedulerBackend) -> None:
    listers = {key: a_lister(backend, *key) for key in (("a", "x"), ("a", "y"), ("b", "x"))}
    for key, lister in listers.items():
        backend.record_listed_origins([an_origin(lister, "-".join(key), last_update=NOW)])

    for policy in ("oldest_scheduled_first", "never_visited_oldest_update_first"):

        def taken(**filters: Any) -> list[str]:
            found = backend.grab_next_visits("git", 9, policy, **OFF, **filters)  # noqa: B023
            return sorted(o.url[-3:] for o in found)

        assert taken() == ["a-x", "a-y", "b-x"]
        assert taken(lister_name="a") == ["a-x", "a-y"]
        assert taken(lister_instance_name="x") == ["a-x", "b-x"]
        assert taken(lister_name="a", lister_instance_name="x") == ["a-x"]
        assert taken(lister_uuid=str(listers["b", "x"])) == ["b-x"]
        assert taken(lister_uuid=listers["b", "x"], lister_name="a") == []
        assert taken(lister_uuid=uuid4()) == []


def test_first_visits_need_one_lister(backend: SchedulerBackend) -> None:
    for instance in ("x", "y"):
        backend.record_listed_origins([an_origin(a_lister(backend, "a", instance), instance)])
    grab = partial(backend.grab_next_visits, "git", 9, "first_visits_after_listing")

    with pytest.raises(InvalidArgument, match="needs a lister"):
        grab()
    with pytest.raises(InvalidArgument, match="needs one lister, but 2 match"):
        grab(lister_name="a")
    assert [o.url for o in grab(lister_name="a", lister_instance_name="x")] == [url_of("x")]
    assert grab(lister_name="unknown") == []


def test_before_a_listing_finished_only_what_was_never_scheduled_is_a_first_visit(backend: SchedulerBackend) -> None:
    lister = a_lister(backend)
    backend.record_listed_origins(an_origin(lister, n) for n in range(2))
    backend.origin_visit_stats_upsert([OriginVisitStats(url_of(0), "git", last_scheduled=NOW - 99 * DAY)])
    grab = partial(backend.grab_next_visits, "git", 9, "first_visits_after_listing", lister_uuid=lister, timestamp=NOW)

    assert [o.url for o in grab(**OFF)] == [url_of(1)]
    assert grab(**OFF) == []
    [known] = backend.get_listers_by_id([lister])
    backend.update_lister(attr.evolve(known, last_listing_finished_at=NOW - DAY))
    assert [o.url for o in grab(**OFF)] == [url_of(0)]


def test_the_queue_position_rises_to_the_largest_one_taken_and_never_falls(backend: SchedulerBackend) -> None:
    lister = a_lister(backend)
    backend.record_listed_origins(an_origin(lister, n) for n in range(4))
    positions = [None, 50, 20, 90]
    backend.origin_visit_stats_upsert(
        OriginVisitStats(url_of(n), "git", next_visit_queue_position=p) for n, p in enumerate(positions)
    )
    grab = partial(backend.grab_next_visits, "git", policy="origins_without_last_update")

    assert [o.url[-1] for o in grab(count=1)] == ["0"]
    assert backend.visit_scheduler_queue_position_get() == {"git": 0}
    assert [o.url[-1] for o in grab(count=2)] == ["2", "1"]
    assert backend.visit_scheduler_queue_position_get() == {"git": 50}
    backend.visit_scheduler_queue_position_set("git", 70)
    assert len(grab(count=9)) == 1
    assert backend.visit_scheduler_queue_position_get() == {"git": 90}
    assert grab(count=9) == []
    assert backend.visit_scheduler_queue_position_get() == {"git": 90}


def test_a_sample_takes_about_its_share(backend: SchedulerBackend) -> None:
    lister = a_lister(backend)
    backend.record_listed_origins(an_origin(lister, n, last_update=NOW) for n in range(2000))

    for policy in ("oldest_scheduled_first", "never_visited_oldest_update_first"):
        grab = partial(backend.grab_next_visits, "git", 5000, policy, **OFF)
        assert 800 < len(grab(tablesample=50)) < 1200
        assert len(grab(tablesample=100)) == 2000


def test_wrong_arguments_are_named_and_nothing_is_taken(backend: SchedulerBackend) -> None:
    backend.record_listed_origins([an_origin(a_lister(backend))])
    grab: Callable[..., Any] = partial(backend.grab_next_visits, "git", 1, "oldest_scheduled_first")

    with pytest.raises(UnknownPolicy, match=r"'newest_first'.*oldest_scheduled_first"):
        backend.grab_next_visits("git", 1, "newest_first")
    with pytest.raises(InvalidArgument, match="visit_type"):
        backend.grab_next_visits("", 1, "oldest_scheduled_first")
    for count in (-1, 1.5, True):
        with pytest.raises(InvalidArgument, match="count"):
            backend.grab_next_visits("git", count, "oldest_scheduled_first")  # type: ignore[arg-type]
    wrong: dict[str, list[Any]] = {name: [12, -HOUR] for name in OFF}
    wrong |= {
        "enabled": [None, 1],
        "lister_uuid": ["github"],
        "lister_name": ["", 1],
        "lister_instance_name": [1],
        "timestamp": [NOW.replace(tzinfo=None), "2026-01-01"],
        "tablesample": [0, 101, "all", float("nan")],
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(InvalidArgument, match=name):
                grab(**{name: value})
    assert backend.origin_visit_stats_get([(url_of(0), "git")]) == []


def prepared(backend: SchedulerBackend, policy: str, count: int) -> UUID:
    """A lister with ``count`` origins that the policy takes, half of them never visited where it allows that."""
    lister = a_lister(backend)
    last_update = None if policy == "origins_without_last_update" else NOW - DAY
    backend.record_listed_origins(an_origin(lister, n, last_update=last_update) for n in range(count))
    visited = OriginVisitStats("", "git", last_visit=NOW - 20 * DAY, last_visit_status=LastVisitStatus.failed)
    if policy == "already_visited_order_by_lag":
        visited = attrs.evolve(visited, last_snapshot=b"s", last_successful=NOW - 30 * DAY)
    step = 1 if policy == "already_visited_order_by_lag" else 2
    backend.origin_visit_stats_upsert(attrs.evolve(visited, url=url_of(n)) for n in range(0, count, step))
    return lister


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_what_one_transaction_took_no_other_gets_nor_waits_for(
    backend: SchedulerBackend, engine: Engine, policy: str, analyzed: bool
) -> None:
    if analyzed:  # tables that count as empty: sorting looks cheap then, and would lock all that is sorted
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql("analyze")
    lister = prepared(backend, policy, 20)
    # With a lister its origins may be sorted, and locked while the first grab lasts: a second one may get none then.
    of_whom = lister if policy == "first_visits_after_listing" or not analyzed else None
    grab = partial(policies.grab_next, visit_type="git", policy=policy, lister_uuid=of_whom, timestamp=NOW)

    with engine.connect() as first, engine.connect() as second:
        second.exec_driver_sql("set lock_timeout = '2s'")
        kept = grab(first, count=8)
        others = grab(second, count=8) if policy != "origins_without_last_update" else []
        kept_urls, other_urls = {o.url for o in kept}, {o.url for o in others}
        assert len(kept_urls) == 8
        assert not kept_urls & other_urls
        if policy != "origins_without_last_update":  # its two grabs pass one after the other: see below
            assert len(other_urls) == 8
        second.rollback()
        first.commit()

    left = backend.grab_next_visits("git", 99, policy, lister_uuid=lister, timestamp=NOW)
    assert {o.url for o in left} == {url_of(n) for n in range(20)} - kept_urls


def test_two_grabs_of_the_queue_pass_one_after_the_other(backend: SchedulerBackend, engine: Engine) -> None:
    prepared(backend, "origins_without_last_update", 20)
    grab = partial(policies.grab_next, visit_type="git", policy="origins_without_last_update", timestamp=NOW)

    with engine.connect() as first, ThreadPoolExecutor(1) as pool:
        kept = {o.url for o in grab(first, count=8)}
        second = pool.submit(backend.grab_next_visits, "git", 8, "origins_without_last_update", timestamp=NOW)
        first.commit()
        others = {o.url for o in second.result(timeout=20)}

    assert len(kept) == len(others) == 8
    assert not kept & others


def test_an_origin_of_two_listers_goes_to_one_of_two_schedulers(backend: SchedulerBackend, engine: Engine) -> None:
    a, b = a_lister(backend, "a"), a_lister(backend, "b")
    backend.record_listed_origins([an_origin(a), an_origin(b)])  # never visited, listed twice
    grab = partial(policies.grab_next, visit_type="git", count=5, policy="stop_after_success")

    with engine.connect() as first, engine.connect() as second:
        second.exec_driver_sql("set lock_timeout = '2s'")
        assert [o.lister_id for o in grab(first, lister_uuid=a, **OFF)] == [a]
        assert grab(second, lister_uuid=b, **OFF) == []
        first.commit()
        assert grab(second, lister_uuid=b) == []


def test_what_a_transaction_gave_up_is_taken_by_the_next(backend: SchedulerBackend, engine: Engine) -> None:
    backend.record_listed_origins([an_origin(a_lister(backend))])

    with engine.connect() as conn:
        assert len(policies.grab_next(conn, "git", 1, "oldest_scheduled_first")) == 1
        conn.rollback()

    assert len(backend.grab_next_visits("git", 1, "oldest_scheduled_first")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_four_processes_share_the_visits_and_none_is_taken_twice(
    backend: SchedulerBackend, database_url: str, policy: str, processes: ProcessPoolExecutor
) -> None:
    lister = str(prepared(backend, policy, 400))

    shares = [processes.submit(grab_until_empty, database_url, policy, lister, 7, NOW) for _ in range(4)]
    taken = [url for share in shares for url in share.result(timeout=60)]

    assert sorted(taken) == sorted(url_of(n) for n in range(400))


@pytest.fixture(scope="module")
def processes() -> Any:
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        yield pool


def test_statistics_are_written_and_read_as_they_are(backend: SchedulerBackend) -> None:
    dice = random.Random(1)
    given = [random_stats(dice, n) for n in range(40)]

    backend.origin_visit_stats_upsert(s for s in given)

    keys = [(s.url, s.visit_type) for s in given]
    assert backend.origin_visit_stats_get(reversed(keys)) == given[::-1]
    twice = backend.origin_visit_stats_get([*keys[:2], keys[0], ("unknown", "git"), (url_of(0), "svn")])
    assert twice == [*given[:2], given[0]]
    assert backend.origin_visit_stats_get([]) == []
    backend.origin_visit_stats_upsert([])


def test_a_none_keeps_what_is_stored(backend: SchedulerBackend) -> None:
    known = OriginVisitStats(
        url_of(0),
        "git",
        last_successful=NOW,
        last_visit=NOW,
        last_visit_status=LastVisitStatus.successful,
        last_scheduled=NOW,
        last_snapshot=b"s\0",
        next_visit_queue_position=7,
        next_position_offset=2,
        successive_visits=9,
    )
    backend.origin_visit_stats_upsert([known])

    backend.origin_visit_stats_upsert([OriginVisitStats(url_of(0), "git")])

    kept = attrs.evolve(known, next_position_offset=4, successive_visits=1)
    assert backend.origin_visit_stats_get([(url_of(0), "git")]) == [kept]


def test_a_key_twice_in_one_call_is_refused(backend: SchedulerBackend) -> None:
    twice = [OriginVisitStats(url_of(0), "git"), OriginVisitStats(url_of(0), "git", last_visit=NOW)]

    with pytest.raises(SchedulerException, match=r"git of 'https://forge\.example/0' twice"):
        backend.origin_visit_stats_upsert(twice)

    assert backend.origin_visit_stats_get([(url_of(0), "git")]) == []


def test_wrong_statistics_are_named(backend: SchedulerBackend) -> None:
    for change in ({"url": ""}, {"visit_type": 1}, {"next_position_offset": 2**31}, {"next_visit_queue_position": 0.5}):
        wrong = attrs.evolve(OriginVisitStats(url_of(0), "git"), **change)
        with pytest.raises(InvalidArgument, match=next(iter(change))):
            backend.origin_visit_stats_upsert([OriginVisitStats(url_of(1), "git"), wrong])
    with pytest.raises(InvalidArgument, match="ids"):
        backend.origin_visit_stats_get([url_of(0)])  # type: ignore[list-item]
    with pytest.raises(InvalidArgument, match="position"):
        backend.visit_scheduler_queue_position_set("git", 1.5)  # type: ignore[arg-type]
    assert backend.origin_visit_stats_get([(url_of(1), "git")]) == []
