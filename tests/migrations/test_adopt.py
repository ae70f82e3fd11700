"""A database of the scheduler that was there before is taken over with its data, or refused with the reason."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg2.extensions
import pytest
from sqlalchemy import Engine, text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.db import adopt, migrate
from swh_sched_runner.db.adopt import migrations, preflight
from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.exc import AdoptionRefused, AdoptionStopped, SchemaError
from tests.support.origins import mirrors_that_lie
from tests.support.samples import NOW
from tests.support.servers import databases, foreign
from tests.support.servers.proxy import Proxy

pytestmark = pytest.mark.slow

# What an adopted database has beside a fresh one: what is not ours to drop.
OF_OTHERS = re.compile(
    r"dbversion|priority_ratio|uuid-ossp|swh_scheduler_compat"
    r"|INDEX (task_type_next_run_idx|task_run_task_started_idx|listed_origins_visit_type_last_update_idx)"
    r"|INDEX task_run_backend_id_idx_before_adoption"
)
DAY = timedelta(days=1)


@pytest.fixture
def url(empty_database_url: str) -> str:
    return empty_database_url


@pytest.fixture
def other(url: str) -> Iterator[Engine]:
    """An engine on the database that is to be adopted."""
    engine = create_engine(url)
    yield engine
    engine.dispose()


def rows(engine: Engine, query: str) -> list[Any]:
    with engine.connect() as conn:
        return [tuple(row) for row in conn.execute(text(query))]


@pytest.mark.parametrize("version", range(33, 39))
def test_an_adopted_database_has_the_schema_of_a_fresh_one(
    url: str, other: Engine, database_url: str, version: int
) -> None:
    foreign.build(url, version, rows=20)

    foreign.adopt(other)

    adopted, fresh = foreign.parts(url), foreign.parts(database_url)
    assert fresh - adopted == set()
    assert [piece for piece in adopted - fresh if not OF_OTHERS.search(piece)] == []
    with other.connect() as conn:
        migrate.require(conn)
    assert migrate.upgrade(other) == []


def test_what_other_tools_read_stays_as_it_was(url: str, other: Engine) -> None:
    foreign.build(url, 35, rows=50)
    reads = [
        f"select {', '.join(columns)} from {table} order by {', '.join(key)}"  # noqa: S608
        for table, columns, key in (
            ("task_type", ["type", "backend_name", "max_queue_length"], ["type"]),
            ("task", ["id", "type", "arguments", "next_run", "status", "policy", "retries_left", "priority"], ["id"]),
            ("task_run", ["id", "task", "backend_id", "scheduled", "started", "ended", "metadata", "status"], ["id"]),
            ("listers", ["id", "name", "instance_name", "created", "current_state", "updated"], ["id"]),
            ("listed_origins", ["lister_id", "url", "enabled", "first_seen", "last_update"], ["lister_id", "url"]),
            ("visit_scheduler_queue_position", ["visit_type", "position"], ["visit_type"]),
            ("priority_ratio", ["id", "ratio"], ["id"]),
        )
    ]
    reads += [
        "select * from origin_visit_stats where last_visit is not null order by url",
        "select max(version) from dbversion",
        "select swh_scheduler_count_tasks()",
    ]
    before = [rows(other, read) for read in reads]

    foreign.adopt(other)

    after = [rows(other, read) for read in reads]
    assert [[row[: len(known[0])] for row in seen] for known, seen in zip(before, after, strict=True)] == before


def test_the_end_of_a_run_that_was_open_moves_its_task_once(adopted_database_url: str) -> None:
    with SchedulerBackend(adopted_database_url) as backend:
        [before] = backend.get_tasks([10])
        assert (before["status"], before["current_interval"]) == ("next_run_scheduled", DAY)

        backend.end_task_run("open-10", "eventful", timestamp=NOW)
        backend.end_task_run("open-10", "failed", timestamp=NOW + DAY)

        [after] = backend.get_tasks([10])
        assert (after["status"], after["next_run"]) == ("next_run_not_scheduled", NOW + DAY / 2)
        assert (after["current_interval"], after["retries_left"]) == (DAY / 2, 2)


def test_tasks_in_flight_follow_the_newest_run_that_can_end_them_and_others_none(adopted_database_url: str) -> None:
    engine = create_engine(adopted_database_url)
    followed = rows(
        engine, "select t.id, r.backend_id from task t left join task_run r on r.id = t.run_id order by t.id"
    )
    engine.dispose()

    in_flight = {number: f"open-{number}" for number in range(10, 201, 10)}
    assert dict(followed) == dict.fromkeys(range(1, 204)) | in_flight | {203: "double"}


def test_of_runs_with_one_backend_id_the_newest_keeps_it_and_the_others_note_it(adopted_database_url: str) -> None:
    with SchedulerBackend(adopted_database_url) as backend:
        doubles = {run["id"]: (run["backend_id"], run["metadata"]) for run in backend.get_task_runs([203])}

    first = min(doubles)
    assert doubles == {
        first: (f"double.{first}", {"a": 1, "backend_id_before_adoption": "double"}),
        first + 1: (f"double.{first + 1}", {"backend_id_before_adoption": "double"}),
        first + 2: ("double", {}),
        first + 3: (f"other.{first + 3}", {"metadata": [1, 2], "backend_id_before_adoption": "other"}),
        first + 4: ("other", {}),
        first + 5: (None, {}),
        first + 6: ("endless", {}),
    }


def test_a_task_that_has_duplicates_is_found_and_gets_no_other(adopted_database_url: str) -> None:
    with SchedulerBackend(adopted_database_url) as backend:
        wanted = {"args": [], "kwargs": {"url": "https://double.example"}}

        [task] = backend.create_tasks([{"type": "load-git", "arguments": wanted, "next_run": NOW}])  # type: ignore[list-item]

        assert task["id"] == 201


def test_origins_are_handed_out_by_every_policy(adopted_database_url: str) -> None:
    engine = create_engine(adopted_database_url)
    assert mirrors_that_lie(engine) == []
    engine.dispose()
    with SchedulerBackend(adopted_database_url) as backend:
        never = backend.grab_next_visits("git", 500, "never_visited_oldest_update_first", timestamp=NOW)
        unknown = backend.grab_next_visits("git", 500, "origins_without_last_update", timestamp=NOW)
        lagging = backend.grab_next_visits("git", 500, "already_visited_order_by_lag", timestamp=NOW)

    # Of a hundred urls, each in two listers, every third gives no last_update, and only those were never visited.
    assert never == []
    assert {int(origin.url.rsplit("/")[-1]) % 3 for origin in unknown} == {0}
    assert len(unknown) == 2 * (33 - 1)  # one, the 60th, is disabled with every twentieth
    assert len(lagging) == 2 * (67 - 4)


def test_what_breaks_our_rules_is_reported(url: str, other: Engine) -> None:
    foreign.build(url, 38, rows=100, faults=True)

    plan = adopt.examine(other)

    told = [str(finding) for finding in plan.findings]
    assert told[:7] == [
        "runs whose backend_id a newer run has, of 2 ids: 3 (double, other); resolve that first, or use "
        "--rename-duplicates: the newest run keeps the id, the others are renamed",
        "duplicates of an older task: 1 (101); they stay, and create_tasks returns the oldest",
        "open runs: 12; the end of its newest one decides what happens to a task in flight",
        "open runs without a backend_id: 1; they stay open, because no event can end them",
        "runs whose status says that they ended, without an end time: 1; they stay, and change no task",
        "tasks in flight without a run that an event could end: 1 (102); they stay in flight until you "
        "set their status",
        "task types with a backoff_factor of 0 or less: 1 (load-odd); it counts as 1, their intervals stay as they are",
    ]
    assert "task_type_next_run_idx" in told[7]
    assert "slow writes down" in told[7]
    assert "task_run_backend_id_idx" in told[8]
    titles = "\n".join(f"{step.title}: {step.lock}" for step in plan.steps)
    assert "drop the trigger update_task_on_task_end of task_run (its function stays): locks task_run excl" in titles
    assert "the existing one of that name is renamed to task_run_backend_id_idx_before_adoption" in titles


def test_duplicate_backend_ids_are_refused_unless_they_may_be_renamed(url: str, other: Engine) -> None:
    foreign.build(url, 38, rows=10, faults=True)
    before = foreign.dumped(url)

    with pytest.raises(AdoptionRefused, match=r"a newer run has, of 2 ids: 3 \(double, other\).*--rename-duplicates"):
        adopt.adopt(other, show=lambda plan: None, tell=lambda progress: None)

    assert foreign.dumped(url) == before


@pytest.mark.parametrize("version", [32, 39])
def test_another_version_is_refused_by_its_number(url: str, other: Engine, version: int) -> None:
    foreign.build(url, min(version, 38))
    databases.execute(url, f"truncate dbversion; insert into dbversion values ({version})")  # noqa: S608

    with pytest.raises(AdoptionRefused, match=f"at version {version}, supported are 33 to 38"):
        adopt.examine(other)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("drop table dbversion", "it has no version in a table dbversion"),
        ("delete from dbversion", "it has no version in a table dbversion"),
        ("drop table scheduler_metrics", "table scheduler_metrics is missing"),
        ("alter table task drop retries_left", "column task.retries_left is missing"),
        ("alter table task_run alter id type int", "column task_run.id is integer instead of bigint"),
        ("alter type last_visit_status rename value 'failed' to 'bad'", "enum last_visit_status has successful, bad"),
        ("alter type task_priority rename value 'high' to 'x'; alter type task_priority rename value 'low' to 'high'; "
         "alter type task_priority rename value 'x' to 'low'", "has low, normal, high instead of high, normal, low"),
        ("alter table task alter id drop default", r"column task.id is not filled by nextval\('task_id_seq'"),
        ("alter table listed_origins drop constraint listed_origins_pkey", r"is \(\) instead of \(lister_id, url, vis"),
        ("alter table task add team text not null", "column task.team does not belong to the scheduler"),
        ("alter table task add run_id text", "column task.run_id is text instead of bigint"),
        ("create table dispatch_batch (id bigint primary key)", "column dispatch_batch.session_id is missing"),
        ("drop table scheduler_metrics; create view scheduler_metrics as select 1 as id",
         "scheduler_metrics is not an ordinary table"),
        ("create schema aside; alter table scheduler_metrics set schema aside; "
         "do $$ begin execute format('alter database %I set search_path = public, aside', current_database()); end $$",
         "table scheduler_metrics is missing"),
        ("do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); "
         "end $$", "it is read-only"),
    ],
)  # fmt: skip
def test_what_is_no_such_database_is_refused_with_what_differs(
    url: str, other: Engine, change: str, reason: str
) -> None:
    foreign.build(url, 38)
    databases.execute(url, change)

    for attempt in (adopt.examine, foreign.adopt):
        with pytest.raises(AdoptionRefused, match=reason):
            attempt(other)
    assert rows(other, "select to_regclass('swh_sched_runner_adoption')") == [(None,)]


def test_all_that_differs_is_named_at_once(url: str, other: Engine) -> None:
    foreign.build(url, 38)
    databases.execute(url, "drop table scheduler_metrics; alter table task drop retries_left")

    with pytest.raises(AdoptionRefused, match=r"table scheduler_metrics is missing; .*task.retries_left is missing"):
        adopt.examine(other)


def test_a_role_that_may_not_is_refused(url: str) -> None:
    role = f"reader_{uuid.uuid4().hex[:8]}"
    foreign.build(url, 38)
    databases.execute(url, f"revoke create on schema public from public; create role {role} login")
    databases.execute(url, f"grant select on all tables in schema public to {role}")
    limited = create_engine(psycopg2.extensions.make_dsn(url, user=role))
    try:
        with pytest.raises(AdoptionRefused, match=f"role {role} may not create tables in schema public"):
            adopt.examine(limited)
        databases.execute(url, f"grant create on schema public to {role}")
        with pytest.raises(AdoptionRefused, match=f"role {role} may not create the schema swh_scheduler_compat"):
            adopt.examine(limited)
        databases.execute(
            url, f"do $$ begin execute 'grant create on database ' || current_database() || ' to {role}'; end $$"
        )
        with pytest.raises(AdoptionRefused, match="table task belongs to another role, only its owner may change it"):
            adopt.examine(limited)
    finally:
        limited.dispose()
        databases.execute(url, f"drop owned by {role}; drop role {role}")


class Pooler(Proxy):
    """Names another process of the server than the one that answers, as a pooler in transaction mode does."""

    def answer(self, data: bytes) -> bytes:
        return re.sub(rb"(?s)(?<=K\0\0\0\x0c)....", b"\0\0\0\7", data, count=1)


def test_a_session_behind_a_pooler_is_refused(url: str) -> None:
    foreign.build(url, 38)
    pooler = Pooler(databases.proxied(url))
    other = create_engine(psycopg2.extensions.make_dsn(url, host="127.0.0.1", port=pooler.port, sslmode="disable"))

    with pytest.raises(AdoptionRefused, match="through a connection pooler"):
        foreign.adopt(other)
    other.dispose()
    pooler.stop()


def test_an_adopted_database_is_not_adopted_again_and_one_of_ours_neither(
    adopted_database_url: str, database_url: str
) -> None:
    for each in (adopted_database_url, database_url):
        engine = create_engine(each)
        with pytest.raises(
            AdoptionRefused, match=f"it belongs to this program already, at schema version {migrate.head()}"
        ):
            foreign.adopt(engine)
        engine.dispose()


def test_an_empty_database_is_for_init(url: str, other: Engine) -> None:
    with pytest.raises(AdoptionRefused, match=r"not a scheduler's database.*db init"):
        adopt.examine(other)
    with other.connect() as conn:
        assert adopt.under_way(conn) is None


def test_nobody_works_on_it_before_it_is_adopted(url: str, other: Engine) -> None:
    foreign.build(url, 38)

    with other.connect() as conn, pytest.raises(SchemaError, match="db adopt"):
        migrate.require(conn)
    with pytest.raises(SchemaError, match="db adopt"):
        migrate.upgrade(other)
    with other.connect() as conn:
        assert adopt.under_way(conn) == "a scheduler's database at version 38"


def test_every_trigger_on_these_tables_goes_and_others_stay(url: str, other: Engine) -> None:
    foreign.build(url, 38)
    databases.execute(
        url,
        "create table own (id int); create trigger kept after insert on own for each row "
        "execute function swh_scheduler_update_task_on_task_end(); create trigger noted after update on task "
        "for each row execute function swh_scheduler_update_task_on_task_end()",
    )

    told = foreign.adopt(other)

    on_tables = (
        "select tgname from pg_trigger g join pg_class c on c.oid = tgrelid where not tgisinternal and relkind = 'r'"
    )
    assert rows(other, on_tables) == [("kept",)]
    assert {p.title.split(" of ")[0] for p in told if "trigger" in p.title} == {
        "drop the trigger noted",
        "drop the trigger update_task_on_task_end",
    }


def test_columns_and_constraints_come_to_demand_what_ours_do(url: str, other: Engine, database_url: str) -> None:
    foreign.build(url, 38, rows=20)
    databases.execute(
        url,
        "alter table task alter retries_left drop not null, drop constraint task_check; "
        "alter table task drop constraint task_type_fkey; "
        "alter table task_type alter num_retries set default 3, alter description drop not null; "
        "alter table task_run alter scheduled set not null; drop index listers_name_instance_name_idx",
    )

    foreign.adopt(other)

    assert foreign.parts(database_url) - foreign.parts(url) == {
        # A default of theirs where ours has none is nobody's loss.
        "CREATE TABLE task_type: num_retries bigint"
    }


def test_a_row_that_a_demand_forbids_ends_the_adoption_with_its_table(url: str, other: Engine) -> None:
    foreign.build(url, 38, rows=20)
    databases.execute(url, "alter table task drop constraint task_check; update task set current_interval = null")

    with pytest.raises(AdoptionStopped, match='check constraint "task_check" of relation "task" is violated by some'):
        foreign.adopt(other)

    databases.execute(url, "update task set current_interval = '1 day'")
    foreign.adopt(other)


def test_adoption_knows_every_statement_of_the_migrations() -> None:
    known = migrations.statements()

    by_file: dict[str, int] = {}
    for statement in known:
        if statement.kind == "rows":
            by_file[statement.file] = by_file.get(statement.file, 0) + 1
    assert by_file == migrations.ROWS_DONE_IN_BATCHES, "adoption must do to rows what this migration does"
    assert {s.repeatable.split(" on ")[0] for s in known if s.name == "task_run_backend_id_idx"} == {
        "create unique index concurrently task_run_backend_id_idx"
    }
    of_a_view = [s.repeatable for s in known if "queue_limit" in (s.name, s.table)]
    assert of_a_view[0].startswith("create or replace view queue_limit as")
    assert {s.kind for s in known if s.repeatable in of_a_view} == {"rule"}
    assert [text for text in of_a_view if text.startswith("comment on column queue_limit.queue is")]


def test_a_statement_of_another_kind_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match=r"does not know what this statement of 0099\.sql does: drop table task"):
        migrations._classify("0099.sql", "drop table task")


def test_a_statement_ends_where_postgresql_ends_it() -> None:
    script = "create type a as enum ('b;', 'it''s');  -- not here; nor here: it's\nupdate t set a = 1 - 2;\n"

    assert list(migrations._split(script)) == ["create type a as enum ('b;', 'it''s')", "update t set a = 1 - 2"]


def test_a_finding_names_no_more_than_there_are() -> None:
    assert str(preflight.Finding("tasks", 1_000, ["1", "2"], "they stay")) == "tasks: 1,000 (1, 2, …); they stay"
    assert str(preflight.Finding("tasks", 2, ["1", "2"], "they stay")) == "tasks: 2 (1, 2); they stay"
