"""Listed origins: what is written, how pages are cut, and writers at the same time."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import attr
import pytest
from sqlalchemy import Engine

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.origins import origins, outcomes, stats
from swh_sched_runner.exc import InvalidArgument, UnknownLister
from swh_sched_runner.model import ListedOrigin, OriginVisitStats
from tests.support.origins import NOW, Steady, a_lister, an_origin, an_outcome, mirrors_that_lie, url_of
from tests.support.wait import until


def pages(backend: SchedulerBackend, **filters: object) -> list[list[ListedOrigin]]:
    """All pages, asked for one after the other."""
    found, token = [], None
    while True:
        page = backend.get_listed_origins(page_token=token, **filters)  # type: ignore[arg-type]
        found.append(page.results)
        token = page.next_page_token
        if token is None:
            return found


def test_an_origin_is_recorded_and_returned_as_it_is_stored(backend: SchedulerBackend) -> None:
    origin = an_origin(
        a_lister(backend),
        extra_loader_arguments={"depth": [1, {"a": None}]},
        last_update=NOW,
        is_fork=True,
        forked_from_url=url_of("upstream"),
    )

    [recorded] = backend.record_listed_origins(o for o in [origin])

    assert recorded.first_seen is not None
    assert recorded.first_seen == recorded.last_seen
    assert attr.evolve(recorded, first_seen=None, last_seen=None) == origin
    assert backend.get_listed_origins().results == [recorded]


def test_listing_again_keeps_first_seen_and_writes_the_rest(backend: SchedulerBackend) -> None:
    lister = a_lister(backend)
    known = an_origin(lister, last_update=NOW, is_fork=True, enabled=False)
    [first] = backend.record_listed_origins([known])

    changed = an_origin(lister, extra_loader_arguments={"a": 1}, last_update=NOW + timedelta(1))
    [second] = backend.record_listed_origins([changed])

    assert second.first_seen == first.first_seen
    assert first.last_seen
    assert second.last_seen
    assert second.last_seen > first.last_seen
    assert (second.enabled, second.extra_loader_arguments, second.last_update) == (True, {"a": 1}, NOW + timedelta(1))
    assert second.is_fork is True  # a lister that can't tell takes nothing back


def test_the_last_one_of_a_key_wins_and_the_order_of_the_input_stays(backend: SchedulerBackend) -> None:
    lister = a_lister(backend)
    given = [an_origin(lister, n, extra_loader_arguments={"n": i}) for i, n in enumerate([3, 1, 3, 2, 1])]

    recorded = backend.record_listed_origins(given)

    assert [(o.url, o.extra_loader_arguments["n"]) for o in recorded] == [
        (url_of(3), 2),
        (url_of(1), 4),
        (url_of(2), 3),
    ]


def test_nothing_to_record_writes_nothing(backend: SchedulerBackend) -> None:
    assert backend.record_listed_origins([]) == []
    assert backend.get_listed_origins().results == []


def test_a_listed_origin_without_visits_has_no_statistics(backend: SchedulerBackend) -> None:
    backend.record_listed_origins([an_origin(a_lister(backend))])

    assert backend.origin_visit_stats_get([(url_of(0), "git")]) == []


def test_an_unknown_lister_is_named_and_nothing_is_written(backend: SchedulerBackend) -> None:
    unknown = uuid4()

    with pytest.raises(UnknownLister, match=str(unknown)):
        backend.record_listed_origins([an_origin(a_lister(backend)), an_origin(unknown)])

    assert backend.get_listed_origins().results == []


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"url": ""}, "url"),
    ({"url": "a\0b"}, "url"),
    ({"visit_type": None}, "visit_type"),
    ({"extra_loader_arguments": [1]}, "extra_loader_arguments"),
    ({"extra_loader_arguments": {"a": "\0"}}, "extra_loader_arguments"),
    ({"extra_loader_arguments": {"a": object()}}, "extra_loader_arguments"),
    ({"enabled": "yes"}, "enabled"),
    ({"lister_id": "github"}, "lister_id"),
    ({"is_fork": 1}, "is_fork"),
    ({"forked_from_url": 1}, "forked_from_url"),
]


def test_a_wrong_origin_is_refused_by_name_and_nothing_is_written(backend: SchedulerBackend) -> None:
    lister = a_lister(backend)

    for change, named in WRONG:
        given: dict[str, Any] = {"lister_id": lister, "number": 2}
        wrong = an_origin(**(given | change))
        with pytest.raises(InvalidArgument, match=named):
            backend.record_listed_origins([an_origin(lister, 1), wrong])
    with pytest.raises(InvalidArgument, match="listed_origins"):
        backend.record_listed_origins([{"url": url_of(1)}])  # type: ignore[list-item]

    assert backend.get_listed_origins(enabled=None).results == []


def test_pages_show_every_origin_once_in_key_order(backend: SchedulerBackend) -> None:
    listers = [a_lister(backend, name) for name in ("a", "b")]
    given = [an_origin(lister, n) for lister in listers for n in range(7)]
    backend.record_listed_origins(given)

    for limit in (1, 2, 7, 13, 14, 15):
        found = pages(backend, limit=limit)
        assert all(len(page) <= limit for page in found)
        assert found[-1]
        seen = [(o.lister_id, o.url, o.visit_type) for page in found for o in page]
        assert seen == sorted((o.lister_id, o.url, o.visit_type) for o in given)


def test_a_page_boundary_loses_no_visit_type_of_an_origin(backend: SchedulerBackend) -> None:
    lister = a_lister(backend)
    types = {0: 1, 1: 3, 2: 2, 3: 1, 4: 3}
    given = [an_origin(lister, n, visit_type=f"type-{t}") for n, count in types.items() for t in range(count)]
    backend.record_listed_origins(given)

    for limit in range(1, 12):
        found = pages(backend, limit=limit)
        assert [(o.url, o.visit_type) for page in found for o in page] == sorted((o.url, o.visit_type) for o in given)
        assert all(len(page) <= max(limit, 3) for page in found)
        assert found[-1]


def test_a_token_is_a_lister_and_a_url_and_survives_json(backend: SchedulerBackend) -> None:
    lister = a_lister(backend)
    backend.record_listed_origins([an_origin(lister, n) for n in range(3)])

    page = backend.get_listed_origins(limit=2)

    assert page.next_page_token == (str(lister), url_of(1))
    after = backend.get_listed_origins(limit=2, page_token=list(page.next_page_token))  # type: ignore[arg-type]
    assert [o.url for o in after.results] == [url_of(2)]
    assert after.next_page_token is None


def test_filters_combine(backend: SchedulerBackend) -> None:
    a, b = a_lister(backend, "a"), a_lister(backend, "b")
    backend.record_listed_origins([an_origin(a, 1), an_origin(a, 2, enabled=False), an_origin(b, 1), an_origin(b, 2)])

    def found(**filters: object) -> set[tuple[bool, str]]:
        page = backend.get_listed_origins(**filters)  # type: ignore[arg-type]
        return {(o.lister_id == a, o.url[-1]) for o in page.results}

    assert found() == {(True, "1"), (False, "1"), (False, "2")}
    assert found(enabled=False) == {(True, "2")}
    assert found(enabled=None, lister_id=a) == {(True, "1"), (True, "2")}
    assert found(enabled=None, url=url_of(2)) == {(True, "2"), (False, "2")}
    assert found(lister_id=b, url=url_of(2)) == {(False, "2")}
    assert found(lister_id=uuid4()) == set()


def test_wrong_arguments_of_a_page_are_named(backend: SchedulerBackend) -> None:
    for wrong in ({"limit": 0}, {"lister_id": "x"}, {"url": 1}, {"enabled": "yes"}, {"page_token": ("x", "y", "z")}):
        with pytest.raises(InvalidArgument, match=next(iter(wrong))):
            backend.get_listed_origins(**wrong)


def test_an_origin_that_is_listed_by_another_lister_brings_its_visits_along(
    backend: SchedulerBackend, engine: Engine
) -> None:
    backend.record_visit_outcomes([an_outcome()])

    backend.record_listed_origins([an_origin(a_lister(backend), last_update=NOW + timedelta(1))])

    assert mirrors_that_lie(engine) == []
    [taken] = backend.grab_next_visits("git", 1, "already_visited_order_by_lag")
    assert taken.url == url_of(0)


def test_a_listing_and_an_outcome_at_the_same_time_know_of_each_other(
    backend: SchedulerBackend, engine: Engine
) -> None:
    lister = a_lister(backend)
    with ThreadPoolExecutor(1) as pool, engine.connect() as listing:
        origins.record(listing, [an_origin(lister, last_update=NOW)])

        outcome = pool.submit(backend.record_visit_outcomes, [an_outcome()])
        until(lambda: waiting(engine))
        listing.commit()
        outcome.result()

    assert mirrors_that_lie(engine) == []
    with ThreadPoolExecutor(1) as pool, engine.connect() as visit:
        outcomes.record(visit, [an_outcome(snapshot=b"s2", date=NOW + timedelta(1))], Steady())
        listed = pool.submit(backend.record_listed_origins, [an_origin(a_lister(backend, "another"))])
        until(lambda: waiting(engine))
        visit.commit()
        listed.result()
    assert mirrors_that_lie(engine) == []


def waiting(engine: Engine) -> int:
    """How many sessions wait for a lock."""
    with engine.connect() as conn:
        statement = "select count(*) from pg_locks where not granted"
        return int(conn.exec_driver_sql(statement).scalar_one())


def test_writers_of_overlapping_sets_never_deadlock(engine: Engine, backend: SchedulerBackend) -> None:
    listers = [a_lister(backend, name) for name in ("a", "b")]

    def write(seed: int) -> None:
        dice = random.Random(seed)
        for step in range(12):
            numbers = dice.sample(range(200), 120)
            with engine.begin() as conn:  # no retries here: a deadlock is an error
                match dice.randrange(3):
                    case 0:
                        origins.record(conn, [an_origin(listers[n % 2], n) for n in numbers])
                    case 1:
                        stats.upsert(conn, [OriginVisitStats(url_of(n), "git", last_snapshot=b"x") for n in numbers])
                    case 2:
                        date = NOW + timedelta(seconds=100 * seed + step)
                        found = [an_outcome(n, date=date, status=dice.choice(["full", "failed"])) for n in numbers]
                        outcomes.record(conn, found, Steady())

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))

    assert mirrors_that_lie(engine) == []
