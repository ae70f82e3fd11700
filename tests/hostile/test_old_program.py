"""The program that had an adopted database before goes on reading it, and what it writes is found and mended."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from sqlalchemy import Engine, event, text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.inspection import check
from swh_sched_runner.backend.tasks.tasks import CREATION_LOCK
from swh_sched_runner.backend.wake import SLEEP_LOCK
from swh_sched_runner.db.adopt import compat, migrations
from swh_sched_runner.db.engine import Database, connect, create_engine
from swh_sched_runner.db.queries import Queries, read
from swh_sched_runner.embedded.postgres import Postgres
from swh_sched_runner.model import VisitOutcome
from tests.cli.conftest import ROOT, Outcome, Run
from tests.conftest import skip_or_fail
from tests.support.origins import a_lister, an_origin, an_outcome, mirrors_that_lie
from tests.support.processes import old_program
from tests.support.processes.releases import ReleaseMissing
from tests.support.samples import NOW, a_task, a_type
from tests.support.servers import databases, foreign

pytestmark = pytest.mark.slow

TABLES = [
    "task_type",
    "task",
    "task_run",
    "listers",
    "listed_origins",
    "origin_visit_stats",
    "visit_scheduler_queue_position",
    "scheduler_metrics",
]
# Answers of the old program without the one setting: what it builds of `select *`.
BROKEN = {
    "search_tasks",
    "search_tasks, all filters",
    "peek_ready_tasks",
    "peek_ready_priority_tasks",
    "get_task_runs",
    "get_task_runs, some",
}
AT_ONCE = timedelta(0)


@pytest.fixture(scope="session")
def old_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a database ``old`` that the old program made."""
    try:
        old_program.environment()
    except ReleaseMissing as error:
        skip_or_fail(str(error))
    binaries = old_program.system_binaries()
    if binaries is None:
        skip_or_fail("the old program needs a system's PostgreSQL with its extensions: apt install postgresql")
    folder = tmp_path_factory.mktemp("old")
    with Postgres(folder / "postgresql", binaries=binaries, fsync=False) as server:
        databases.execute(server.url(), "create database old")
        old_program.make_database(databases.of(server.url(), "old"), folder)
        yield server.url()


@pytest.fixture
def old_url(old_server: str) -> Iterator[str]:
    """A database of the old program in which it has worked: types, tasks, listers, origins, visits."""
    with databases.created(old_server, f"old_{uuid.uuid4().hex[:12]}", "old") as url:
        written = old_program.call(url, "writes", compat=False)
        assert errors(written) == set()
        databases.execute(
            url,
            "insert into task_run (task, backend_id, scheduled, started, ended, metadata, status) "
            "values (1, 'past-1', '2026-02-01', '2026-02-01', '2026-02-02', '{\"a\": 1}', 'eventful'), "
            "(3, 'past-3', '2026-02-01', '2026-02-01', '2026-02-02', null, 'permfailed')",
        )
        yield url


@pytest.fixture
def adopted(old_url: str) -> Iterator[Engine]:
    """The same, adopted."""
    engine = create_engine(old_url)
    foreign.adopt(engine)
    yield engine
    engine.dispose()


def errors(answers: dict[str, Any]) -> set[str]:
    return {name for name, answer in answers.items() if isinstance(answer, dict) and "error" in answer}


def rows(engine: Engine, query: str) -> list[Any]:
    with engine.connect() as conn:
        return [tuple(row) for row in conn.execute(text(query))]


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as conn:
        for statement in statements:
            conn.exec_driver_sql(statement, execution_options={"no_parameters": True})


def columns(url: str, schema: str) -> dict[str, list[Any]]:
    with closing(connect(url)) as conn, conn.cursor() as cursor:
        cursor.execute(
            "select table_name, column_name, udt_name from information_schema.columns "
            "where table_schema = %s and table_name = any(%s) order by table_name, ordinal_position",
            [schema, TABLES],
        )
        found: dict[str, list[Any]] = {}
        for table, *column in cursor:
            found.setdefault(table, []).append(column)
        return found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the program on a database."""

    def run(url: str, *arguments: str) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "swh_sched_runner", "db", *arguments],
            env={
                "HOME": str(tmp_path),
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": str(ROOT),
                "SWH_SCHED_RUNNER_DATABASE__URL": url,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


# Views


def test_it_reads_what_it_read_before_the_adoption(old_url: str) -> None:
    before = old_program.call(old_url, "reads", compat=False)
    engine = create_engine(old_url)

    foreign.adopt(engine)
    engine.dispose()

    assert errors(before) == set()
    assert old_program.call(old_url, "reads") == before


def test_without_the_setting_what_it_builds_of_all_columns_breaks(old_url: str, adopted: Engine) -> None:
    assert errors(old_program.call(old_url, "reads", compat=False)) == BROKEN


def test_it_reads_after_every_migration(empty_database_url: str, old_server: str) -> None:
    url = empty_database_url
    files = migrations.files()
    since = files.index("0003_dispatch.sql") + 1  # from here on the tables have the columns of version 38
    engine = create_engine(url)
    execute(engine, "create table dbversion (version int)", "insert into dbversion values (38)")
    execute(engine, *[read("migrations", file) for file in files[:since]])
    with engine.begin() as conn:
        compat.make(conn)
    execute(
        engine,
        "insert into task_type (type, description, backend_name, default_interval) values ('old', '', 'q', '1 day')",
        "insert into task (type, arguments, next_run, current_interval, status, priority) "
        "select 'old', '{\"args\": [], \"kwargs\": {}}', '2026-03-01 12:00+00', '1 day', 'next_run_not_scheduled', p "
        "from unnest(array[null, 'high']::task_priority[]) as p",
        "insert into task_run (task, backend_id, scheduled, metadata) select id, 'run-' || id, now(), '{}' from task",
        "insert into listers (name, instance_name, current_state, updated) values ('old', 'here', '{}', now())",
        "insert into listed_origins (lister_id, url, visit_type, extra_loader_arguments, enabled, last_seen) "
        "select id, 'https://old.example/1', 'git', '{}', true, now() from listers",
        "insert into origin_visit_stats (url, visit_type, last_visit) values ('https://old.example/1', 'git', now())",
    )
    first = old_program.call(url, "reads")
    assert errors(first) == {"filter_task_to_archive"}  # a function of its own, which only its databases have

    for file in files[since:]:
        execute(engine, read("migrations", file))
        assert old_program.call(url, "reads") == first, file
    execute(engine, *[f"alter table {table} add column to_come text default 'x'" for table in TABLES])
    assert old_program.call(url, "reads") == first
    engine.dispose()


@pytest.mark.parametrize("version", range(33, 39))
def test_the_views_have_the_columns_of_its_version(empty_database_url: str, version: int) -> None:
    foreign.build(empty_database_url, version, rows=10)
    before = columns(empty_database_url, "public")
    engine = create_engine(empty_database_url)

    foreign.adopt(engine)
    engine.dispose()

    assert columns(empty_database_url, "swh_scheduler_compat") == before
    assert columns(empty_database_url, "public") != before


def test_it_may_write_types_tasks_listers_origins_and_statistics(old_url: str, adopted: Engine) -> None:
    execute(adopted, "truncate task_run, task, task_type, listers, listed_origins, origin_visit_stats, "
            "scheduler_metrics, visit_scheduler_queue_position restart identity cascade")  # fmt: skip

    written = old_program.call(old_url, "writes")

    assert errors(written) == set()
    assert [task["id"] for task in written["create_tasks"]] == [1, 2, 3, 4, 5]
    assert [task["id"] for task in written["create_tasks, duplicates"]] == [2]
    assert written["get_or_create_lister, again"]["id"] == written["get_or_create_lister"]["id"]
    assert [metrics["origins_known"] for metrics in written["update_metrics"]] == [6]
    assert [metrics["origins_with_pending_changes"] for metrics in written["update_metrics"]] == [0]
    with SchedulerBackend(old_url) as backend:
        assert {task["id"]: (task["status"], task["retries_left"]) for task in backend.search_tasks()} == dict.fromkeys(
            (1, 2, 4, 5, 6), ("next_run_not_scheduled", 2)
        ) | {3: ("disabled", 2)}
        assert len(backend.get_listed_origins().results) == 6


@pytest.mark.parametrize(
    "call",
    [
        "grab_ready_tasks",
        "grab_ready_priority_tasks",
        "schedule_task_run",
        "mass_schedule_task_runs",
        "start_task_run",
        "end_task_run",
    ],
)
def test_taking_and_ending_tasks_is_refused(call: str, refused: dict[str, Any]) -> None:
    assert "is refused: swh-sched-runner takes the tasks of this database" in refused[call]["error"]


@pytest.fixture(scope="module")
def refused(old_server: str) -> Iterator[dict[str, Any]]:
    """What the old program's runner and listener are answered."""
    with databases.created(old_server, f"old_{uuid.uuid4().hex[:12]}", "old") as url:
        engine = create_engine(url)
        foreign.adopt(engine)
        engine.dispose()
        yield old_program.call(url, "writes", "decides")


def test_it_deletes_what_it_archived(old_url: str, adopted: Engine) -> None:
    with SchedulerBackend(old_url) as backend:
        assert [run["backend_id"] for run in backend.get_task_runs([1])] == ["past-1"]

        assert errors(old_program.call(old_url, "archives")) == set()

        assert backend.get_task_runs([1]) == []


def test_a_run_is_not_written_through_its_view(old_url: str, adopted: Engine) -> None:
    for statement in ("update swh_scheduler_compat.task_run set status = 'lost'",
                      "insert into swh_scheduler_compat.task_run (task) values (1)"):  # fmt: skip
        with pytest.raises(Exception, match="writing to task_run is refused"):
            execute(adopted, statement)


def test_its_change_of_a_task_is_an_operators(old_url: str, adopted: Engine) -> None:
    with SchedulerBackend(old_url) as backend:
        backend.schedule_task_run(2, "ours")

        old_program.call(old_url, "writes")  # sets the status of task 2 among others
        backend.end_task_run("ours", "failed")

        [task] = backend.get_tasks([2])
        assert (task["status"], task["next_run"]) == ("next_run_not_scheduled", NOW + timedelta(days=1))
        assert task["retries_left"] == 2


def test_its_tasks_wake_a_runner_that_sleeps(old_url: str, adopted: Engine) -> None:
    execute(adopted, "insert into dispatcher_session (host, pid, backend_pid, sleeps_until) "
            "values ('here', 1, 1, now() + interval '1 hour')")  # fmt: skip
    with closing(connect(old_url)) as conn:
        conn.set_session(autocommit=True)
        conn.cursor().execute("listen swh_sched_runner")

        old_program.call(old_url, "writes")

        conn.poll()
        assert conn.notifies


def test_the_keys_of_locks_are_those_of_the_program() -> None:
    assert str(SLEEP_LOCK) in Queries("db/compat").wake.text
    assert str(CREATION_LOCK) in Queries("db/compat").create_tasks.text


def test_equal_tasks_of_both_programs_at_once_are_one(old_url: str, adopted: Engine) -> None:
    callers, count = 3, 50
    start, ids = threading.Barrier(2 * callers), []

    def as_the_old_program() -> None:
        with closing(psycopg2.connect(f"{old_url}&options=-csearch_path%3Dswh_scheduler_compat,public")) as conn, conn:
            cursor = conn.cursor()
            cursor.execute("select swh_scheduler_mktemp_task()")
            lines = [f'old\t{{"args": [], "kwargs": {{"n": {n}}}}}\t2026-03-01\n' for n in range(count)]
            cursor.copy_expert("copy tmp_task (type, arguments, next_run) from stdin", StringIO("".join(lines)))
            start.wait()
            cursor.execute("select id from swh_scheduler_create_tasks_from_temp()")
            ids.extend(row[0] for row in cursor)

    def as_ours() -> None:
        tasks = [a_task(task_type="old", arguments={"args": [], "kwargs": {"n": n}}) for n in range(count)]
        with SchedulerBackend(old_url) as backend:
            start.wait()
            ids.extend(task["id"] for task in backend.create_tasks(tasks, "recurring"))

    threads = [threading.Thread(target=each) for each in (as_the_old_program, as_ours) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ids) == 2 * callers * count
    assert len(set(ids)) == count


def test_a_role_reads_the_views_of_the_tables_that_it_may_read(old_url: str) -> None:
    role = f"reader_{uuid.uuid4().hex[:8]}"
    databases.execute(old_url, f"create role {role} login; grant select on task, task_type to {role}")
    engine = create_engine(old_url)
    foreign.adopt(engine)
    try:
        reader = create_engine(psycopg2.extensions.make_dsn(old_url, user=role))
        assert rows(reader, "select count(*) from swh_scheduler_compat.task") == [(6,)]
        peek = "select id from swh_scheduler_compat.swh_scheduler_peek_no_priority_tasks('old')"
        assert rows(reader, peek) == [(1,), (4,), (6,), (2,)]
        with pytest.raises(Exception, match="permission denied for view task_run"):
            rows(reader, "select count(*) from swh_scheduler_compat.task_run")
        with pytest.raises(Exception, match="permission denied for view task"):
            execute(reader, "delete from swh_scheduler_compat.task")

        databases.execute(old_url, f"revoke all on task from {role}; grant select on task_run to {role}")
        with engine.begin() as conn:
            compat.make(conn)

        assert rows(reader, "select count(*) from swh_scheduler_compat.task_run") == [(2,)]
        with pytest.raises(Exception, match="permission denied for view task"):
            rows(reader, "select count(*) from swh_scheduler_compat.task")
        reader.dispose()
        engine.dispose()
    finally:
        databases.execute(old_url, f"drop owned by {role}; drop role {role}")


def test_the_views_are_dropped_and_made_again_in_place(adopted_database_url: str) -> None:
    engine = create_engine(adopted_database_url)
    before = foreign.parts(adopted_database_url)

    with engine.begin() as conn:
        assert compat.make(conn) == 38
    assert foreign.parts(adopted_database_url) == before

    with engine.begin() as conn:
        assert compat.drop(conn)
        assert not compat.drop(conn)
    assert [part for part in foreign.parts(adopted_database_url) if "swh_scheduler_compat" in part] == []
    with engine.begin() as conn:
        compat.make(conn)
    assert foreign.parts(adopted_database_url) == before
    engine.dispose()


# What it writes without the setting, and what SQL writes


def found(engine: Engine, **options: Any) -> dict[str, tuple[int, int | None]]:
    return {each.kind: (each.rows, each.mended) for each in check.check(Database(engine), **options)}


def repaired(engine: Engine) -> dict[str, tuple[int, int | None]]:
    return found(engine, repair=True, grace_period=AT_ONCE)


@pytest.fixture
def written(old_url: str, adopted: Engine) -> Engine:
    """An adopted database in which ours works, and to which the old program and SQL wrote each kind of rows."""
    with SchedulerBackend(old_url) as backend:
        for task in (1, 2, 6):
            backend.schedule_task_run(task, f"ours-{task}")
        [lister] = backend.get_listers()
        backend.record_listed_origins([an_origin(lister.id, url="https://old.example/3x")])
    assert errors(old_program.call(old_url, "later", compat=False)) == set()
    execute(
        adopted,
        "update task_run set status = 'eventful', ended = '2026-03-09 12:00+00' where backend_id = 'ours-2'",
        "insert into task_run (task, backend_id, started, status) values (3, 'endless', '2026-02-03', 'failed')",
        "insert into task_run (task, backend_id, ended, status) values (3, 'reopened', '2026-02-03', 'started')",
        "insert into task_run (task, backend_id) values (3, null)",
    )
    return adopted


def test_what_it_wrote_is_found_mended_and_then_not_found(written: Engine) -> None:
    wrong = {
        "origin_without_statistics": 2,  # 20 and 21, which it listed
        "origin_outdated": 1,  # 3x, whose visit it noted
        "statistics_hidden": 1,
        "run_without_timestamp": 1,
        "run_without_outcome": 1,
        "run_unreachable": 1,
        "task_decided": 1,  # 1, which it set back while a run of ours was open
        "task_unfollowed": 1,  # 4, whose run it opened
        "task_unmoved": 1,  # 2, whose run SQL ended
        "task_stuck": 1,  # 5, which it set in flight
    }
    assert set(wrong) == set(check.KINDS)

    assert found(written) == {kind: (rows, None) for kind, rows in wrong.items()}
    with written.connect() as conn:
        assert check.sample(conn) == wrong
    assert repaired(written) == {kind: (rows, rows) for kind, rows in wrong.items()}
    assert found(written) == {}
    with written.connect() as conn:
        assert check.sample(conn) == {}
    assert repaired(written) == {}


def test_what_was_mended_is_used_as_if_ours_had_written_it(old_url: str, written: Engine) -> None:
    repaired(written)

    day = timedelta(days=1)
    with SchedulerBackend(old_url) as backend:
        tasks = {task["id"]: task for task in backend.get_tasks(range(1, 7))}
        # 2: its end, eventful, half the interval; 5: waits again; 6, in flight for ours, was not touched.
        assert {number: task["status"] for number, task in tasks.items()} == {
            1: "next_run_not_scheduled",
            2: "next_run_not_scheduled",
            3: "disabled",
            4: "next_run_scheduled",
            5: "next_run_not_scheduled",
            6: "next_run_scheduled",
        }
        assert (tasks[2]["next_run"], tasks[2]["current_interval"]) == (NOW + 8 * day + day / 2, day / 2)
        backend.end_task_run("ours-1", "permfailed")
        backend.end_task_run("old-2", "uneventful", timestamp=NOW)
        [decided, followed] = backend.get_tasks([1, 4])
        assert decided["status"] == "next_run_not_scheduled"
        assert (followed["status"], followed["next_run"]) == ("next_run_not_scheduled", NOW + 2 * day)

        runs = {run["backend_id"]: run for run in backend.get_task_runs([3])}
        assert (runs["endless"]["status"], str(runs["endless"]["ended"])[:10]) == ("failed", "2026-02-03")
        assert (runs["reopened"]["status"], runs[None]["status"]) == ("lost", "lost")  # type: ignore[index]
        assert runs[None]["metadata"] == {  # type: ignore[index]
            "mended": "by db check: no event can end a run without a backend_id"
        }

        assert mirrors_that_lie(written) == []
        stats = backend.origin_visit_stats_get([("https://old.example/3x", "git"), ("https://old.example/20", "git")])
        assert [each.url for each in stats] == ["https://old.example/3x"]
        visits = backend.grab_next_visits("git", 100, "origins_without_last_update", timestamp=NOW)
        assert "https://old.example/20" in [origin.url for origin in visits]


def test_status_and_check_say_what_was_found_and_check_ends_with_1(old_url: str, written: Engine, run: Run) -> None:
    status, as_json = run(old_url, "status"), run(old_url, "status", "--json")
    checked = run(old_url, "check")
    mended = run(old_url, "check", "--repair", "--grace-period", "0")
    after, status_after = run(old_url, "check"), run(old_url, "status")

    assert (status.status, as_json.json["found"]["task_stuck"]) == (0, 1)
    assert "  listed origins without a row of statistics, so no policy chooses them: 2\n" in status.out
    assert "run `swh-sched-runner db check`" in status.out
    assert checked.status == 1
    assert "so no policy chooses them: 2 (git https://old.example/20, git https://old.example/21)\n" in checked.out
    assert "nothing was changed: --repair repairs them" in checked.out
    assert (mended.status, "  repaired 1: they can be dispatched again" in mended.out) == (0, True)
    assert (after.status, after.out) == (0, "nothing found\n")
    assert "in a sample" not in status_after.out


def test_the_views_are_made_and_dropped_by_a_command(old_url: str, adopted: Engine, run: Run) -> None:
    said = [run(old_url, "compat", *options).out for options in (["--drop"], ["--drop"], [])]

    assert said == [
        "dropped the schema swh_scheduler_compat\n",
        "there is no schema swh_scheduler_compat\n",
        "the schema swh_scheduler_compat has the views of version 38\n",
    ]
    assert errors(old_program.call(old_url, "reads")) == set()


def test_a_database_that_was_never_adopted_has_no_such_views(empty_database_url: str, run: Run) -> None:
    assert run(empty_database_url, "init").status == 0

    outcome = run(empty_database_url, "compat")

    assert (outcome.status, "it has no version in a table dbversion" in outcome.err) == (78, True)


def test_nothing_is_found_where_ours_alone_has_worked(database_url: str, engine: Engine) -> None:
    with SchedulerBackend(database_url) as backend:
        backend.create_task_type(a_type("load"))
        given = [a_task(task_type="load", arguments={"args": [n], "kwargs": {}}) for n in range(9)]
        tasks = backend.create_tasks(given)
        ids = [task["id"] for task in tasks]
        for number, status in enumerate(("eventful", "uneventful", "failed", "permfailed", "lost")):
            backend.schedule_task_run(ids[number], f"run-{number}")
            backend.start_task_run(f"run-{number}")
            backend.end_task_run(f"run-{number}", status)
        backend.schedule_task_run(ids[5], "old")
        backend.schedule_task_run(ids[5], "new")  # the older one stays open and moves nothing
        backend.schedule_task_run(ids[6], "decided")
        backend.set_status_tasks([ids[6]], status="disabled")
        lister = a_lister(backend)
        backend.record_listed_origins([an_origin(lister, number) for number in range(9)])
        backend.record_visit_outcomes([an_outcome(number) for number in range(5)])
        backend.grab_next_visits("git", 3, "oldest_scheduled_first")

    assert found(engine) == {}
    with engine.connect() as conn:
        assert check.sample(conn) == {}


def test_a_task_that_a_caller_has_just_grabbed_is_not_let_go(database_url: str, engine: Engine) -> None:
    with SchedulerBackend(database_url) as backend:
        backend.create_task_type(a_type("load"))
        backend.create_tasks([a_task(task_type="load", arguments={"args": [n], "kwargs": {}}) for n in range(2)])
        [scheduled, again] = [task["id"] for task in backend.grab_ready_tasks("load", timestamp=NOW, num_tasks=2)]
        waited = []

        def meanwhile(seconds: float) -> None:
            waited.append(seconds)
            backend.schedule_task_run(scheduled, "ours")
            backend.set_status_tasks([again], status="next_run_scheduled")

        outcome = found(engine, repair=True, pause=meanwhile)

        assert outcome == {"task_stuck": (2, 0)}
        assert 29 < waited[0] <= 30
        assert {task["status"] for task in backend.get_tasks([scheduled, again])} == {"next_run_scheduled"}
        assert repaired(engine) == {"task_stuck": (1, 1)}
        assert [task["status"] for task in backend.get_tasks([scheduled, again])] == [
            "next_run_scheduled",
            "next_run_not_scheduled",
        ]


def test_an_end_that_already_moved_its_task_is_not_applied_again(database_url: str, engine: Engine) -> None:
    with SchedulerBackend(database_url) as backend:
        backend.create_task_type(a_type("load"))
        [task] = backend.create_tasks([a_task(task_type="load")])
        backend.schedule_task_run(task["id"], "ours")
        backend.end_task_run("ours", "permfailed", timestamp=NOW)
        # The same without what ours notes, as a run that ended before the adoption.
        execute(engine, "update task_run set retries_before = null, interval_before = null, evidence = null")
        backend.set_status_tasks([task["id"]], status="next_run_scheduled", next_run=NOW + timedelta(hours=1))

        assert repaired(engine) == {"task_stuck": (1, 1)}

        assert backend.get_tasks([task["id"]])[0]["status"] == "next_run_not_scheduled"


def test_timestamps_that_python_has_not_are_no_obstacle(database_url: str, engine: Engine) -> None:
    with SchedulerBackend(database_url) as backend:
        backend.create_task_type(a_type("load"))
        [task] = backend.create_tasks([a_task(task_type="load")])
        backend.schedule_task_run(task["id"], "ours")
        execute(engine, "update task_run set status = 'eventful', ended = 'infinity'")

        assert repaired(engine) == {"task_unmoved": (1, 1)}

        assert backend.get_tasks([task["id"]])[0]["status"] == "next_run_not_scheduled"
    assert found(engine) == {}


def test_timestamps_that_no_index_holds_are_left_as_they_are(database_url: str, engine: Engine) -> None:
    with SchedulerBackend(database_url) as backend:
        lister = a_lister(backend)
        backend.record_listed_origins([an_origin(lister, number) for number in range(3)])
        backend.record_visit_outcomes([an_outcome(number) for number in range(3)])
        execute(
            engine,
            "update listed_origins set last_update = 'infinity', visit_last_successful = null where url like '%0'",
            "update origin_visit_stats set last_successful = '-infinity' where url like '%1'",
            "update listed_origins set visit_last_successful = null where url like '%1'",
        )
    assert found(engine) == {}


def test_many_rows_are_mended_a_page_at_a_time(database_url: str, engine: Engine) -> None:
    with SchedulerBackend(database_url) as backend:
        a_lister(backend)
    execute(
        engine,
        "insert into listed_origins (lister_id, url, visit_type, extra_loader_arguments, enabled, last_seen) "
        "select id, 'https://old.example/' || n, 'git', '{}', true, now() from listers, generate_series(1, 20000) as n",
    )
    statements = 0

    @event.listens_for(engine, "commit")
    def count(conn: Any) -> None:
        nonlocal statements
        statements += 1

    assert repaired(engine) == {"origin_without_statistics": (20_000, 20_000)}
    assert statements > 2
    assert found(engine) == {}


def test_it_is_mended_while_others_write_the_same_rows(old_url: str, written: Engine) -> None:
    over, failed = threading.Event(), []
    keys = [("https://old.example/20", "git"), ("https://old.example/21", "git"), ("https://old.example/3x", "git")]

    def visit() -> None:
        try:
            with SchedulerBackend(old_url) as backend:
                day = 0
                while not over.is_set():
                    day += 1
                    timestamp = NOW + timedelta(days=day)
                    backend.record_visit_outcomes(
                        [
                            VisitOutcome(url, visit_type, timestamp, "full", bytes([day % 256]))
                            for url, visit_type in keys
                        ]
                    )
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=visit) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        repaired(written)
        execute(written, "update listed_origins set visit_loaded = not visit_loaded")
    over.set()
    for thread in threads:
        thread.join()
    repaired(written)

    assert failed == []
    assert found(written) == {}
    assert mirrors_that_lie(written) == []


def test_a_sample_is_as_large_whatever_the_table() -> None:
    for pages in (0, 1, 20, 25, 10**9):
        spans = [(int(span["first"][1:-3]), int(span["last"][1:-3])) for span in check._sampled(pages)]
        read_pages = [page for first, last in spans for page in range(first, last)]
        assert len(read_pages) == len(set(read_pages)) == min(pages, 30)
        assert all(page < pages for page in read_pages)


@pytest.mark.parametrize(
    ("statement", "table", "binds"),
    [
        ("origins", "listed_origins", {}),
        ("statistics", "origin_visit_stats", {}),
        ("runs", "task_run", {"ids": None}),
    ],
)
def test_a_range_of_pages_is_all_that_is_read(
    engine: Engine, statement: str, table: str, binds: dict[str, Any]
) -> None:
    without_comments = re.sub(r"--.*\n", "\n", getattr(Queries("inspection/check"), statement).text)
    explained = text(f"explain {without_comments}")
    with engine.connect() as conn:
        conn.exec_driver_sql("set enable_seqscan = off")
        plan = "\n".join(conn.execute(explained, binds | {"first": "(7,0)", "last": "(9,0)"}).scalars())

    assert f"Tid Range Scan on {table}" in plan
    assert "Seq Scan" not in plan
