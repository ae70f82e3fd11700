"""Metrics: counts of origins that are exact."""

from __future__ import annotations

import random
from datetime import timedelta
from uuid import uuid4

import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.exc import InvalidArgument
from swh_sched_runner.model import ListedOrigin, OriginVisitStats, SchedulerMetrics
from tests.support.origins import NOW, a_lister, an_origin, url_of

DAY = timedelta(days=1)


def counted(listed: list[ListedOrigin], stats: dict[str, OriginVisitStats]) -> list[SchedulerMetrics]:
    """The same counts, in plain Python."""
    metrics = []
    for lister, visit_type in sorted({(o.lister_id, o.visit_type) for o in listed}):
        known = [o for o in listed if (o.lister_id, o.visit_type) == (lister, visit_type)]
        enabled = [o for o in known if o.enabled]
        never = pending = 0
        for origin in enabled:
            visits = stats.get(origin.url) if visit_type == "git" else None
            never += visits is None or visits.last_snapshot is None
            successful = visits and visits.last_successful
            pending += bool(successful and origin.last_update and origin.last_update > successful)
        metrics.append(SchedulerMetrics(lister, visit_type, NOW, len(known), len(enabled), never, pending))
    return metrics


def test_counts_are_those_of_the_origins(backend: SchedulerBackend) -> None:
    dice = random.Random(3)
    listers = [a_lister(backend, name) for name in ("a", "b", "empty")]
    listed = [
        an_origin(
            lister,
            n,
            visit_type=dice.choice(["git", "git", "svn"]),
            enabled=dice.random() < 0.8,
            last_update=dice.choice([None, NOW - dice.randrange(20) * DAY]),
        )
        for lister in listers[:2]
        for n in range(80)
    ]
    stats = {
        url_of(n): OriginVisitStats(
            url_of(n),
            "git",
            last_successful=dice.choice([None, NOW - dice.randrange(20) * DAY]),
            last_snapshot=dice.choice([None, b"s"]),
        )
        for n in range(60)
    }
    backend.record_listed_origins(listed)
    backend.origin_visit_stats_upsert(stats.values())
    expected = counted(listed, stats)

    assert backend.update_metrics(timestamp=NOW) == expected
    assert backend.get_metrics() == expected
    assert backend.update_metrics(listers[0], NOW) == [m for m in expected if m.lister_id == listers[0]]
    assert backend.get_metrics(lister_id=str(listers[1])) == [m for m in expected if m.lister_id == listers[1]]
    assert backend.get_metrics(visit_type="svn") == [m for m in expected if m.visit_type == "svn"]


def test_an_update_follows_what_changed(backend: SchedulerBackend) -> None:
    lister = a_lister(backend)
    backend.record_listed_origins([an_origin(lister, last_update=NOW)])
    [before] = backend.update_metrics()

    backend.origin_visit_stats_upsert(
        [OriginVisitStats(url_of(0), "git", last_snapshot=b"s", last_successful=NOW - DAY)]
    )

    [after] = backend.update_metrics()
    assert (before.origins_never_visited, before.origins_with_pending_changes) == (1, 0)
    assert (after.origins_never_visited, after.origins_with_pending_changes) == (0, 1)
    assert before.last_update
    assert after.last_update
    assert after.last_update > before.last_update


def test_an_unknown_lister_has_no_metrics(backend: SchedulerBackend) -> None:
    backend.record_listed_origins([an_origin(a_lister(backend))])

    assert backend.update_metrics(uuid4()) == []
    assert backend.update_metrics(a_lister(backend, "empty")) == []
    assert backend.get_metrics() == []


def test_wrong_arguments_are_named(backend: SchedulerBackend) -> None:
    with pytest.raises(InvalidArgument, match="lister_id"):
        backend.update_metrics("github")
    with pytest.raises(InvalidArgument, match="timestamp"):
        backend.update_metrics(timestamp=NOW.replace(tzinfo=None))
    with pytest.raises(InvalidArgument, match="visit_type"):
        backend.get_metrics(visit_type="")
