"""Connections: pooled ones that break, wait and fork, and one that the caller has open and keeps."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import pytest
from sqlalchemy import Connection, Engine, text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.db.connections import unhurried
from swh_sched_runner.db.engine import Database, create_engine
from swh_sched_runner.exc import (
    ConnectionUnusable,
    DatabaseUnavailable,
    InvalidArgument,
    LockTimeout,
    StatementTimeout,
    TransactionConflict,
)
from swh_sched_runner.model import ListedOrigin, OriginVisitStats
from tests.support.samples import NOW, a_task, a_type, run_of_a_task
from tests.support.servers import databases
from tests.support.servers.proxy import Proxy
from tests.support.wait import until

DriverConnection = psycopg2.extensions.connection
INTRANS = psycopg2.extensions.TRANSACTION_STATUS_INTRANS
IDLE = psycopg2.extensions.TRANSACTION_STATUS_IDLE


def asked(conn: DriverConnection, statement: str) -> Any:
    with conn.cursor(cursor_factory=psycopg2.extensions.cursor) as cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
    return row and row[0]


def types(database_url: str) -> list[str]:
    """The names of the task types that others see."""
    with SchedulerBackend(database_url) as watcher:
        return [str(found["type"]) for found in watcher.get_task_types()]


# What may be handed in.


@pytest.mark.parametrize("scheme", ["postgresql://", "postgres://", "postgresql+psycopg2://"])
def test_a_url_is_understood(database_url: str, scheme: str) -> None:
    with SchedulerBackend(database_url.replace("postgresql://", scheme, 1)) as backend:
        assert backend.get_task_types() == []


def test_a_connection_string_is_understood(database_url: str) -> None:
    with closing(psycopg2.connect(database_url)) as conn:
        dsn = conn.dsn
    with SchedulerBackend(dsn) as backend:
        assert backend.get_task_types() == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("mysql://hunter2@db",), "db"),
        (("dbnam=hunter2",), "db"),
        ((None,), "db"),
        ((7,), "db"),
        (("", -1), "min_pool_conns"),
        (("", 1, 0), "max_pool_conns"),
        (("", 5, 4), "max_pool_conns"),
        (("", "1"), "min_pool_conns"),
    ],
)
def test_what_is_no_database_is_named_without_being_shown(arguments: tuple[Any, ...], named: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"^{named}: ") as caught:
        SchedulerBackend(*arguments)
    assert "hunter2" not in str(caught.value)


# The pool.


def test_threads_share_a_backend_and_no_more_connections_than_it_may_open(database_url: str) -> None:
    count = text("select count(*) from pg_stat_activity where application_name = 'swh-sched-runner-many'")
    with SchedulerBackend(
        psycopg2.extensions.make_dsn(database_url, application_name="swh-sched-runner-many"), 1, 3
    ) as backend:
        seen: list[int] = []

        def work(number: int) -> None:
            backend.create_task_type(a_type(f"type-{number}"))
            seen.append(backend._db.run(lambda conn: int(conn.execute(count).scalar_one())))

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(work, range(60)))

        assert len(backend.get_task_types()) == 60
    assert max(seen) <= 3


def test_all_connections_may_drop_at_once(database_url: str, engine: Engine) -> None:
    together = threading.Barrier(4)
    with SchedulerBackend(database_url, 4, 4) as backend:

        def work(_: int) -> list[Any]:
            together.wait(30)
            return list(backend.get_task_types())

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
            with engine.connect() as conn:
                ended = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
                conn.execute(text(ended + " and pid <> pg_backend_pid()"))
            assert list(pool.map(work, range(4))) == [[]] * 4


def test_a_session_that_idled_too_long_is_replaced_without_the_caller_seeing_it(
    database_url: str, database: Database
) -> None:
    dsn = psycopg2.extensions.make_dsn(database_url, options="-c idle_session_timeout=50", application_name="idler")
    with SchedulerBackend(dsn) as backend:
        backend.get_task_types()
        idler = text("select count(*) from pg_stat_activity where application_name = 'idler'")
        until(lambda: database.run(lambda conn: conn.execute(idler).scalar_one()) == 0)

        assert backend.get_task_types() == []


def test_a_forked_process_gets_connections_of_its_own(database_url: str) -> None:
    pid = text("select pg_backend_pid()")
    database = Database(create_engine(database_url))
    ours = database.run(lambda conn: conn.execute(pid).scalar_one())
    reader, writer = multiprocessing.Pipe()

    child = os.fork()
    if child == 0:  # no place for pytest: it answers and is gone
        try:
            writer.send(database.run(lambda conn: conn.execute(pid).scalar_one()))
            database.close()
        finally:
            os._exit(0)

    assert reader.poll(20)
    theirs = reader.recv()
    os.waitpid(child, 0)
    assert theirs != ours
    assert database.run(lambda conn: conn.execute(pid).scalar_one()) == ours, "the parent's session goes on"
    database.close()


# Timeouts.


@pytest.fixture
def locked_type(database_url: str) -> Iterator[Callable[[], None]]:
    """Another session keeps task_type for itself, until it is told to let go."""
    with closing(psycopg2.connect(database_url)) as conn, conn.cursor() as cursor:
        cursor.execute("lock table task_type in access exclusive mode")
        yield conn.rollback


def test_a_lock_that_others_keep_becomes_an_error_that_says_so(database_url: str, locked_type: object) -> None:
    database = Database(create_engine(database_url, lock_timeout_seconds=0.05))
    tries: list[int] = []

    def work(conn: Connection) -> None:
        tries.append(1)
        conn.execute(text("select type from task_type"))

    with pytest.raises(LockTimeout, match="lock_timeout") as caught:
        database.run(work)
    assert len(tries) == 1, "the patience is used up, not to be had five times"
    assert isinstance(caught.value, DatabaseUnavailable), "services wait and try again"
    database.close()


def test_a_statement_that_takes_too_long_becomes_an_error_that_says_so(database_url: str) -> None:
    database = Database(create_engine(database_url, statement_timeout_seconds=0.05))

    with pytest.raises(StatementTimeout, match="statement_timeout"):
        database.run(lambda conn: conn.execute(text("select pg_sleep(10)")))
    database.close()


def test_a_lock_is_waited_for_half_a_minute_and_a_statement_may_take_its_time(backend: SchedulerBackend) -> None:
    def setting(name: str) -> str:
        return str(backend._db.run(lambda conn: conn.execute(text(f"show {name}")).scalar_one()))

    assert setting("lock_timeout") == "30s"
    assert setting("statement_timeout") == "0"


def test_a_timeout_of_the_connection_string_is_left_alone(database_url: str) -> None:
    dsn = psycopg2.extensions.make_dsn(database_url, options="-c lock_timeout=7s -c statement_timeout=8s")
    database = Database(create_engine(dsn, lock_timeout_seconds=1, statement_timeout_seconds=2))

    def settings(conn: Connection) -> tuple[Any, ...]:
        return tuple(
            conn.execute(text("select current_setting('lock_timeout'), current_setting('statement_timeout')")).one()
        )

    assert database.run(settings) == ("7s", "8s")
    with unhurried(database.engine) as conn:
        assert settings(conn) == ("0", "0")
    assert database.run(settings) == ("7s", "8s"), "what was lifted is not pooled"
    database.close()


def test_transactions_that_are_in_the_way_at_every_try_are_said_so(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swh_sched_runner.db.engine.ATTEMPTS", 2)

    with pytest.raises(TransactionConflict, match="on purpose"):
        database.run(
            lambda conn: conn.execute(
                text("do $$ begin raise exception 'on purpose' using errcode = 'serialization_failure'; end $$")
            )
        )


def test_a_role_that_isolates_more_changes_nothing(database_url: str) -> None:
    dsn = psycopg2.extensions.make_dsn(database_url, options="-c default_transaction_isolation=serializable")
    with SchedulerBackend(dsn) as backend:
        shown = backend._db.run(lambda conn: conn.execute(text("show transaction_isolation")).scalar_one())

    assert shown == "read committed"


def test_no_statement_is_compiled_however_much_the_planner_expects_of_it(database_url: str) -> None:
    dsn = psycopg2.extensions.make_dsn(database_url, options="-c jit=on -c jit_above_cost=0")
    with SchedulerBackend(dsn) as backend:
        plan = backend._db.run(
            lambda conn: conn.execute(text("explain (analyze, format json) select count(*) from task")).scalar_one()
        )

    assert "JIT" not in plan[0]


# A commit without an answer.


def test_a_session_that_ends_during_commit_is_not_tried_again(database: Database) -> None:
    tries: list[int] = []
    ends_itself = """
        create table doomed (n int);
        create function die() returns trigger language plpgsql as
          'begin perform pg_terminate_backend(pg_backend_pid()); return null; end';
        create constraint trigger dies after insert on doomed deferrable initially deferred
          for each row execute function die();
    """
    database.run(lambda conn: conn.execute(text(ends_itself.replace(":", r"\:"))))

    def work(conn: Connection) -> None:
        tries.append(1)
        conn.execute(text("insert into doomed values (1)"))

    with pytest.raises(DatabaseUnavailable, match="connection lost during commit"):
        database.run(work)
    assert len(tries) == 1
    assert database.run(lambda conn: conn.execute(text("select count(*) from doomed")).scalar()) == 0


def test_a_commit_whose_answer_was_lost_took_effect_once(database_url: str, database: Database) -> None:
    proxy = Proxy(databases.proxied(database_url))
    dsn = psycopg2.extensions.make_dsn(database_url, host="127.0.0.1", port=proxy.port)
    far = Database(create_engine(dsn))
    far.run(lambda conn: conn.execute(text("create table counted (n int)")))
    tries: list[int] = []

    def work(conn: Connection) -> None:
        tries.append(1)
        conn.execute(text("insert into counted values (1)"))
        proxy.drop_at_next_answer()

    with pytest.raises(DatabaseUnavailable, match="connection lost during commit"):
        far.run(work)
    assert len(tries) == 1
    count = text("select count(*) from counted")
    until(lambda: database.run(lambda conn: conn.execute(count).scalar()) == 1)
    far.close()
    proxy.stop()


# A connection of the caller's.


@pytest.fixture
def callers_connection(database_url: str) -> Iterator[DriverConnection]:
    with closing(psycopg2.connect(database_url)) as conn:
        yield conn


@pytest.mark.parametrize("decision", ["commit", "rollback"])
def test_what_a_method_writes_is_the_caller_s_to_decide(
    callers_connection: DriverConnection, database_url: str, decision: str
) -> None:
    backend = SchedulerBackend(callers_connection)
    with callers_connection.cursor() as cursor:
        cursor.execute("create table theirs (n int)")

    backend.create_task_type(a_type())
    assert backend.get_task_type("load-git") == a_type()
    assert callers_connection.info.transaction_status == INTRANS
    assert types(database_url) == []
    getattr(callers_connection, decision)()

    assert types(database_url) == (["load-git"] if decision == "commit" else [])
    assert (asked(callers_connection, "select to_regclass('theirs')") is not None) == (decision == "commit")


def test_a_read_commits_nothing_of_the_caller_s(callers_connection: DriverConnection, database_url: str) -> None:
    with callers_connection.cursor() as cursor:
        cursor.execute("insert into task_type (type, description, backend_name) values ('theirs', 'd', 'b')")

    assert [found["type"] for found in SchedulerBackend(callers_connection).get_task_types()] == ["theirs"]

    callers_connection.rollback()
    assert types(database_url) == []


def test_an_error_takes_back_its_own_call_alone(callers_connection: DriverConnection) -> None:
    backend = SchedulerBackend(callers_connection)
    backend.create_task_type(a_type())
    [task] = backend.create_tasks([a_task()])
    backend.schedule_task_run(task["id"], "taken")

    with pytest.raises(InvalidArgument, match="taken"):  # after the insert of "free"
        backend.mass_schedule_task_runs([{"task": task["id"], "backend_id": name} for name in ("free", "taken")])

    assert [run["backend_id"] for run in backend.get_task_runs([task["id"]])] == ["taken"]
    callers_connection.commit()
    assert [run["backend_id"] for run in backend.get_task_runs([task["id"]])] == ["taken"]


def test_an_error_of_postgresql_leaves_the_transaction_usable(
    callers_connection: DriverConnection, locked_type: object
) -> None:
    backend = SchedulerBackend(callers_connection)
    asked(callers_connection, "select set_config('lock_timeout', '50ms', false)")

    for _ in range(3):
        with pytest.raises(LockTimeout):
            backend.get_task_types()
        assert callers_connection.info.transaction_status == INTRANS
    assert backend.search_tasks() == []


def test_in_autocommit_mode_each_call_is_a_transaction(callers_connection: DriverConnection, database_url: str) -> None:
    callers_connection.autocommit = True
    backend = SchedulerBackend(callers_connection)
    backend.create_task_type(a_type())
    assert types(database_url) == ["load-git"]
    [task] = backend.create_tasks([a_task()])
    backend.schedule_task_run(task["id"], "taken")

    with pytest.raises(InvalidArgument):
        backend.mass_schedule_task_runs([{"task": task["id"], "backend_id": name} for name in ("free", "taken")])

    assert callers_connection.autocommit
    assert callers_connection.info.transaction_status == IDLE
    assert [run["backend_id"] for run in backend.get_task_runs([task["id"]])] == ["taken"]


def test_a_transaction_begun_by_hand_in_autocommit_mode_is_the_caller_s(
    callers_connection: DriverConnection, database_url: str
) -> None:
    callers_connection.autocommit = True
    with callers_connection.cursor() as cursor:
        cursor.execute("begin")
        SchedulerBackend(callers_connection).create_task_type(a_type())
        assert types(database_url) == []
        cursor.execute("rollback")
    assert types(database_url) == []


def test_a_savepoint_of_the_caller_s_goes_on(callers_connection: DriverConnection) -> None:
    backend = SchedulerBackend(callers_connection)
    with callers_connection.cursor() as cursor:
        cursor.execute("savepoint theirs")
        backend.create_task_type(a_type())
        cursor.execute("rollback to savepoint theirs")

    assert backend.get_task_types() == []


def test_nothing_is_tried_again_in_the_caller_s_transaction(database_url: str) -> None:
    with closing(psycopg2.connect(database_url)) as one, closing(psycopg2.connect(database_url)) as two:
        one.set_session(isolation_level="REPEATABLE READ")
        backend = SchedulerBackend(one)
        backend.create_task_type(a_type())
        [task] = backend.create_tasks([a_task()])
        one.commit()
        assert len(backend.search_tasks()) == 1  # from here on the caller sees that time
        SchedulerBackend(two).set_status_tasks([task["id"]], "disabled")
        two.commit()

        with pytest.raises(TransactionConflict, match="serialize"):
            backend.set_status_tasks([task["id"]], "completed")
        assert backend.get_tasks([task["id"]])[0]["status"] == "next_run_not_scheduled"


SETTINGS = ("TimeZone", "DateStyle", "IntervalStyle", "search_path", "lock_timeout")


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("scope", ["session", "local"])
def test_the_caller_s_settings_count_for_the_caller_and_results_are_in_utc(
    callers_connection: DriverConnection, autocommit: bool, scope: str
) -> None:
    callers_connection.autocommit = autocommit
    with callers_connection.cursor() as cursor:
        if scope == "local" and autocommit:
            cursor.execute("begin")
        for name, value in {
            "TimeZone": "America/New_York",
            "DateStyle": "SQL, DMY",
            "IntervalStyle": "iso_8601",
        }.items():
            cursor.execute("select set_config(%s, %s, %s)", (name, value, scope == "local"))
    before = {name: asked(callers_connection, f"show {name}") for name in SETTINGS}
    backend = SchedulerBackend(callers_connection)

    backend.create_task_type(a_type(default_interval=timedelta(days=1, seconds=7)))
    # Over the night in which New York's clocks change: a day is 24 hours to us.
    night = datetime(2026, 3, 8, 0, tzinfo=UTC)
    task = run_of_a_task(backend, next_run=night - timedelta(days=10))
    backend.end_task_run("run-1", "eventful", timestamp=night)
    ended = backend.get_tasks([task["id"]])[0]
    with pytest.raises(InvalidArgument):
        backend.schedule_task_run(task["id"], "run-1")

    assert ended["current_interval"] == timedelta(hours=12, seconds=3.5)
    assert ended["next_run"] == night + timedelta(hours=12, seconds=3.5)
    assert ended["next_run"].utcoffset() == timedelta(0)
    assert {name: asked(callers_connection, f"show {name}") for name in SETTINGS} == before


def test_a_day_has_24_hours_in_every_time_zone(callers_connection: DriverConnection) -> None:
    asked(callers_connection, "select set_config('TimeZone', 'America/New_York', false)")
    backend = SchedulerBackend(callers_connection)
    backend.create_task_type(a_type(backoff_factor=1.0))
    task = run_of_a_task(backend)
    before_the_change = datetime(2026, 3, 8, 5, tzinfo=UTC)

    backend.end_task_run("run-1", "eventful", timestamp=before_the_change)

    assert backend.get_tasks([task["id"]])[0]["next_run"] == before_the_change + timedelta(days=1)


def test_values_are_read_as_ours_whatever_the_caller_registered(database_url: str) -> None:
    strange = psycopg2.extensions.new_type((20, 25, 114, 1184, 1186, 3802), "STRANGE", lambda value, _: f"<{value}>")
    with closing(psycopg2.connect(database_url, cursor_factory=psycopg2.extras.RealDictCursor)) as conn:
        psycopg2.extensions.register_type(strange, conn)
        backend = SchedulerBackend(conn)
        backend.create_task_type(a_type())
        [task] = backend.create_tasks([a_task(arguments={"args": [1.5, None], "kwargs": {"é": ["x"]}})])
        lister = backend.get_or_create_lister("github")
        assert lister.id is not None
        backend.record_listed_origins([ListedOrigin(lister.id, "https://a.example", "git")])
        backend.origin_visit_stats_upsert([OriginVisitStats("https://a.example", "git", last_snapshot=b"\0\1")])

        with SchedulerBackend(database_url) as plain:
            conn.commit()
            assert backend.get_task_types() == plain.get_task_types()
            assert backend.get_tasks([task["id"]]) == plain.get_tasks([task["id"]])
            assert backend.get_listers() == plain.get_listers()
            assert backend.get_listed_origins() == plain.get_listed_origins()
            keys = [("https://a.example", "git")]
            assert backend.origin_visit_stats_get(keys) == plain.origin_visit_stats_get(keys)
        assert asked(conn, "select cast(7 as bigint)") == "<7>", "the caller reads as before"


def test_readers_registered_for_all_connections_do_not_reach_ours(backend: SchedulerBackend, database_url: str) -> None:
    backend.create_task_type(a_type())
    [task] = backend.create_tasks([a_task()])
    kept = dict(psycopg2.extensions.string_types)  # type: ignore[attr-defined]
    strange = psycopg2.extensions.new_type((20, 25, 114, 1184, 1186, 3802), "STRANGE", lambda value, _: f"<{value}>")
    try:
        psycopg2.extensions.register_type(strange)
        with SchedulerBackend(database_url) as other:
            assert other.get_tasks([task["id"]]) == [task]
            assert other.get_task_types() == [a_type()]
    finally:
        psycopg2.extensions.string_types.clear()  # type: ignore[attr-defined]
        psycopg2.extensions.string_types.update(kept)  # type: ignore[attr-defined]


def test_closing_leaves_the_caller_s_connection_open(callers_connection: DriverConnection) -> None:
    with SchedulerBackend(callers_connection) as backend:
        backend.create_task_type(a_type())

    assert not callers_connection.closed
    assert asked(callers_connection, "select count(*) from task_type") == 1


def test_notices_are_left_to_the_caller(callers_connection: DriverConnection) -> None:
    asked(callers_connection, "do $$ begin raise notice 'theirs'; end $$; select 1")

    SchedulerBackend(callers_connection).get_task_types()

    assert any("theirs" in notice for notice in callers_connection.notices)


@pytest.mark.parametrize("state", ["closed", "failed", "busy", "asynchronous"])
def test_a_connection_that_can_t_be_used_is_said_so(database_url: str, state: str) -> None:
    with closing(psycopg2.connect(database_url, async_=1 if state == "asynchronous" else 0)) as conn:
        if state == "asynchronous":
            with pytest.raises(ConnectionUnusable, match="asynchronous"):
                SchedulerBackend(conn)
            return
        backend = SchedulerBackend(conn)
        if state == "closed":
            conn.close()
        if state == "failed":
            with pytest.raises(psycopg2.errors.DivisionByZero):
                asked(conn, "select 1 / 0")

        if state == "busy":
            with conn.cursor() as cursor:
                # The callback of a copy runs while the connection is in the middle of it.
                errors: list[str] = []

                class Sink:
                    def write(self, _: str) -> None:
                        with pytest.raises(ConnectionUnusable) as caught:
                            backend.get_task_types()
                        errors.append(str(caught.value))

                cursor.copy_expert("copy (select 1) to stdout", Sink())
            assert [re.search("middle of another statement", error) for error in errors] != []
        else:
            with pytest.raises(ConnectionUnusable, match={"closed": "closed", "failed": "roll it back"}[state]):
                backend.get_task_types()
        if state == "failed":
            conn.rollback()
            assert backend.get_task_types() == []


def test_a_caller_s_connection_that_breaks_is_not_replaced(database_url: str) -> None:
    with closing(psycopg2.connect(database_url)) as conn:
        backend = SchedulerBackend(conn)
        backend.create_task_type(a_type())
        databases.execute(database_url, f"select pg_terminate_backend({conn.info.backend_pid})")

        with pytest.raises(DatabaseUnavailable, match="connection"):
            backend.get_task_types()
        with pytest.raises(ConnectionUnusable, match="closed"):
            backend.get_task_types()
    assert types(database_url) == []


def test_threads_take_turns_on_one_connection(callers_connection: DriverConnection) -> None:
    backend = SchedulerBackend(callers_connection)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: backend.create_task_type(a_type(f"type-{n:02}")), range(40)))

    assert [found["type"] for found in backend.get_task_types()] == [f"type-{n:02}" for n in range(40)]


def test_everything_works_on_a_connection_of_the_caller_s(callers_connection: DriverConnection) -> None:
    """A way through the whole backend, in one transaction that is rolled back in the end."""
    backend = SchedulerBackend(callers_connection)
    backend.create_task_type(a_type())
    task = run_of_a_task(backend)
    lister = backend.get_or_create_lister("forge")
    assert lister.id is not None
    backend.record_listed_origins([ListedOrigin(lister.id, "https://a.example", "git", last_update=NOW)])
    assert [o.url for o in backend.grab_next_visits("git", 5, "never_visited_oldest_update_first")] == [
        "https://a.example"
    ]
    [metrics] = backend.update_metrics()
    assert metrics.origins_known == 1
    backend.end_task_run("run-1", "permfailed", result=json.loads('{"a": 1}'))
    page = backend.filter_task_to_archive("2026-01-01", "2027-01-01")["tasks"]
    assert [row["task_id"] for row in page] == [task["id"]]
    backend.delete_archived_tasks(page)
    assert backend.search_tasks() == []

    callers_connection.rollback()
    assert backend.get_listers() == []
