"""Connections and transactions."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.db import engine as engine_module
from swh_sched_runner.db.engine import Database, create_engine
from swh_sched_runner.exc import DatabaseUnavailable, StatementRefused
from tests.support.samples import a_type
from tests.support.wait import until


def kill_all(database_url: str) -> None:
    """End every other session of the database."""
    engine = create_engine(database_url)
    with engine.connect() as conn:
        conn.execute(
            text(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
        )
    engine.dispose()


def test_a_dropped_connection_is_replaced_without_the_caller_seeing_it(
    backend: SchedulerBackend, database_url: str
) -> None:
    backend.create_task_type(a_type())
    kill_all(database_url)

    assert backend.get_task_types() == [a_type()]


def test_a_full_pool_waits_for_a_free_connection(database_url: str) -> None:
    database = Database(create_engine(database_url, 1, 1))
    entered, release = threading.Event(), threading.Event()

    def hold(conn: Connection) -> None:
        entered.set()
        release.wait(30)

    holder = threading.Thread(target=database.run, args=(hold,))
    waiter = threading.Thread(target=database.run, args=(lambda conn: conn.execute(text("select 1")),))
    holder.start()
    assert entered.wait(30)
    waiter.start()
    waiter.join(0.2)
    assert waiter.is_alive()

    release.set()
    holder.join(30)
    waiter.join(30)
    assert not waiter.is_alive()
    database.close()


def test_a_transient_error_tries_the_whole_transaction_again(database: Database) -> None:
    tries: list[int] = []

    def work(conn: Connection) -> str:
        tries.append(1)
        conn.execute(text("create table if not exists tried (n int)"))
        conn.execute(text("insert into tried values (1)"))
        if len(tries) < 3:
            conn.execute(text("do $$ begin raise exception 'on purpose' using errcode = '40P01'; end $$"))
        return "done"

    assert database.run(work) == "done"
    assert len(tries) == 3
    assert database.run(lambda conn: conn.execute(text("select count(*) from tried")).scalar()) == 1


def test_an_error_that_no_try_helps_comes_at_once_without_the_parameters(database: Database) -> None:
    tries: list[int] = []

    def work(conn: Connection) -> None:
        tries.append(1)
        conn.execute(text("select cast(:secret as int)"), {"secret": "hunter2"})

    with pytest.raises(StatementRefused) as caught:
        database.run(work)
    assert len(tries) == 1
    assert caught.value.__cause__ is not None
    assert "parameters" not in str(caught.value)


def test_an_error_takes_everything_back(database: Database) -> None:
    def work(conn: Connection) -> None:
        conn.execute(text("create table half_done (n int)"))
        raise KeyError("on purpose")

    with pytest.raises(KeyError):
        database.run(work)
    assert database.run(lambda conn: conn.execute(text("select to_regclass('half_done')")).scalar()) is None


def test_after_a_read_its_connection_serves_transactions_again(database_url: str) -> None:
    database = Database(create_engine(database_url, 1, 1))

    def fail(conn: Connection) -> None:
        assert not conn.execute(text("select 1 / 0")).all()

    def write(conn: Connection) -> None:
        conn.execute(text("create table half_done (n int)"))
        raise KeyError("on purpose")

    session = database.read(lambda conn: conn.execute(text("select pg_backend_pid()")).scalar())
    with pytest.raises(StatementRefused):
        database.read(fail)
    with pytest.raises(KeyError):
        database.run(write)

    found = database.read(lambda conn: conn.execute(text("select pg_backend_pid(), to_regclass('half_done')")).one())
    assert tuple(found) == (session, None)
    database.close()


def test_a_read_whose_session_ends_is_done_again_on_another(database: Database) -> None:
    sessions: list[int] = []

    def work(conn: Connection) -> int:
        sessions.append(conn.execute(text("select pg_backend_pid()")).scalar_one())
        if len(sessions) == 1:
            conn.execute(text("select pg_terminate_backend(pg_backend_pid())"))
        return sessions[-1]

    assert database.read(work) == sessions[1] != sessions[0]


def test_a_database_that_can_t_be_reached_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "ATTEMPTS", 2)
    database = Database(create_engine("postgresql://nobody:hunter2@127.0.0.1:1/none"))

    with pytest.raises(DatabaseUnavailable, match="Connection refused") as caught:
        database.run(lambda conn: None)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_timestamps_are_read_in_utc_whatever_the_server_s_zone(database_url: str, zone: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as conn:
        conn.execute(text(f"alter role current_user set timezone = '{zone}'"))
        conn.commit()
    engine.dispose()
    try:
        fresh = create_engine(database_url)
        with fresh.connect() as conn:
            timestamp = conn.execute(text("select now()")).scalar_one()
        fresh.dispose()
        assert timestamp.tzinfo is not None
        assert timestamp.utcoffset() == datetime.now(UTC).utcoffset()
    finally:
        engine = create_engine(database_url)
        with engine.connect() as conn:
            conn.execute(text("alter role current_user reset timezone"))
            conn.commit()
        engine.dispose()


def test_closing_a_backend_closes_its_connections(database_url: str, database: Database) -> None:
    def others() -> int:
        count = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        return int(database.run(lambda conn: conn.execute(text(count)).scalar_one()))

    with SchedulerBackend(database_url) as backend:
        backend.get_task_types()
        assert others() == 1
    until(lambda: others() == 0)
