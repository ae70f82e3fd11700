"""What a backend may be opened on, and whose a connection, its transaction and its settings are."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, timedelta

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import pytest
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.db.engine import Database, create_engine
from swh_sched_runner.exc import (
    ConnectionUnusable,
    DatabaseUnavailable,
    InvalidArgument,
    LockTimeout,
    StatementTimeout,
    UnknownTaskType,
)
from tests.support.samples import NOW, a_task, a_type, run_of_a_task
from tests.support.wait import until


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg2.extensions.connection]:
    with closing(psycopg2.connect(database_url)) as conn:
        yield conn


def status(conn: psycopg2.extensions.connection) -> int:
    return conn.info.transaction_status


@pytest.mark.parametrize("form", ["url", "sqlalchemy", "dsn"])
def test_a_url_and_a_connection_string_open_the_same_database(database_url: str, form: str) -> None:
    given = {
        "url": database_url,
        "sqlalchemy": database_url.replace("postgresql://", "postgresql+psycopg2://"),
        "dsn": psycopg2.extensions.make_dsn(database_url),
    }[form]

    with SchedulerBackend(given) as backend:
        backend.create_task_type(a_type())
        assert backend.get_task_types() == [a_type()]


@pytest.mark.parametrize("db", ["mysql://a:hunter2@b/c", "nonsense hunter2", None, 5])
def test_what_is_no_database_is_refused_without_repeating_it(db: object) -> None:
    with pytest.raises(InvalidArgument, match=r"^db: ") as caught:
        SchedulerBackend(db)  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("least", "most"), [(2, 1), (-1, 1), (0, 0), (1, "5")])
def test_sizes_of_the_pool_that_make_no_sense_are_refused(database_url: str, least: int, most: int) -> None:
    with pytest.raises(InvalidArgument, match="pool_conns"):
        SchedulerBackend(database_url, least, most)


# A connection of the caller's


def test_nothing_is_committed_or_rolled_back_for_the_caller(
    conn: psycopg2.extensions.connection, backend: SchedulerBackend
) -> None:
    theirs = SchedulerBackend(conn)
    with conn.cursor() as cursor:
        cursor.execute("create temporary table mine (n int)")
        theirs.create_task_type(a_type())
        with pytest.raises(UnknownTaskType):
            theirs.create_tasks([a_task(task_type="unknown")])
        cursor.execute("select count(*) from mine")  # an error of ours took back that call alone

        assert theirs.get_task_types() == [a_type()]
        assert backend.get_task_types() == []
        assert status(conn) == psycopg2.extensions.TRANSACTION_STATUS_INTRANS

    conn.rollback()
    assert theirs.get_task_types() == []
    conn.rollback()
    theirs.create_task_type(a_type())
    conn.commit()
    assert backend.get_task_types() == [a_type()]


def test_in_autocommit_mode_each_call_is_a_transaction(
    conn: psycopg2.extensions.connection, backend: SchedulerBackend
) -> None:
    conn.autocommit = True
    theirs = SchedulerBackend(conn)

    theirs.create_task_type(a_type())
    task = run_of_a_task(theirs, "run-1")
    theirs.end_task_run("run-1", "eventful", timestamp=NOW)

    assert backend.get_task_types() == [a_type()]
    assert backend.get_tasks([task["id"]])[0]["next_run"] == NOW + timedelta(hours=12)
    assert status(conn) == psycopg2.extensions.TRANSACTION_STATUS_IDLE
    assert conn.autocommit


def test_settings_cursors_and_readers_of_the_caller_stay_as_they_are(conn: psycopg2.extensions.connection) -> None:
    conn.cursor_factory = psycopg2.extras.RealDictCursor
    psycopg2.extras.register_default_jsonb(conn, loads=lambda value: f"raw {value}")
    with conn.cursor() as cursor:
        cursor.execute(
            "set timezone to 'Asia/Kolkata'; set datestyle to 'SQL, DMY'; set intervalstyle to 'sql_standard'"
        )
    theirs = SchedulerBackend(conn)
    theirs.create_task_type(a_type())

    [task] = theirs.create_tasks([a_task()])

    assert task["next_run"] == NOW
    assert task["next_run"].tzinfo == UTC or task["next_run"].utcoffset() == timedelta(0)
    assert task["current_interval"] == timedelta(days=1)
    assert task["arguments"]["kwargs"] == {"url": "https://forge.example/0"}
    with conn.cursor() as cursor:
        cursor.execute("select current_setting('timezone') as zone, '{}'::jsonb as json")
        assert dict(cursor.fetchone()) == {"zone": "Asia/Kolkata", "json": "raw {}"}


def test_closing_the_backend_leaves_the_connection_open(conn: psycopg2.extensions.connection) -> None:
    with SchedulerBackend(conn) as theirs:
        theirs.get_task_types()

    assert not conn.closed
    with conn.cursor() as cursor:
        cursor.execute("select 1")


def test_a_connection_that_can_t_be_used_is_said_so(conn: psycopg2.extensions.connection) -> None:
    theirs = SchedulerBackend(conn)
    with conn.cursor() as cursor, pytest.raises(psycopg2.Error):
        cursor.execute("nonsense")
    with pytest.raises(ConnectionUnusable, match="failed"):
        theirs.get_task_types()
    conn.rollback()
    assert theirs.get_task_types() == []

    conn.close()
    with pytest.raises(ConnectionUnusable, match="closed"):
        theirs.get_task_types()


# Waiting, threads, forks


def test_a_lock_that_is_not_to_be_had_ends_in_an_error_that_says_so(
    backend: SchedulerBackend, database_url: str, conn: psycopg2.extensions.connection
) -> None:
    backend.create_task_type(a_type())
    [task] = backend.create_tasks([a_task()])
    with conn.cursor() as cursor:
        cursor.execute("select id from task for update")
    impatient = SchedulerBackend.of(Database(create_engine(database_url, lock_timeout_seconds=0.1)))

    with pytest.raises(LockTimeout):
        impatient.disable_tasks([task["id"]])
    conn.rollback()
    impatient.disable_tasks([task["id"]])
    impatient.close()

    assert backend.get_tasks([task["id"]])[0]["status"] == "disabled"


def test_a_statement_that_takes_too_long_ends_in_an_error_that_says_so(database_url: str) -> None:
    database = Database(create_engine(database_url, statement_timeout_seconds=0.1))

    with pytest.raises(StatementTimeout):
        database.run(lambda conn: conn.execute(text("select pg_sleep(10)")))
    database.close()


def test_timeouts_of_the_connection_string_win(database_url: str) -> None:
    mark = "&" if "?" in database_url else "?"
    engine = create_engine(f"{database_url}{mark}options=-c%20lock_timeout%3D7s")

    with engine.connect() as conn:
        assert conn.execute(text("show lock_timeout")).scalar_one() == "7s"
        assert conn.execute(text("show timezone")).scalar_one() == "UTC"
    engine.dispose()


def test_a_commit_whose_answer_is_lost_is_not_tried_again(database: Database) -> None:
    def prepare(conn: object) -> None:
        for statement in (
            "create table lost (n int)",
            "create function die() returns trigger language plpgsql as "
            "$$ begin perform pg_terminate_backend(pg_backend_pid()); return null; end $$",
            "create constraint trigger die after insert on lost deferrable initially deferred "
            "for each row execute function die()",
        ):
            conn.execute(text(statement))  # type: ignore[attr-defined]

    tries: list[int] = []

    def work(conn: object) -> None:
        tries.append(1)
        conn.execute(text("insert into lost values (1)"))  # type: ignore[attr-defined]

    database.run(prepare)
    with pytest.raises(DatabaseUnavailable, match="lost during commit"):
        database.run(work)
    assert len(tries) == 1


def test_threads_share_a_backend(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(10):
                backend.create_tasks([a_task(number * 100 + turn)])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert errors == []
    assert len(backend.search_tasks()) == 160


def test_a_forked_child_has_connections_of_its_own(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type())
    mine = database.run(lambda conn: conn.execute(text("select pg_backend_pid()")).scalar_one())

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            theirs = database.run(lambda conn: conn.execute(text("select pg_backend_pid()")).scalar_one())
            os.write(writing, f"{theirs} {len(backend.get_task_types())}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    theirs, types = os.read(reading, 100).decode().split()
    os.waitpid(child, 0)

    assert int(theirs) != mine
    assert types == "1"
    again = database.run(lambda conn: conn.execute(text("select pg_backend_pid()")).scalar_one())
    assert again == mine  # the child's end did not end the parent's session
    until(lambda: backend.get_task_types() == [a_type()])
