"""Rows of workers' lives: written with the events that tell of them, listed, forgotten, removed."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import sqlalchemy
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.workers import lives
from swh_sched_runner.backend.workers.life import MAX_HOSTNAME
from swh_sched_runner.backend.workers.lives import Inspected
from swh_sched_runner.backend.workers.registry import Workers
from swh_sched_runner.broker.celery.events import (
    Event,
    TaskCancelled,
    TaskFailed,
    TaskReceived,
    TaskRejected,
    TaskResult,
    TaskRetried,
    TaskRevoked,
    TaskStarted,
    TaskSucceeded,
    Unreadable,
    WorkerHeartbeat,
    WorkerOffline,
    WorkerOnline,
    parse,
)
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import UnknownWorker, WorkerAlive
from swh_sched_runner.services.listener.merge import fold
from swh_sched_runner.services.listener.signs import signs_of
from tests.support.samples import a_type, run_of_a_task

AT = datetime.now(UTC).timestamp() - 100
names = itertools.count()


def an_event(cls: type[Any], second: float, life: str | None = None, host: str = "w1@here", **more: Any) -> Any:
    if life is not None:
        more["life"] = life
    return cls(timestamp=AT + second, hostname=host, **({"pid": 1, "clock": int(second)} | more))


def tell(database: Database, *events: Event | Unreadable) -> None:
    tasks = [event for event in events if hasattr(event, "uuid")]
    Dispatch(database).record_events(fold(tasks), (), signs_of(events))


def query(database: Database, statement: str, **binds: Any) -> list[tuple[Any, ...]]:
    with database.engine.connect() as conn:
        return [tuple(row) for row in conn.execute(text(statement), binds)]


def test_a_run_names_the_life_that_began_it_last(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type())
    run_of_a_task(backend)

    tell(database, an_event(TaskStarted, 1, "a", uuid="run-1"))
    tell(database, an_event(TaskStarted, 9, "b", uuid="run-1"))
    tell(database, an_event(TaskStarted, 5, "c", uuid="run-1"))

    assert query(database, "select w.life from task_run r join worker w on w.id = r.worker") == [("b",)]
    assert query(database, "select life, ended_by from worker order by began") == [
        ("a", "succeeded"),
        ("c", "succeeded"),
        ("b", None),
    ]


def test_foreign_starts_count_for_the_audit_too(database: Database) -> None:
    tell(database, an_event(WorkerOnline, 1, "a", processed=0))
    tell(database, an_event(TaskStarted, 2, "a", uuid="other"), an_event(TaskStarted, 3, "a", uuid="another"))

    assert query(database, "select recent_starts, events_clock, audit_from from worker") == [([2, 3], 3, 1)]


@pytest.mark.parametrize(
    ("event", "running"),
    [
        (partial(TaskSucceeded), 1),
        (partial(TaskFailed), 1),
        (partial(TaskRetried), 1),
        (partial(TaskRejected), 1),
        (partial(TaskCancelled), 1),
        (partial(TaskRevoked, terminated=True), 1),
        (partial(TaskRevoked, terminated=False), 2),  # it had not begun
        (partial(TaskResult, result=None), 2),  # its end is still to come
    ],
)
def test_ends_of_a_worker_that_shuts_down_are_counted_whosever_they_are(
    database: Database, event: Any, running: int
) -> None:
    tell(database, an_event(WorkerOnline, 1, "a", processed=0))
    Workers(database).record_answers([Inspected(1, "prefork", False, 60.0, ["q"])])
    tell(database, an_event(WorkerOffline, 5, "a", active=2))

    tell(database, an_event(event, 6, uuid="foreign"))

    assert query(database, "select left_running from worker") == [(running,)]


def test_ends_of_a_worker_that_goes_on_write_nothing_of_it(database: Database) -> None:
    tell(database, an_event(WorkerOnline, 1, "a", processed=0))
    before = query(database, "select ctid, xmin from worker")

    tell(database, an_event(TaskSucceeded, 6, uuid="foreign"))

    assert query(database, "select ctid, xmin from worker") == before


def test_an_idle_listener_compares_what_waited(database: Database) -> None:
    tell(database, an_event(WorkerOnline, 1, "a", processed=0))
    Workers(database).record_answers([Inspected(1, "prefork", False, 60.0, ["q"])])
    for clock in (3, 5):
        tell(database, an_event(WorkerHeartbeat, clock, "a", processed=2))
        Dispatch(database).compare_at_rest()
        assert query(database, "select sample_clock from worker") == [(clock,)]  # its starts may be on their way
        query_now(database, "update worker set sampled = sampled - interval '1 minute'")
        Dispatch(database).compare_at_rest()

    assert query(database, "select missing, unmatched, sample_clock from worker") == [(2, 2, None)]


def query_now(database: Database, statement: str) -> None:
    with database.engine.begin() as conn:
        conn.execute(text(statement))


def test_answers_are_kept_and_each_life_is_asked_once(database: Database) -> None:
    for host in ("w1@here", "w2@here"):
        tell(database, an_event(WorkerHeartbeat, 1, "a", host, processed=0))

    asked = Workers(database).uninspected()
    assert [(life.hostname, life.pid) for life in asked] == [("w1@here", 1), ("w2@here", 1)]
    Workers(database).record_answers([Inspected(asked[0].id, "solo", True, 60.0, ["a", "b"])])
    assert Workers(database).uninspected() == []  # a minute later the one that did not answer
    query_now(database, "update worker set inspected = inspected - interval '2 minutes'")

    assert [life.hostname for life in Workers(database).uninspected()] == ["w2@here"]
    # one that tells its pool and not its queues has not answered yet
    Workers(database).record_answers([Inspected(asked[1].id, "solo", True, 60.0, None)])
    query_now(database, "update worker set inspected = inspected - interval '2 minutes'")
    assert [life.hostname for life in Workers(database).uninspected()] == ["w2@here"]
    [first, _] = Workers(database).list()
    assert (first.pool, first.blocks, first.heartbeat, first.queues) == ("solo", True, 60.0, ["a", "b"])


def test_a_list_shows_what_each_life_executes(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type())
    for number, name in enumerate(("run-1", "run-2", "run-3")):
        run_of_a_task(backend, name, number=number)
        tell(database, an_event(TaskStarted, number + 1, "a", uuid=name))
    tell(database, an_event(TaskRetried, 10, uuid="run-2", exception="Busy()"))
    tell(database, an_event(TaskResult, 10, uuid="run-3", result=1))

    [life] = Workers(database).list()

    assert [(run["backend_id"], run["task_type"]) for run in life.executing] == [("run-1", "load-git")]
    assert life.executing[0]["seconds"] >= 90


def test_a_worker_that_shows_signs_of_life_is_forgotten_by_force_alone(database: Database) -> None:
    tell(database, an_event(WorkerHeartbeat, 1, "a", processed=0))

    with pytest.raises(WorkerAlive, match=r"w1@here gave a sign of life \d+ s ago"):
        Workers(database).forget("w1@here")
    with pytest.raises(UnknownWorker, match="nobody"):
        Workers(database).forget("nobody", force=True)
    assert query(database, "select ended from worker") == [(None,)]

    assert Workers(database).forget("w1@here", force=True) == 1
    assert query(database, "select ended_by from worker") == [("forgotten",)]
    with pytest.raises(UnknownWorker):
        Workers(database).forget("w1@here")


def test_a_silent_worker_may_be_forgotten(database: Database) -> None:
    tell(database, an_event(WorkerHeartbeat, 1, "a", processed=0))
    query_now(database, "update worker set last_sign = now() - interval '1 minute'")

    assert Workers(database).forget("w1@here") == 1


def test_lives_that_ended_go_unless_a_run_in_flight_names_them(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type())
    run_of_a_task(backend)
    tell(database, an_event(TaskStarted, 1, "named", uuid="run-1"), an_event(WorkerOnline, 1, "x", "gone", processed=0))
    tell(database, an_event(WorkerOnline, 50, "new"), an_event(WorkerOnline, 50, "new", "gone", processed=0))
    assert Workers(database).trim() == 0
    query_now(database, "update worker set ended = ended - interval '2 days'")

    assert Workers(database).trim() == 1
    assert {life for (life,) in query(database, "select life from worker")} == {"named", "new"}


HOSTILE = [
    b'{"type": "worker-heartbeat", "timestamp": 1, "hostname": "w1@here", "pid": 1, "clock": -5, "processed": 1}',
    b'{"type": "worker-heartbeat", "timestamp": 1, "hostname": "w1@here", "pid": 1, "clock": 5, "processed": -1}',
    b'{"type": "worker-heartbeat", "timestamp": 1, "hostname": "w1@here", "pid": 1, "clock": 5, "processed": 1e40}',
    b'{"type": "worker-heartbeat", "timestamp": 1, "hostname": "w1@here", "pid": -1, "clock": 5, "processed": 1}',
    b'{"type": "worker-heartbeat", "timestamp": 253402300799, "hostname": "w1@here", "pid": 1, "clock": 5}',
    b'{"type": "worker-heartbeat", "timestamp": 1, "hostname": "", "pid": 1, "clock": 5, "processed": 1}',
    b'{"type": "worker-heartbeat", "timestamp": 1, "hostname": "w1@here", "life": ["x"]}',
    b'{"type": "worker-online", "timestamp": 1, "hostname": "w1@here", "pid": 1, "clock": 1, "processed": 0}',
    b'{"type": "worker-offline", "timestamp": 0, "hostname": "w1@here", "pid": 1, "clock": 1, '
    b'"active": 9007199254740992}',
    b'{"type": "task-started", "uuid": "x", "timestamp": 0, "hostname": "w1@here", "pid": 1, '
    b'"clock": 9007199254740992}',
]


@pytest.mark.parametrize("body", HOSTILE)
def test_hostile_events_neither_block_nor_end_a_life(database: Database, body: bytes) -> None:
    tell(database, an_event(WorkerHeartbeat, 50, processed=9))

    tell(database, *parse(body))
    tell(database, an_event(WorkerHeartbeat, 52, processed=9))

    assert query(database, "select ended_by, processed from worker where pid = 1") == [(None, 9)]


def test_a_host_name_of_ten_kilobytes_is_cut(database: Database) -> None:
    name = "w" * 10_240

    tell(database, an_event(WorkerHeartbeat, 1, "a", name), an_event(TaskStarted, 2, "a", name, uuid="x"))

    assert query(database, "select length(hostname) from worker") == [(MAX_HOSTNAME,)]


def test_listeners_and_heartbeats_at_once_never_deadlock(
    backend: SchedulerBackend, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swh_sched_runner.db.engine.ATTEMPTS", 1)  # a deadlock that a retry hides would not be seen
    backend.create_task_type(a_type())
    runs = [f"run-{number}" for number in range(40)]
    for number, run in enumerate(runs):
        run_of_a_task(backend, run, number=number)
    hosts = [f"w{number}@here" for number in range(10)]
    together = threading.Barrier(5)

    def events(number: int) -> list[Any]:
        second = 1 + number // 2
        told: list[Any] = [an_event(WorkerHeartbeat, second, "a", host, processed=number) for host in hosts]
        if number % 2:
            told = [
                an_event(TaskStarted, second, "a", hosts[n % 10], uuid=run, clock=n + number)
                for n, run in enumerate(runs)
            ]
        return told if number % 3 else told[::-1]

    def work(number: int) -> None:
        together.wait()
        for step in range(4):
            if number == 4:
                Workers(database).uninspected()
                Dispatch(database).compare_at_rest()
            else:
                tell(database, *events(number + 4 * step))

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(work, range(5)))

    assert query(database, "select count(*), count(ended) from worker") == [(10, 0)]
    assert query(database, "select count(*) from task_run where worker is null") == [(0,)]


@pytest.mark.slow
@settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_order_of_runs_and_lives_with_copies_ends_in_one_state(
    backend: SchedulerBackend, database: Database, data: st.DataObject
) -> None:
    # given two tales of the same: a worker that was shut down at once, and came back to go on with some of its runs
    number = next(names)
    backend.create_task_type(a_type(f"type-{number}"))
    tales = []
    for variant in range(2):
        host = f"{number}-{variant}@here"
        runs = [f"{number}-{variant}-{n}" for n in range(RUNS)]
        for n, run in enumerate(runs):
            run_of_a_task(backend, run, number=10 * variant + n, task_type=f"type-{number}")
        tales.append((host, runs, a_tale(host, runs)))
    (_, _, in_order), (_, _, told) = tales
    shuffled = data.draw(st.permutations([*told, *data.draw(st.lists(st.sampled_from(told), max_size=4))]))
    cut = data.draw(st.integers(1, 20))
    # when
    tell(database, *in_order)
    for begin in range(0, len(shuffled), cut):
        tell(database, *shuffled[begin : begin + cut])
    # then
    plain, mixed = (state(database, host, runs) for host, runs, _ in tales)
    assert mixed == plain
    assert [row[2] for row in plain[:RUNS]] == [
        *("uneventful", "started", "started", "eventful", "failed", "failed", "failed")
    ]


RUNS = 7


def a_tale(host: str, runs: list[str]) -> list[Any]:
    """All that two lives of a worker tell of runs, of which no two end alike; one stays open, one waits."""
    ends, retried, _stays_open, corrected, given_back, terminated, cancelled = runs

    def of(cls: type[Any], second: float, run: str, life: str | None = None, **more: Any) -> Any:
        return an_event(cls, second, life, host, uuid=run, **more)

    tale = [an_event(WorkerOnline, 1, "a", host, processed=0)]
    for n, run in enumerate(runs):
        tale += [
            of(TaskReceived, 2 + 3 * n, run, retries=0),
            of(TaskStarted, 3 + 3 * n, run, "a"),
            an_event(WorkerHeartbeat, 4 + 3 * n, "a", host, processed=n + 1),
        ]
    again = [retried, corrected, given_back, cancelled]
    for n, run in enumerate(again):
        tale += [of(TaskReceived, 41 + 2 * n, run, retries=0), of(TaskStarted, 42 + 2 * n, run, "b")]
    return [
        *tale,
        of(TaskSucceeded, 30, ends, runtime=1.0),
        of(TaskResult, 31, ends, result=False),
        of(TaskFailed, 32, corrected, exception="WorkerLostError()", traceback="…"),
        of(TaskRejected, 33, given_back, requeue=True),
        of(TaskRevoked, 34, terminated, terminated=True, signum=15, expired=False),
        of(TaskCancelled, 35, cancelled),
        an_event(WorkerOffline, 36, "a", host, processed=RUNS, active=0),
        an_event(WorkerOnline, 40, "b", host, processed=0),
        an_event(WorkerHeartbeat, 50, "b", host, processed=len(again), active=len(again)),
        of(TaskRetried, 51, retried, exception="Busy()"),
        of(TaskResult, 52, corrected, result=True),
        of(TaskFailed, 53, given_back, exception="E()", traceback="…"),
        of(TaskRejected, 54, given_back, requeue=False),
        of(TaskResult, 55, cancelled, result={"status": "failed", "error": "E()"}),
        an_event(WorkerOffline, 56, "b", host, processed=len(again), active=0),
    ]


def state(database: Database, host: str, runs: list[str]) -> list[Any]:
    of_runs = query(
        database,
        "select r.started, r.ended, r.status, r.metadata - array['worker'], r.begun, r.waits_since, w.life, "
        "t.status, t.retries_left, t.next_run, t.current_interval "
        "from task_run r join task t on t.id = r.task left join worker w on w.id = r.worker "
        "where backend_id = any(:runs) order by backend_id",
        runs=runs,
    )
    of_lives = query(
        database,
        "select life, began, signed, online, offline, offline_active, clock, processed, events_clock, ended_by "
        "from worker where hostname = :host order by began",
        host=host,
    )
    return [*of_runs, *of_lives]


def test_several_hundred_workers_cost_one_transaction_of_few_statements(database: Database) -> None:
    beats = [an_event(WorkerHeartbeat, 1, "a", f"w{n}@here", processed=0) for n in range(300)]
    said = signs_of(beats)
    assert said is not None
    statements: list[str] = []
    sqlalchemy.event.listen(database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    database.run(lives.record, said)

    assert len(statements) == 4  # one at a time, rows, now, write
    assert query(database, "select count(*) from worker") == [(300,)]


def test_what_does_not_change_is_not_written(database: Database) -> None:
    event = an_event(TaskStarted, 5, "a", uuid="x")
    tell(database, event)
    before = query(database, "select xmin, ctid from worker")

    tell(database, event)

    assert query(database, "select xmin, ctid from worker") == before
