"""A schema that is found before ours changes nothing: our names mean our tables."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import psycopg2.extensions
import psycopg2.sql
import pytest
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.db import migrate
from swh_sched_runner.db.engine import Database, create_engine
from swh_sched_runner.exc import InvalidArgument
from swh_sched_runner.model import ListedOrigin
from tests.support.processes.programs import Programs
from tests.support.samples import NOW, a_type, run_of_a_task
from tests.support.servers import databases

pytestmark = pytest.mark.slow

DECOYS = (
    "task_type",
    "task",
    "task_run",
    "listers",
    "listed_origins",
    "origin_visit_stats",
    "dispatcher_session",
    "swh_sched_runner_version",
)


def decoyed(url: str, schema: str) -> None:
    """Tables of our names and of no use, in that schema, with a row that must never be seen."""
    for name in DECOYS:
        databases.execute(url, f'create table "{schema}".{name} as select 1 as decoy')


def untouched(url: str, schema: str) -> bool:
    with closing(psycopg2.connect(url)) as conn, conn.cursor() as cursor:
        for name in DECOYS:
            cursor.execute(psycopg2.sql.SQL("select * from {}").format(psycopg2.sql.Identifier(schema, name)))
            if cursor.fetchall() != [(1,)]:
                return False
        cursor.execute("select count(*) from pg_tables where schemaname = %s", (schema,))
        return cursor.fetchone() == (len(DECOYS),)


@pytest.fixture
def role(postgresql_url: str) -> Iterator[str]:
    name = f"sched_{uuid.uuid4().hex[:8]}"
    databases.execute(postgresql_url, f"create role {name} login superuser")
    yield name
    databases.execute(postgresql_url, f"drop role {name}")


@pytest.fixture
def url(database_url: str, role: str) -> Iterator[str]:
    """A migrated database, for a role that has a schema of its own name with tables of our names."""
    databases.execute(database_url, f"create schema {role}")
    decoyed(database_url, role)
    own = psycopg2.extensions.make_dsn(database_url, user=role)
    with closing(psycopg2.connect(own)) as conn, conn.cursor() as cursor:
        cursor.execute("select decoy from task")  # what the role sees by itself
        assert cursor.fetchall() == [(1,)]
    yield own
    assert untouched(database_url, role)
    databases.execute(database_url, f"drop schema {role} cascade")


def a_way_through(backend: SchedulerBackend) -> None:
    """Writes and reads of all packages of the backend."""
    backend.create_task_type(a_type())
    task = run_of_a_task(backend)
    assert backend.get_tasks([task["id"]]) == [task]
    lister = backend.get_or_create_lister("forge")
    assert lister.id is not None
    backend.record_listed_origins([ListedOrigin(lister.id, "https://a.example", "git", last_update=NOW)])
    assert len(backend.grab_next_visits("git", 5, "never_visited_oldest_update_first")) == 1
    backend.end_task_run("run-1", "eventful")
    assert [run["status"] for run in backend.get_task_runs([task["id"]])] == ["eventful"]
    with pytest.raises(InvalidArgument):
        backend.schedule_task_run(task["id"], "run-1")
    assert len(backend.get_listers()) == 1


def test_it_changes_nothing_for_a_pool(url: str) -> None:
    with SchedulerBackend(url) as backend:
        a_way_through(backend)


def test_it_changes_nothing_for_services(url: str) -> None:
    database = Database(create_engine(url))
    database.run(migrate.require)
    dispatch = Dispatch(database)
    session = dispatch.open_session()
    session.check()
    assert dispatch.ready_snapshot([]).groups == []
    session.close()
    database.close()


@pytest.mark.parametrize("names", ["session", "pooler"])
def test_each_transaction_and_each_read_is_pinned(url: str, role: str, names: str) -> None:
    # given a session of the pool whose search_path is another one's, as behind a pooler
    database = Database(create_engine(url, 1, 1))
    path = text("select current_setting('search_path')")
    if names == "pooler":
        with database.engine.connect() as conn:
            conn.execute(text(f"set session search_path = {role}"))
            conn.commit()

    assert database.run(lambda conn: conn.execute(path).scalar_one()) == "public, pg_temp"
    assert database.read(lambda conn: [conn.execute(path).scalar_one() for _ in range(2)]) == ["public, pg_temp"] * 2
    many = text("insert into task_type (type, description, backend_name) values (:name, 'd', 'b')")
    database.run(lambda conn: conn.execute(many, [{"name": "a"}, {"name": "b"}]))
    with SchedulerBackend(url) as backend:
        assert [found["type"] for found in backend.get_task_types()] == ["a", "b"]
    database.close()


def test_a_temporary_table_is_found_last(url: str) -> None:
    with closing(psycopg2.connect(url)) as conn, conn.cursor() as cursor:
        cursor.execute("create temporary table task_type as select 2 as decoy")
        assert SchedulerBackend(conn).get_task_types() == []
        cursor.execute("select decoy from task_type")
        assert cursor.fetchall() == [(2,)]


@pytest.mark.parametrize("mode", ["transaction", "autocommit", "begun by hand", "set for the transaction"])
def test_a_borrowed_connection_sees_our_tables_and_its_session_its_own(url: str, role: str, mode: str) -> None:
    with closing(psycopg2.connect(url)) as conn, conn.cursor() as cursor:
        conn.autocommit = mode in ("autocommit", "begun by hand")
        if mode == "begun by hand":
            cursor.execute("begin")
        if mode == "set for the transaction":
            cursor.execute(f"set local search_path = {role}, public")
        cursor.execute("show search_path")
        before = cursor.fetchone()

        a_way_through(SchedulerBackend(conn))

        cursor.execute("show search_path")
        assert cursor.fetchone() == before
        cursor.execute("select decoy from task")
        assert cursor.fetchall() == [(1,)]
        if mode == "begun by hand":
            cursor.execute("commit")
        elif mode != "autocommit":
            conn.commit()
        cursor.execute("show search_path")
        assert cursor.fetchone() == ('"$user", public',)


def test_migrations_make_our_tables_in_public(empty_database_url: str, role: str) -> None:
    databases.execute(empty_database_url, f"create schema {role}")
    decoyed(empty_database_url, role)
    engine = create_engine(psycopg2.extensions.make_dsn(empty_database_url, user=role))

    assert migrate.upgrade(engine)
    assert migrate.upgrade(engine) == []
    engine.dispose()

    assert untouched(empty_database_url, role)
    with SchedulerBackend(empty_database_url) as backend:
        a_way_through(backend)
    databases.execute(empty_database_url, f"reassign owned by {role} to current_user")


def test_the_script_for_a_dba_makes_our_tables_in_public(empty_database_url: str, role: str) -> None:
    databases.execute(empty_database_url, f"create schema {role}")
    decoyed(empty_database_url, role)
    with closing(psycopg2.connect(psycopg2.extensions.make_dsn(empty_database_url, user=role))) as conn:
        conn.autocommit = True
        with conn.cursor() as cursor:
            cursor.execute(migrate.as_sql())

    assert untouched(empty_database_url, role)
    with SchedulerBackend(empty_database_url) as backend:
        assert backend.get_task_types() == []
    databases.execute(empty_database_url, f"reassign owned by {role} to current_user")


def test_it_changes_nothing_for_commands(url: str, tmp_path: Path) -> None:
    programs = Programs(tmp_path, {"SWH_SCHED_RUNNER_DATABASE__URL": url})
    with SchedulerBackend(url) as backend:
        backend.create_task_type(a_type())
    assert programs.json("db", "status")["pending"] == []
    assert [found["type"] for found in programs.json("task-type", "list")] == ["load-git"]
