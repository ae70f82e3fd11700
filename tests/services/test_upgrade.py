"""A database of before 0009_standard_terms.sql is upgraded; the services then finish what was open."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import Connection, text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.session import SESSION_LOCK
from swh_sched_runner.db import connections, migrate
from swh_sched_runner.db.engine import Database, create_engine
from swh_sched_runner.exc import SchemaError
from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.listener.listener import Listener
from swh_sched_runner.services.service import Heartbeat
from tests.support.queues import ids_of, take
from tests.support.servers.migrations import bring_to
from tests.support.wait import until

QUEUE = "tests.load-git"
OLD_PROGRAM = "swh-sched-runner"  # what the connections of the release before are called
# Three runs of a runner that died: one confirmed, two in an open batch. A pause, a depth, a rejected event.
OPEN = text(
    """
    insert into task_type (type, description, backend_name, default_interval, num_retries)
    values ('load-git', 'Load', 'tests.load-git', '1 day', 3);
    insert into task (type, arguments, next_run, current_interval, status, retries_left)
    select 'load-git', jsonb_build_object('args', jsonb_build_array(), 'kwargs', jsonb_build_object('n', n)),
           now() - interval '1 hour', '1 day', 'next_run_scheduled', 3
    from generate_series(1, 3) as n;
    insert into task_run (task, backend_id, scheduled) select id, 'run-' || id, now() from task;
    update task t set run_id = r.id from task_run r where r.task = t.id;
    insert into dispatch_owner (host, pid, backend_pid) values ('gone', 1, 1);
    insert into dispatch_batch (owner, queue, runs)
    select o.id, 'tests.load-git', array_agg(r.id order by r.id)
    from dispatch_owner o, task_run r where r.id > 1 group by o.id;
    insert into dispatch_queue (queue, filled_by, filled, depth, drain_rate)
    select 'tests.load-git', id, now(), 1, 0.5 from dispatch_owner;
    insert into dispatch_queue (queue, paused, paused_by) values ('other', now(), 'ada');
    insert into event_set_aside (reason, body) values ('no JSON', 'x');
    """
)


@pytest.fixture
def old(empty_database_url: str) -> str:
    """A database at version 0008 with what a runner left behind."""
    engine = create_engine(empty_database_url)
    bring_to(engine, "0008")
    with engine.begin() as conn:
        conn.execute(OPEN)
    engine.dispose()
    return empty_database_url


@pytest.fixture
def database_url(old: str) -> str:
    """That database, upgraded."""
    assert migrate.upgrade(create_engine(old))[0] == "0009"
    return old


def test_services_finish_what_a_runner_of_the_release_before_left_open(
    make_runner: Callable[..., Runner],
    backend: SchedulerBackend,
    database: Database,
    app: Celery,
    listener: Listener,
    emit: Callable[..., None],
) -> None:
    # when
    make_runner().run_once(Heartbeat())
    # then the messages that were not confirmed are sent under their ids
    assert ids_of(take(app, QUEUE)) == ["run-2", "run-3"]
    assert rows(database, "select count(*) from dispatch_batch") == [(0,)]
    # when
    for task in (1, 2, 3):
        emit("task-succeeded", f"run-{task}", result="{'status': 'eventful'}")
    until(lambda: listener.run_once(Heartbeat()) and ended(backend) == ["eventful"] * 3)
    # then
    assert {task["status"] for task in backend.get_tasks([1, 2, 3])} == {"next_run_not_scheduled"}
    assert [queue.queue for queue in backend.get_controls().queues if queue.pause] == ["other"]
    assert rows(database, "select reason, body from rejected_event") == [("no JSON", b"x")]


def test_an_upgrade_is_refused_while_a_runner_of_the_release_before_lives(old: str) -> None:
    # given its session, which holds its lock
    with closing(connections.connect(old, application_name=OLD_PROGRAM)) as session:
        session.autocommit = True
        with session.cursor() as cursor:
            cursor.execute("update dispatch_owner set backend_pid = pg_backend_pid(), host = 'forge', pid = 71")
            cursor.execute("select pg_try_advisory_lock(%s, cast(id as int)) from dispatch_owner", [SESSION_LOCK])
        # when, then
        engine = create_engine(old)
        with pytest.raises(SchemaError, match=r"are at work, stop them first: runner on forge with pid 71$"):
            migrate.upgrade(engine)
        with engine.connect() as conn:
            assert migrate.current(conn) == "0008"
    until(lambda: migrates(old))


def test_an_upgrade_is_refused_while_a_listener_of_the_release_before_lives(old: str) -> None:
    with closing(connections.connect(old, application_name=OLD_PROGRAM)) as listener:
        process = listener.info.backend_pid
        with pytest.raises(SchemaError, match=rf"a listener or another program .*process {process} of PostgreSQL"):
            migrate.upgrade(create_engine(old))
    until(lambda: migrates(old))


def migrates(url: str) -> bool:
    """Whether nobody is in the way of the upgrade any more."""
    try:
        return bool(migrate.upgrade(create_engine(url)))
    except SchemaError:
        return False


def ended(backend: SchedulerBackend) -> list[str]:
    return [run["status"] for run in backend.get_task_runs([1, 2, 3])]


def rows(database: Database, statement: str) -> list[tuple[Any, ...]]:
    def read(conn: Connection) -> list[tuple[Any, ...]]:
        return [
            (*(bytes(v) if isinstance(v, memoryview) else v for v in row),) for row in conn.execute(text(statement))
        ]

    return database.read(read)
