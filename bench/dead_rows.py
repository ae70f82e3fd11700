"""What grabs, ends and a page of pruning cost beside rows that nobody has vacuumed yet. See bench/README.md.

Autovacuum is off; runs are dispatched and ended until so many rows of ``task`` and ``task_run`` are dead.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import click
from sqlalchemy import text

from bench.report import table
from bench.task_run import FILL, cpu
from swh_sched_runner.backend.dispatch.outbox import Dispatch, TaskGroup
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.db import migrate
from swh_sched_runner.db.engine import Database, create_engine
from swh_sched_runner.embedded.postgres import Postgres
from swh_sched_runner.model import Evidence

BATCH = 100
MEASURED = 20  # batches for a line of the table
SHARES = (0.0, 0.02, 0.1, 0.2, 0.5)
GROUP = TaskGroup("t", "t", None, priority=False)
DUE = "update task set next_run = now() - interval '1 day' where id <= :tasks"
AGAIN = "update task_type set default_interval = interval '0', min_interval = interval '0', max_interval = interval '0'"
DEAD = "select n_dead_tup from pg_stat_user_tables where relname = 'task'"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=50_000, help="tasks in the table, all due")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        server = Postgres(
            Path(name), fsync=False, options={"shared_buffers": "512MB", "max_wal_size": "8GB", "autovacuum": "off"}
        )
        server.start()
        stack.callback(server.stop)
        engine = create_engine(server.url(), max_pool_conns=3)
        stack.callback(engine.dispose)
        migrate.upgrade(engine)
        database = Database(engine)
        dispatch = Dispatch(database)
        with engine.begin() as conn:
            conn.execute(text(FILL.format(rows=2 * options.tasks, tasks=options.tasks)))
            conn.execute(text(AGAIN))
            conn.execute(text(DUE), {"tasks": options.tasks})
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text("vacuum full task"))
            conn.execute(text("vacuum analyze task, task_run"))
        session = dispatch.open_session()
        stack.callback(session.close)
        pid = database.run(lambda conn: conn.execute(text("select pg_backend_pid()")).scalar_one())

        def one_batch() -> tuple[float, float]:
            before = cpu(pid)
            batch = dispatch.open_batch(session.id, "t", GROUP, BATCH)
            grabbed = cpu(pid)
            assert batch is not None
            ended = {"status": "uneventful", "ended": datetime.now(UTC), "evidence": Evidence.RESULT}
            dispatch.record_events([RunChange(each.backend_id, **ended) for each in batch.messages])  # type: ignore[arg-type]
            recorded = cpu(pid)
            dispatch.close_batch(session.id, batch.id)
            return (grabbed - before) / BATCH, (recorded - grabbed) / BATCH

        rows, done = [], 0
        for share in SHARES:
            while done < share * options.tasks / 2:  # a grab and an end leave a dead row each
                one_batch()
                done += BATCH
            costs = [one_batch() for _ in range(MEASURED)]
            done += MEASURED * BATCH
            grabs, ends = (statistics.median(each) for each in zip(*costs, strict=True))
            rows.append([f"{share:.0%}", f"{grabs:.0f}", f"{ends:.0f}"])
        click.echo(f"{options.tasks:,} tasks; µs of CPU a task\n")
        click.echo(table(["dead rows of task", "grab", "end"], rows))


if __name__ == "__main__":
    main()
