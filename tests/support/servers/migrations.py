"""Databases of earlier schema versions."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, text

from swh_sched_runner.db import migrate
from swh_sched_runner.db.queries import sql_folder


def files() -> list[str]:
    """The names of the migrations, in order."""
    return sorted(path.name for path in Path(str(sql_folder())).joinpath("migrations").glob("*.sql"))


def bring_to(engine: Engine, version: str) -> None:
    """Give an empty database the schema that it had at ``version``."""
    everything = migrate.pending(None)
    with engine.begin() as conn:
        for name in everything[: everything.index(version) + 1]:
            [file] = [f for f in files() if f.startswith(name)]
            conn.exec_driver_sql(migrate.read("migrations", file), execution_options={"no_parameters": True})
        conn.execute(text("create table swh_sched_runner_version (version_num varchar(32) primary key)"))
        conn.execute(text("insert into swh_sched_runner_version values (:version)"), {"version": version})
