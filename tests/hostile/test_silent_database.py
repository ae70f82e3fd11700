"""A connection to PostgreSQL that acknowledges everything and forwards nothing holds nobody up."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg2.extensions
import psycopg2.extras
import pytest
from amqp.exceptions import NotFound
from celery import Celery
from sqlalchemy import Connection, text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.factory import event_queue_name
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.db.connections import unhurried
from swh_sched_runner.db.deadline import NoAnswer, Watchdog, watchdog
from swh_sched_runner.db.engine import Database, create_engine
from swh_sched_runner.exc import DatabaseUnavailable, SessionLost
from swh_sched_runner.model import ListedOrigin
from tests.support.processes.programs import Programs, terminate
from tests.support.samples import NOW, a_task, a_type
from tests.support.servers import databases
from tests.support.servers.proxy import Proxy
from tests.support.wait import until

pytestmark = pytest.mark.slow

ONE = text("select 1")
# A statement may take 0.4 s here, so an answer is waited for 1.4 s; the watchdog looks each quarter of a second.
STATEMENT_SECONDS = 0.4
# What is not ended waits for ever, or for a minute. This leaves time to a machine that has other work.
IN_TIME_SECONDS = 20.0


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    proxy = Proxy(databases.proxied(database_url))
    yield proxy
    proxy.stop()


@pytest.fixture
def far_url(database_url: str, proxy: Proxy) -> str:
    """The database, through the proxy."""
    return psycopg2.extensions.make_dsn(database_url, host="127.0.0.1", port=proxy.port)


@pytest.fixture
def far(far_url: str) -> Iterator[Database]:
    database = Database(create_engine(far_url, statement_timeout_seconds=STATEMENT_SECONDS, connect_timeout=2))
    database.run(lambda conn: conn.execute(ONE))
    yield database
    with in_time():
        database.close()


@contextmanager
def in_time(seconds: float = IN_TIME_SECONDS) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


# What waits for an answer.


def a_statement(conn: Connection, silence: Callable[[], None]) -> None:
    silence()
    conn.execute(ONE)


def a_later_statement(conn: Connection, silence: Callable[[], None]) -> None:
    conn.execute(ONE)
    silence()
    conn.execute(ONE)


def many_statements(conn: Connection, silence: Callable[[], None]) -> None:
    silence()
    conn.execute(text("select cast(:n as int)"), [{"n": 1}, {"n": 2}])


def a_commit(conn: Connection, silence: Callable[[], None]) -> None:
    conn.execute(ONE)
    silence()


def more_than_the_socket_takes(conn: Connection, silence: Callable[[], None]) -> None:
    silence()
    conn.execute(text("select length(:long)"), {"long": "x" * 30_000_000})


@pytest.mark.parametrize("answers", [True, False], ids=["the answer is lost", "all is lost"])
@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (a_statement, "no answer within [12] s"),
        (a_later_statement, "no answer within [12] s"),
        (many_statements, "no answer within [12] s"),
        (more_than_the_socket_takes, "no answer within [12] s"),
        (a_commit, "connection lost during commit: no answer within [12] s"),
    ],
)
def test_an_answer_that_does_not_come_is_an_error_in_time(
    far: Database, proxy: Proxy, work: Callable[..., None], reason: str, answers: bool
) -> None:
    silenced = []

    def silence() -> None:
        silenced.append(1)
        proxy.silence(only_answers=answers)

    # when, then: once, and not as often as it is tried where a connection breaks
    with in_time(), pytest.raises(DatabaseUnavailable, match=reason):
        far.run(work, silence)
    assert len(silenced) == 1
    # then: new connections are made
    assert far.run(lambda conn: conn.execute(ONE).scalar_one()) == 1


def test_a_read_that_is_not_answered_is_an_error_in_time(far: Database, proxy: Proxy) -> None:
    with in_time(), pytest.raises(DatabaseUnavailable, match="no answer within"):
        far.read(a_later_statement, proxy.silence)
    assert far.read(lambda conn: conn.execute(ONE).scalar_one()) == 1


def test_a_rollback_that_is_not_answered_is_an_error_in_time(far: Database, proxy: Proxy) -> None:
    def work(conn: Connection) -> None:
        conn.execute(ONE)
        proxy.silence()
        raise LookupError("of the caller's")

    with in_time(), pytest.raises(DatabaseUnavailable, match="no answer within"):
        far.run(work)
    assert far.run(lambda conn: conn.execute(ONE).scalar_one()) == 1


@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
def test_nobody_waits_for_long_to_be_let_in(far_url: str, proxy: Proxy, sslmode: str) -> None:
    proxy.silence(new_ones=True)
    database = Database(create_engine(far_url, connect_timeout=2, sslmode=sslmode))

    with in_time(), pytest.raises(DatabaseUnavailable, match="timeout expired"):
        database.run(lambda conn: conn.execute(ONE))


def test_a_session_that_falls_silent_while_it_is_prepared_is_given_up(far_url: str, proxy: Proxy) -> None:
    # given a server that lets us in and says no more: no limit for statements is known yet
    proxy.withhold(b"timezone")
    database = Database(create_engine(far_url, connect_timeout=2))

    with in_time(), pytest.raises(DatabaseUnavailable, match="no answer within 2 s"):
        database.run(lambda conn: conn.execute(ONE))


class FallsSilent(Proxy):
    """A server that gives so many answers to a client, and no more."""

    def __init__(self, url: str, answers: int) -> None:
        self._left = answers
        super().__init__(url)

    def answer(self, data: bytes) -> bytes:
        self._left -= 1
        if self._left < 0:
            self.silence()
            return b""
        return data


def test_whatever_is_asked_before_a_new_connection_is_used_is_waited_for_in_time(database_url: str) -> None:
    def connects(answers: int) -> bool:
        proxy = FallsSilent(databases.proxied(database_url), answers)
        far_url = psycopg2.extensions.make_dsn(database_url, host="127.0.0.1", port=proxy.port)
        database = Database(create_engine(far_url, statement_timeout_seconds=STATEMENT_SECONDS, connect_timeout=2))
        try:
            with in_time():
                return database.run(lambda _: True)
        except DatabaseUnavailable:
            return False
        finally:
            proxy.stop()

    # at once: each that fails waits for two seconds
    with ThreadPoolExecutor(max_workers=12) as pool:
        outcomes = list(pool.map(connects, range(12)))

    assert outcomes == sorted(outcomes)
    assert outcomes[0] is False
    assert outcomes[-1] is True


def test_a_cursor_of_the_drivers_own_is_waited_for_in_time(far: Database, proxy: Proxy) -> None:
    def work(conn: Connection, factory: type[psycopg2.extensions.cursor]) -> None:
        driver = conn.connection.dbapi_connection
        assert driver is not None
        with driver.cursor(cursor_factory=factory) as cursor:  # type: ignore[call-arg]
            cursor.execute("select 1 as n")
            assert cursor.fetchone()[0] == 1  # type: ignore[index]
            proxy.silence()
            cursor.execute("select 1")

    for factory in (psycopg2.extensions.cursor, psycopg2.extras.DictCursor):
        with in_time(), pytest.raises(NoAnswer):
            far.run(work, factory)


def test_beside_a_session_a_reading_changes_its_mode_without_asking_the_server(far: Database, proxy: Proxy) -> None:
    # given the connection that took the session's place in the pool, and came back to it
    session = Dispatch(far).open_session()
    far.run(lambda conn: conn.execute(text("select 1")).scalar_one())

    # when the server falls silent after the answer, then nothing waits for it
    def work(conn: Connection) -> int:
        answer = int(conn.execute(text("select 1")).scalar_one())
        proxy.silence()
        return answer

    assert far.read(work) == 1
    assert not proxy.lost
    session.close()


def test_a_session_that_is_silent_is_lost(far: Database, proxy: Proxy) -> None:
    session = Dispatch(far).open_session()
    session.check()
    proxy.silence()

    with in_time(), pytest.raises(SessionLost):
        session.check()
    with in_time():
        session.close()


def test_a_session_lets_go_of_a_silent_session_whatever_its_patience(far_url: str, proxy: Proxy) -> None:
    patient = Database(create_engine(far_url, statement_timeout_seconds=60))
    session = Dispatch(patient).open_session()
    proxy.silence()

    with in_time():
        session.close()
    patient.close()


def test_what_may_take_hours_is_not_cut_off(far: Database) -> None:
    with unhurried(far.engine) as conn:
        conn.execute(text("select pg_sleep(2)"))


def test_who_set_no_limit_waits_without_one(far_url: str, proxy: Proxy) -> None:
    database = Database(create_engine(far_url))
    assert database.run(lambda conn: conn.connection.dbapi_connection.patience_seconds) == float("inf")  # type: ignore[union-attr]
    database.close()


@pytest.mark.parametrize(("limit", "patience"), [("400ms", 1.4), ("8s", 10), ("20s", 25), ("10min", 605)])
def test_patience_follows_the_limit_that_is_in_force(far_url: str, limit: str, patience: float) -> None:
    dsn = psycopg2.extensions.make_dsn(far_url, options=f"-c statement_timeout={limit}")
    database = Database(create_engine(dsn, statement_timeout_seconds=1))
    found = database.run(lambda conn: conn.connection.dbapi_connection.patience_seconds)  # type: ignore[union-attr]
    assert found == pytest.approx(patience)
    database.close()


def test_a_transaction_that_was_cut_off_keeps_no_locks(far: Database, proxy: Proxy, database: Database) -> None:
    database.run(lambda conn: conn.execute(text("create table contended as select 1 as n")))

    def work(conn: Connection) -> None:
        conn.execute(text("update contended set n = 2"))
        proxy.silence()

    with pytest.raises(DatabaseUnavailable, match="during commit"):
        far.run(work)

    with in_time():
        database.run(lambda conn: conn.execute(text("update contended set n = 3")))


# The watchdog.


def test_a_process_that_is_to_stop_hardly_waits(far_url: str, proxy: Proxy) -> None:
    # given no limit at all
    database = Database(create_engine(far_url))
    # when, then: once an answer did not come, others are hardly waited for
    with watchdog.hurried():
        for seconds in (IN_TIME_SECONDS, 4.5, 4.5):  # the first is waited for 5 s
            with in_time(seconds), pytest.raises(DatabaseUnavailable, match="no answer"):
                database.run(a_later_statement, proxy.silence)


def test_a_forked_process_watches_for_itself(far: Database, proxy: Proxy) -> None:
    proxy.withhold(b"select 'lost'")
    with pytest.raises(DatabaseUnavailable, match="no answer"):
        far.run(lambda conn: conn.execute(text("select 'lost'")))

    child = os.fork()
    if child == 0:  # no place for pytest: it answers and is gone
        status = 1
        try:
            with suppress(DatabaseUnavailable):
                far.run(lambda conn: conn.execute(text("select 'lost'")))
                status = 2
            status = 0 if status == 1 else status
        finally:
            os._exit(status)

    with in_time():
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_nothing_is_started_before_there_is_a_deadline() -> None:
    assert Watchdog()._thread is None


# Programs.


@pytest.fixture
def programs(tmp_path: Path, far_url: str, rabbitmq_url: str) -> Iterator[Programs]:
    programs = Programs(
        tmp_path,
        {
            "SWH_SCHED_RUNNER_DATABASE__URL": far_url,
            "SWH_SCHED_RUNNER_BROKER__URL": rabbitmq_url,
            "SWH_SCHED_RUNNER_VISITS__GIT__PERIOD_SECONDS": "0.2",
            "SWH_SCHED_RUNNER_LOG__FORMAT": "json",
        },
    )
    yield programs
    programs.close()


class Work:
    """Something to do for each service, and whether it was done."""

    def __init__(self, backend: SchedulerBackend, broker: BrokerSettings) -> None:
        self._backend = backend
        self._broker = broker
        self._given = 0
        backend.create_task_type(a_type())
        self._lister = backend.get_or_create_lister("forge", "one").id

    def until_ready(self, programs: Programs, service: str) -> None:
        """Until the service runs, and the queue of the listener is there."""
        until(lambda: "ready" in programs.log(service), 30)
        if service == "listen":
            app = create_app(self._broker)
            until(lambda: self._has_queue(app), 30)
            app.close()

    def _has_queue(self, app: Celery) -> bool:
        with connect(app) as connection, suppress(NotFound):
            connection.default_channel.queue_declare(event_queue_name(app, self._broker), passive=True)
            return True
        return False

    def give(self, service: str) -> Callable[[], object]:
        self._given += 1
        return {"run": self._task, "listen": self._event, "visits": self._origin}[service](self._given)

    def _task(self, number: int) -> Callable[[], object]:
        [task] = self._backend.create_tasks([a_task(number)])
        return lambda: self._backend.get_tasks([task["id"]])[0]["status"] == "next_run_scheduled"

    def _event(self, number: int) -> Callable[[], object]:
        [task] = self._backend.create_tasks([a_task(number, next_run=NOW.replace(year=2999))])
        run = f"run-{number}"
        self._backend.schedule_task_run(task["id"], run, timestamp=NOW)
        said = {"type": "task-started", "uuid": run, "timestamp": NOW.timestamp(), "hostname": "w@h", "pid": 1}
        app = create_app(self._broker)
        with connect(app) as connection:
            channel = connection.default_channel
            channel.basic_publish_confirm(
                channel.prepare_message(json.dumps(said).encode(), content_type="application/json"),
                exchange="",
                routing_key=event_queue_name(app, self._broker),
            )
        app.close()
        return lambda: self._backend.get_task_runs([task["id"]])[0]["status"] == "started"

    def _origin(self, number: int) -> Callable[[], object]:
        url = f"https://forge.example/{number}"
        self._backend.record_listed_origins([ListedOrigin(lister_id=self._lister, url=url, visit_type="git")])
        stats = self._backend.origin_visit_stats_get
        return lambda: any(found.last_scheduled for found in stats([(url, "git")]))


@pytest.fixture
def work(backend: SchedulerBackend, rabbitmq_url: str) -> Work:
    return Work(backend, BrokerSettings(url=rabbitmq_url))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("service", ["run", "listen", "visits"])
def test_a_service_notices_a_silent_database_and_goes_on_by_itself(
    programs: Programs, proxy: Proxy, work: Work, service: str
) -> None:
    # given a service at work, whose statements may take two seconds
    programs.environment["SWH_SCHED_RUNNER_DATABASE__STATEMENT_TIMEOUT_SECONDS"] = "2"
    process = programs.start(service)
    work.until_ready(programs, service)
    until(work.give(service), 30)
    # when its connections fall silent
    proxy.silence()
    done = work.give(service)
    # then it says that it waits, and goes on over new ones
    until(lambda: "service waits" in programs.log(service), 15)
    until(done, 30)
    assert process.poll() is None
    assert terminate(process) == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("service", ["run", "listen", "visits"])
def test_a_service_that_waits_for_a_silent_database_obeys_sigterm(
    programs: Programs, proxy: Proxy, work: Work, service: str
) -> None:
    # given the timeouts that services have by themselves, and a service that waits for an answer
    process = programs.start(service)
    work.until_ready(programs, service)
    until(work.give(service), 30)
    proxy.silence(new_ones=True)
    work.give(service)
    until(lambda: proxy.lost, 30)
    # when, then
    with in_time():
        assert terminate(process) == 0


@pytest.mark.parametrize(
    ("command", "options"),
    [(("task", "list"), {}), (("run",), {"connect_timeout": "2"}), (("db", "status"), {"connect_timeout": "2"})],
)
def test_a_command_says_that_the_database_is_silent(
    programs: Programs, proxy: Proxy, command: tuple[str, ...], options: dict[str, str]
) -> None:
    programs.environment["SWH_SCHED_RUNNER_DATABASE__OPTIONS"] = json.dumps(options)
    proxy.silence(new_ones=True)

    with in_time():
        done = programs.run(*command)

    assert done.returncode == 69, done.stderr
    assert "The database can't be reached: " in done.stderr
    assert "timeout expired" in done.stderr
