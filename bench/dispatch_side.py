"""The two sides of the benchmarks of dispatch: their runners, and databases with what is ready and what is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from bench.baseline import BASELINE, Servers, baseline_config, make_baseline, make_ours
from swh_sched_runner.db import scratch

# Above every number of tasks here. The baseline then takes 10,000 of a type in each round, with its period between.
UNREACHED = 100_000_000
# The baseline sends tasks whose names begin so to a queue of that name, others to Celery's default queue.
BACKEND_NAME = "swh.bench.tasks.T{}"

TYPES = """
insert into task_type (type, description, backend_name, default_interval, min_interval, max_interval, backoff_factor,
                       max_queue_length, num_retries)
select 't' || n, 'bench', replace(%(backend_name)s, '{}', cast(n as text)), '1 day', '1 hour', '32 days', 2,
       %(bound)s, 3
from generate_series(1, %(types)s) as n
"""
# What a table in use holds beside the due tasks: 60 % completed one-shots, 25 % recurring tasks that are not due,
# 10 % disabled, 5 % in flight; nothing becomes due within a day. Those in flight have a run, and a twelfth of the
# completed; the others' are archived. No row is written twice: holes would spread the due tasks over all pages.
BACKGROUND = """
insert into task (id, type, arguments, next_run, current_interval, status, policy, retries_left{own_column})
select n, 't' || 1 + mod(n, %(types)s),
       jsonb_build_object('args', jsonb_build_array(),
                          'kwargs', jsonb_build_object('url', 'https://forge.example/background/' || n)),
       now() + (case when mod(n, 20) between 12 and 16 then 1 else -1 end) * (1 + mod(n, 30)) * interval '1 day',
       interval '1 day',
       cast(case when mod(n, 20) < 12 then 'completed' when mod(n, 20) < 17 then 'next_run_not_scheduled'
                 when mod(n, 20) < 19 then 'disabled' else 'next_run_scheduled' end as task_status),
       cast(case when mod(n, 20) < 12 then 'oneshot' else 'recurring' end as task_policy), 3{own_value}
from generate_series(1, %(rows)s) as n;
insert into task_run (id, task, backend_id, scheduled, started, ended, metadata, status)
select id, id, gen_random_uuid(), now() - interval '1 hour', now() - interval '1 hour',
       case when status = 'completed' then now() end, jsonb_build_object(),
       cast(case when status = 'completed' then 'eventful' else 'started' end as task_run_status)
from task where mod(id, 20) in (1, 19);
select setval('task_id_seq', %(rows)s), setval('task_run_id_seq', %(rows)s)
"""
# Starts and ends of runs have used the free space of their pages.
FULL_PAGES = "alter table task_run set (fillfactor = 100)"
READY = """
insert into task (type, arguments, next_run, current_interval, status, policy, retries_left)
select 't' || 1 + mod(n, %(types)s),
       jsonb_build_object('args', jsonb_build_array(),
                          'kwargs', jsonb_build_object('url', 'https://forge.example/ready/' || n)),
       now() - interval '1 day' + n * interval '1 millisecond', interval '1 day', 'next_run_not_scheduled', 'oneshot', 3
from generate_series(1, %(tasks)s) as n
"""
# The rows refer to what exists: without the triggers that check it they are there in half the time.
UNCHECKED = "set session_replication_role = replica"


@dataclass(frozen=True)
class Work:
    """So many due tasks of so many types in a table that has so many other rows, for so many runners.

    ``bound`` is each queue's.
    """

    tasks: int
    types: int = 1
    table: int = 0
    runners: int = 1
    bound: int = UNREACHED

    def queues(self) -> dict[str, int]:
        """The queues, and how many messages each one gets."""
        return {
            BACKEND_NAME.format(n): len(range((n - 2) % self.types + 1, self.tasks + 1, self.types))
            for n in range(1, self.types + 1)
        }


class Side:
    """This project, or the baseline: how its database is made and its runner is started."""

    name = ""
    own_column, own_value = "", ""  # what tasks have here alone, as BACKGROUND takes it
    own_pages = "alter table task_run reset (fillfactor)"

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self._templates: set[str] = set()

    def make(self, name: str) -> None:
        """A database with the schema and nothing else."""
        raise NotImplementedError

    def runner(self, url: str) -> tuple[list[str | Path], dict[str, str]]:
        """Command and environment of a runner."""
        raise NotImplementedError

    @contextmanager
    def prepared(self, work: Work) -> Iterator[str]:
        """The name of a fresh database with the due tasks in it, until the block ends."""
        server, name = self.servers.postgres.url(), f"{self.name}_run"
        scratch.execute(server, f"create database {name} template {self._template(work)} strategy file_copy")
        try:
            with closing(self.connect(name)) as conn, conn.cursor() as cursor:
                cursor.execute(UNCHECKED)
                cursor.execute(READY, {"types": work.types, "tasks": work.tasks})
                cursor.execute("vacuum (analyze) task")
                cursor.execute("checkpoint")
            yield name
        finally:
            scratch.execute(server, f"drop database {name} with (force)")

    def connect(self, name: str) -> Any:
        """A connection outside of transactions."""
        conn = psycopg2.connect(self.url(name))
        conn.autocommit = True
        return conn

    def url(self, name: str) -> str:
        """The URL of a database."""
        return scratch.of(self.servers.postgres.url(), name)

    def _template(self, work: Work) -> str:
        """The name of a database to copy, with types and background; made when first asked for."""
        name = f"{self.name}_{work.types}_{work.table}_{work.bound}"
        if name not in self._templates:
            if work.table:
                click.echo(f"{self.name}: making a table of {work.table:,} rows", err=True)
            self.make(name)
            with closing(self.connect(name)) as conn, conn.cursor() as cursor:
                self._fill(cursor, work)
            self._templates.add(name)
        return name

    def _fill(self, cursor: Any, work: Work) -> None:
        binds = {"types": work.types, "rows": work.table, "bound": work.bound, "backend_name": BACKEND_NAME}
        cursor.execute(TYPES, binds)
        if work.table:
            cursor.execute(UNCHECKED)
            cursor.execute(FULL_PAGES)
            cursor.execute(BACKGROUND.format(own_column=self.own_column, own_value=self.own_value), binds)
            cursor.execute(self.own_pages)
        cursor.execute("vacuum (analyze) task")
        cursor.execute("vacuum (analyze) task_run")


class Ours(Side):
    """This project."""

    name = "ours"
    own_column, own_value = ", run_id", ", case when mod(n, 20) in (1, 19) then n end"
    own_pages = "alter table task_run set (fillfactor = 80)"

    def make(self, name: str) -> None:
        """See ``Side.make``."""
        make_ours(self.servers.postgres, name)

    def runner(self, url: str) -> tuple[list[str | Path], dict[str, str]]:
        """See ``Side.runner``."""
        nothing = self.servers.folder / "empty.toml"  # so that no configuration of this machine is read
        nothing.touch()
        return [sys.executable, "-m", "swh_sched_runner", "run"], {
            "SWH_SCHED_RUNNER_CONFIG": str(nothing),
            "SWH_SCHED_RUNNER_DATABASE__URL": url,
            "SWH_SCHED_RUNNER_BROKER__URL": self.servers.broker.url(),
        }


class Baseline(Side):
    """The package swh.scheduler."""

    name = "baseline"

    def make(self, name: str) -> None:
        """See ``Side.make``."""
        make_baseline(self.servers.postgres, self.servers.folder, name)

    def runner(self, url: str) -> tuple[list[str | Path], dict[str, str]]:
        """See ``Side.runner``."""
        dsn: str = make_dsn(**parse_dsn(url))
        config = baseline_config(self.servers.folder / "runner.yml", dsn, self.servers.broker.url())
        return [BASELINE / "bin/swh", "scheduler", "start-runner", "--period", "1"], {
            "SWH_CONFIG_FILENAME": str(config)
        }
