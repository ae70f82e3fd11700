"""``db``: the schema, from nothing to the version that the program needs."""

from __future__ import annotations

from swh_sched_runner.db import migrate
from swh_sched_runner.db.engine import connect
from tests.cli.conftest import Run

DATABASE = "SWH_SCHED_RUNNER_DATABASE__URL"


def test_init_applies_every_migration_and_says_which(program: Run, empty_database_url: str) -> None:
    variables = {DATABASE: empty_database_url}

    before = program("db", "status", "--json", **variables)
    first, second = program("db", "init", **variables), program("db", "upgrade", **variables)
    after = program("db", "status", **variables)

    assert before.status == 1
    assert before.json == {
        "version": None,
        "head": migrate.head(),
        "pending": migrate.pending(None),
        "adoptable": None,
        "found": {},
    }
    assert (first.status, first.out.split("\n")) == (0, [f"applied {v}" for v in migrate.pending(None)] + [""])
    assert second.out == f"nothing to apply: the schema is at version {migrate.head()}\n"
    assert (after.status, after.out) == (
        0,
        f"version {migrate.head()}, this program needs {migrate.head()}\npending: nothing\n",
    )


def test_a_version_that_nobody_knows_is_refused(run: Run, database_url: str) -> None:
    conn = connect(database_url)
    with conn, conn.cursor() as cursor:
        cursor.execute("update swh_sched_runner_version set version_num = '9999'")
    conn.close()

    for command in (("db", "status"), ("db", "upgrade"), ("task", "list")):
        outcome = run(*command)
        assert outcome.status == 78
        assert "version 9999, which this program" in outcome.err


def test_the_script_needs_no_database(run: Run) -> None:
    whole, rest = run("db", "sql"), run("db", "sql", "--from", migrate.pending(None)[0])

    assert "create table task_run (" in whole.out
    assert "create table task_run (" not in rest.out
    assert "task_ready_idx" in rest.out
    assert run("db", "sql", "--from", "9999").status == 78
