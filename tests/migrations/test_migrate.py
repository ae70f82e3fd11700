"""The schema is brought up to date once, by whoever comes first, and refused when it doesn't fit."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import chain

import pytest
from sqlalchemy import Engine, text

from swh_sched_runner.db import migrate, version
from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.exc import DatabaseUnavailable, SchemaError
from tests.support.servers.migrations import bring_to, files

pytestmark = pytest.mark.slow


@pytest.fixture
def empty(empty_database_url: str) -> Engine:
    return create_engine(empty_database_url)


def _upgrade(url: str) -> list[str]:
    return migrate.upgrade(create_engine(url))


def test_six_upgrades_at_once_apply_each_migration_once(empty_database_url: str) -> None:
    with ProcessPoolExecutor(6) as pool:
        applied = list(pool.map(_upgrade, [empty_database_url] * 6))

    assert sorted(chain.from_iterable(applied)) == migrate.pending(None)
    assert sum(map(bool, applied)) == 1


@pytest.mark.parametrize("landed", migrate.pending(None)[:-1])
def test_every_landed_version_is_brought_forward(empty: Engine, landed: str) -> None:
    everything = migrate.pending(None)
    bring_to(empty, landed)

    assert migrate.upgrade(empty) == everything[everything.index(landed) + 1 :]
    with empty.connect() as conn:
        migrate.require(conn)


def test_every_migration_file_has_its_revision_and_the_other_way_round() -> None:
    assert [name[:4] for name in files()] == migrate.pending(None)


def test_an_empty_an_old_and_an_unknown_schema_are_refused_with_what_to_run(empty: Engine) -> None:
    with empty.connect() as conn, pytest.raises(SchemaError, match="db init"):
        migrate.require(conn)

    migrate.upgrade(empty)
    with empty.begin() as conn:
        conn.execute(text("update swh_sched_runner_version set version_num = '0001'"))
    with empty.connect() as conn, pytest.raises(SchemaError, match=r"version 0001.*db upgrade"):
        migrate.require(conn)

    with empty.begin() as conn:
        conn.execute(text("update swh_sched_runner_version set version_num = '9999'"))
    with empty.connect() as conn, pytest.raises(SchemaError, match=r"9999.*does not know"):
        migrate.require(conn)
    with pytest.raises(SchemaError, match="9999"):
        migrate.upgrade(empty)


def test_a_foreign_scheduler_s_tables_are_left_as_they_are(empty: Engine) -> None:
    with empty.begin() as conn:
        conn.execute(text("create table task (id int)"))

    with pytest.raises(SchemaError, match="did not make"):
        migrate.upgrade(empty)
    with empty.connect() as conn:
        assert conn.execute(text("select to_regclass('task_type')")).scalar() is None


def test_the_script_for_a_dba_does_the_same_as_the_upgrade(empty: Engine, empty_database_url: str) -> None:
    script = migrate.as_sql()

    with empty.begin() as conn:
        conn.exec_driver_sql(
            script.replace("BEGIN;", "").replace("COMMIT;", ""), execution_options={"no_parameters": True}
        )
    with empty.connect() as conn:
        migrate.require(conn)
    assert migrate.upgrade(empty) == []
    assert migrate.as_sql(migrate.head()).strip() in ("", "BEGIN;\n\nCOMMIT;")


def test_a_migration_that_gets_no_lock_gives_up_and_may_be_run_again(
    empty: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "100ms")
    migrate.upgrade(empty)
    with empty.begin() as conn:
        conn.execute(text("update swh_sched_runner_version set version_num = '0002'"))
    with empty.connect() as holder:
        holder.execute(text("lock table task in access exclusive mode"))
        with pytest.raises(DatabaseUnavailable, match="lock timeout"):
            migrate.upgrade(empty)
        holder.rollback()
    with empty.connect() as conn:
        assert migrate.current(conn) == "0002"


def test_comments_say_what_every_function_is(empty: Engine) -> None:
    migrate.upgrade(empty)
    with empty.connect() as conn:
        said = conn.execute(
            text(
                "select cast(oid as regprocedure), obj_description(oid, 'pg_proc') is not null from pg_proc "
                "where pronamespace = cast('public' as regnamespace)"
            )
        ).all()
        assert {name for name, described in said if not described} == set()
        assert len(said) > 2


def test_comments_say_what_every_table_and_column_is(empty: Engine) -> None:
    migrate.upgrade(empty)
    with empty.connect() as conn:
        bare = conn.execute(
            text(
                "select c.relname || coalesce('.' || a.attname, '') from pg_class c "
                "join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'public' "
                "join lateral (select 0 as attnum, null as attname union all select attnum, attname from pg_attribute "
                "  where attrelid = c.oid and attnum > 0 and not attisdropped) a on true "
                "where c.relkind in ('r', 'v') and c.relname <> 'swh_sched_runner_version' "
                "and case a.attnum when 0 then obj_description(c.oid) else col_description(c.oid, a.attnum) end is null"
            )
        ).scalars()
        assert list(bare) == []


@pytest.mark.slow
def test_importing_the_package_opens_nothing() -> None:
    code = (
        "import socket, pkgutil, importlib, swh_sched_runner\n"
        "def refuse(*a): raise AssertionError('a connection at import')\n"
        "socket.socket.connect = refuse\n"
        "for module in pkgutil.walk_packages(swh_sched_runner.__path__, 'swh_sched_runner.'):\n"
        "    if not module.name.endswith('__main__') and '.revisions.' not in module.name:\n"
        "        importlib.import_module(module.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_version_is_known_without_alembic(empty: Engine) -> None:
    assert version.known() == [script.revision for script in reversed(list(migrate._script().walk_revisions()))]
    with empty.connect() as conn:
        assert version.current(conn) is None
    migrate.upgrade(empty)
    with empty.connect() as conn:
        assert version.current(conn) == version.head() == migrate._script().get_current_head()
