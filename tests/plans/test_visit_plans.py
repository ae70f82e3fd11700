"""At 50,000 origins every policy walks its index and reads rows in proportion to what it takes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from swh_sched_runner.backend.origins import origins, outcomes, policies, stats
from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.model import ListedOrigin, OriginVisitStats, VisitOutcome
from tests.support.plans import Plan, explained
from tests.support.servers import databases

pytestmark = pytest.mark.slow

ROWS = 50_000
LISTER = UUID("00000000-0000-4000-8000-000000000001")
SMALL_LISTER = UUID("00000000-0000-4000-8000-000000000002")
NOW = datetime(2026, 6, 1, tzinfo=UTC)

A_LISTER = """
insert into listers (id, name, instance_name, current_state, updated, last_listing_finished_at)
values (:id, :id, '', jsonb_build_object(), now(), :finished)
"""

# 10 % never visited, 20 % without last_update, 5 % disabled, 5 % failed within 14 days, 10 % in flight; and in the
# older half, which is the head of every policy's order, 30 % are in cooldown.
FILL = """
with numbers as (
  select n, 'https://forge.example/' || md5(cast(n as text)) as url,
         abs(hashint4(n)) % 100 < 10 as never, abs(hashint4(n + 100000)) % 100 < 20 as no_update,
         abs(hashint4(n + 200000)) % 100 < 5 as disabled, abs(hashint4(n + 300000)) % 100 < 5 as failed,
         abs(hashint4(n + 400000)) % 100 < 10 as in_flight,
         n < :head and abs(hashint4(n + 500000)) % 100 < 30 as cooling,
         abs(hashint4(n + 600000)) % 1000 < 2 as of_small_lister,
         cast(:now as timestamptz) as now
  from generate_series(0, :rows - 1) as n
), written as (
  insert into origin_visit_stats (url, visit_type, listed_only, last_successful, last_visit, last_visit_status,
                                  last_scheduled, last_snapshot, next_visit_queue_position)
  select url, 'git', never and not cooling,
         case when not never then now - interval '60 days' end,
         case when failed or cooling and not never then now - interval '2 days'
              when not never then now - interval '60 days' end,
         case when (failed or cooling) and not never then cast('failed' as last_visit_status)
              when not never then 'successful' end,
         case when cooling then now - interval '1 hour'
              when in_flight then now - interval '1 day'
              when not never then now - interval '61 days' + make_interval(secs => n) end,
         case when not never then decode(md5(url), 'hex') end,
         case when not never then n end
  from numbers
)
insert into listed_origins (
  lister_id, url, visit_type, extra_loader_arguments, enabled, last_seen, first_seen, last_update
)
select case when of_small_lister then cast(:small_lister as uuid) else cast(:lister as uuid) end,
       url, 'git', jsonb_build_object(), not disabled, now,
       now - interval '90 days' + make_interval(secs => n),
       case when not no_update then now - interval '50 days' + make_interval(secs => n) end
from numbers
"""


@pytest.fixture(scope="module")
def engine(postgresql_url: str, template_database: str) -> Iterator[Engine]:
    with databases.created(postgresql_url, f"test_{uuid.uuid4().hex[:12]}", template_database) as url:
        engine = create_engine(url)
        with engine.begin() as conn:
            for lister in (LISTER, SMALL_LISTER):
                conn.execute(text(A_LISTER), {"id": str(lister), "finished": NOW - timedelta(days=1)})
            binds = {"rows": ROWS, "head": ROWS // 2, "now": NOW}
            conn.execute(text(FILL), binds | {"lister": str(LISTER), "small_lister": str(SMALL_LISTER)})
            keys = conn.execute(text("select array_agg(url), array_agg(visit_type) from origin_visit_stats")).one()
            conn.execute(Queries("origins/policies").mirror_stats, {"urls": keys[0], "visit_types": keys[1]})
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text("vacuum analyze listed_origins, origin_visit_stats"))
        yield engine
        engine.dispose()


def walk_plan(engine: Engine, policy: str, count: int, **more: Any) -> Plan:
    """The plan of the statement that selects."""
    plans = explained(engine, lambda conn: policies.grab_next(conn, "git", count, policy, timestamp=NOW, **more))
    [walk] = [plan for plan in plans if "skip locked" in plan.statement]
    return walk


# The index that is walked in its order.
WALKS = {
    "oldest_scheduled_first": "origin_visit_stats_scheduled_idx",
    "never_visited_oldest_update_first": "listed_origins_unloaded_idx",
    "already_visited_order_by_lag": "listed_origins_lag_idx",
    "origins_without_last_update": "listed_origins_queue_idx",
    "stop_after_success": "listed_origins_unsuccessful_idx",
    "first_visits_after_listing": "origin_visit_stats_scheduled_idx",
}


@pytest.mark.parametrize("policy", policies.POLICIES)
def test_a_policy_walks_its_index_and_reads_in_proportion_to_what_it_takes(engine: Engine, policy: str) -> None:
    lister = LISTER if policy == "first_visits_after_listing" else None
    # Most of what failed last is in cooldown, and stands among what this policy takes.
    rows_for_one = 8 if policy == "stop_after_success" else 2

    for count in (100, 1000):
        walk = walk_plan(engine, policy, count, lister_uuid=lister)

        assert walk.nodes[0]["Actual Rows"] == count
        assert WALKS[policy] in walk.indexes()
        if "scheduled" in WALKS[policy]:  # the cut-off of the absolute cooldown is a bound of the walk
            (leading,) = (node for node in walk.nodes if node.get("Index Name") == WALKS[policy])
            assert "COALESCE(last_scheduled" in leading["Index Cond"]
        assert not walk.kinds() & {"Sort", "Incremental Sort", "Hash Join", "Merge Join", "Seq Scan"}
        assert walk.rows_read("listed_origins") <= rows_for_one * count
        assert walk.rows_read("origin_visit_stats") <= rows_for_one * count


@pytest.mark.parametrize("policy", policies.POLICIES)
def test_a_small_lister_costs_what_it_lists(engine: Engine, policy: str) -> None:
    with engine.connect() as conn:
        of_it = text("select count(*) from listed_origins where lister_id = :lister")
        listed = conn.execute(of_it, {"lister": str(SMALL_LISTER)}).scalar_one()
    assert 50 < listed < 200

    walk = walk_plan(engine, policy, 10, lister_uuid=SMALL_LISTER)

    assert walk.rows_read("listed_origins") <= listed
    assert walk.rows_read("origin_visit_stats") <= listed


def test_the_disabled_ones_are_found_without_the_others(engine: Engine) -> None:
    for policy in policies.POLICIES[1:-1]:
        walk = walk_plan(engine, policy, 10, enabled=False)

        assert "listed_origins_disabled_idx" in walk.indexes()
        assert walk.rows_read("listed_origins") <= ROWS // 15


def test_marking_reads_what_was_taken(engine: Engine) -> None:
    grab = partial(policies.grab_next, visit_type="git", count=100, policy="oldest_scheduled_first", timestamp=NOW)
    [mark] = [plan for plan in explained(engine, grab) if "set last_scheduled" in plan.statement]

    assert mark.indexes() == {"origin_visit_stats_pkey"}
    assert mark.rows_read("origin_visit_stats") == 100


def test_recording_reads_the_rows_that_it_writes(engine: Engine) -> None:
    with engine.connect() as conn:
        urls = list(conn.execute(text("select url from listed_origins limit 500")).scalars())
    known = [ListedOrigin(LISTER, url, "git") for url in urls]
    fresh = [ListedOrigin(LISTER, f"https://elsewhere.example/{n}", "git") for n in range(500)]
    found = [VisitOutcome(url, "git", NOW + timedelta(days=n), "failed") for n in range(3) for url in urls]
    stats_of_them = [OriginVisitStats(url, "git", last_visit=NOW, last_visit_status="failed") for url in urls]

    plans = [
        *explained(engine, lambda conn: origins.record(conn, known + fresh)),
        *explained(engine, lambda conn: outcomes.record(conn, found, Random(1))),
        *explained(engine, lambda conn: stats.upsert(conn, stats_of_them)),
    ]

    assert len(plans) >= 8
    for plan in plans:
        assert not plan.whole_tables() & {"listed_origins", "origin_visit_stats"}, plan.statement
        # Looked up once, and once more where it is written.
        assert plan.rows_read("listed_origins") <= 1000, plan.statement
        assert plan.rows_read("origin_visit_stats") <= 1000, plan.statement


def test_a_page_of_origins_reads_a_page(engine: Engine) -> None:
    token = (str(LISTER), "https://forge.example/8")
    for filters in ({}, {"lister_id": LISTER}, {"url": "https://forge.example/1"}):
        get = partial(origins.get_page, lister_id=None, url=None, enabled=True, limit=100, page_token=token)
        plans = explained(engine, lambda conn: get(conn, **filters))  # noqa: B023

        assert all(plan.rows_read("listed_origins") <= 150 for plan in plans)
