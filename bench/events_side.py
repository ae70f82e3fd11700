"""The two sides of the benchmark of events: databases with open runs, events of workers, and listeners."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import amqp
from psycopg2.extensions import make_dsn, parse_dsn

from bench.baseline import BASELINE, baseline_config
from bench.dispatch_side import BACKEND_NAME, TYPES, UNCHECKED, UNREACHED, Baseline, Ours, Side
from swh_sched_runner.db import scratch

EXCHANGE = "celeryev"
# What a fleet runs at a time: a run's end is told so many runs after its start.
IN_FLIGHT = 100
# Prefork workers put events together in lists, with this many or after a while.
LIST = 20
CONFIRM_EVERY = 1_000

# Runs that ended long ago, then those of the benchmark, which are open. Ids begin with the time, as the runner's do.
ENDED = """
insert into task (id, type, arguments, next_run, current_interval, status, policy, retries_left{own_column})
select n, 't1', jsonb_build_object('args', jsonb_build_array(), 'kwargs', jsonb_build_object('n', n)),
       now() - interval '1 day', interval '1 day', 'completed', 'oneshot', 3{own_value}
from generate_series(1, %(ended)s) as n;
insert into task_run (id, task, backend_id, scheduled, started, ended, metadata, status)
select n, n, '0190' || lpad(to_hex(n), 8, '0') || md5(cast(n as text)), now() - interval '2 days',
       now() - interval '2 days', now() - interval '1 day', jsonb_build_object('worker', 'w@bench'), 'eventful'
from generate_series(1, %(ended)s) as n;
"""
OPEN = """
insert into task (id, type, arguments, next_run, current_interval, status, policy, retries_left{own_column})
select n, 't1', jsonb_build_object('args', jsonb_build_array(), 'kwargs', jsonb_build_object('n', n)),
       now() - interval '1 day', interval '1 day', 'next_run_scheduled', 'oneshot', 3{own_value}
from generate_series(%(ended)s + 1, %(ended)s + %(open)s) as n;
insert into task_run (id, task, backend_id, scheduled, metadata, status)
select n, n, '01a0' || lpad(to_hex(n), 8, '0') || md5(cast(n as text)), now() - interval '1 hour', jsonb_build_object(),
       'scheduled'
from generate_series(%(ended)s + 1, %(ended)s + %(open)s) as n;
"""
IDS = "select backend_id from task_run where ended is null order by id"
STILL_OPEN = "select count(*) from task_run where ended is null and backend_id = any(%s)"


@dataclass(frozen=True)
class Work:
    """The events of so many of the open runs, beside so many that ended; ``kind``: single, lists, or all four."""

    kind: str
    runs: int
    open: int = 20_000
    ended: int = 0

    @property
    def events(self) -> int:
        """How many events that makes."""
        return self.runs * (4 if self.kind == "all four" else 2)


Bodies = list[tuple[str, bytes]]  # routing key and body


def bodies(work: Work, ids: Sequence[str]) -> Bodies:
    """The messages that tell of these runs, in the order in which a fleet sends them."""
    begun = ["task-received", "task-started"] if work.kind == "all four" else ["task-started"]
    pairs: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = []
    for clock, uuid in enumerate(ids):
        starts = [_event(kind, uuid, clock) for kind in begun]
        ends = [_event("task-result", uuid, clock)]
        ends += [_event("task-succeeded", uuid, clock)] if work.kind == "all four" else []
        pairs.append((starts, ends))
    made: Bodies = []
    buffered: list[dict[str, Any]] = []
    for at in range(len(pairs) + IN_FLIGHT):
        told = pairs[at][0] if at < len(pairs) else []
        told = told + (pairs[at - IN_FLIGHT][1] if at >= IN_FLIGHT else [])
        for event in told:
            # Results come from the children, at once; the rest from the parent, in lists where the pool is prefork.
            if work.kind == "single" or event["type"] == "task-result":
                made.append((event["type"].replace("-", "."), json.dumps(event).encode()))
            else:
                buffered.append(event)
        if len(buffered) >= LIST or (buffered and at == len(pairs) + IN_FLIGHT - 1):
            made.append(("task.multi", json.dumps(buffered).encode()))
            buffered = []
    return made


def _event(kind: str, uuid: str, clock: int) -> dict[str, Any]:
    event: dict[str, Any] = {"hostname": f"celery@worker{clock % 10}", "utcoffset": 0, "pid": 100 + clock % 10}
    event |= {"clock": clock, "uuid": uuid, "timestamp": time.time(), "type": kind}
    match kind:
        case "task-received":
            event |= {"name": BACKEND_NAME.format(1), "args": "()", "kwargs": "{'n': 1}", "retries": 0, "eta": None}
        case "task-result":
            event |= {"result": {"status": "eventful"}}
        case "task-succeeded":
            event |= {"result": "{'status': 'eventful'}", "runtime": 0.5}
    return event


def connected(port: int, vhost: str) -> Any:
    """A connection of py-amqp's."""
    connection = amqp.Connection(f"127.0.0.1:{port}", userid="guest", password="guest", virtual_host=vhost)
    connection.connect()
    return connection


def publish(port: int, vhost: str, messages: Bodies) -> None:
    """Put them all into the queues that are bound to the exchange; they are there when this returns."""
    connection = connected(port, vhost)
    channel = connection.channel()
    channel.confirm_select()
    confirmed = 0

    def confirm(tag: int, multiple: bool) -> None:
        nonlocal confirmed
        confirmed = max(confirmed, tag) if multiple else confirmed + 1

    channel.events["basic_ack"].add(confirm)
    for number, (key, body) in enumerate(messages, 1):
        message = amqp.Message(body, content_type="application/json", content_encoding="utf-8", delivery_mode=1)
        channel.basic_publish(message, EXCHANGE, key)
        while number % CONFIRM_EVERY == 0 and confirmed < number - CONFIRM_EVERY:
            connection.drain_events(timeout=60)
    while confirmed < len(messages):
        connection.drain_events(timeout=60)
    connection.close()


class Listening(Side):
    """A side whose runner is its listener, on a vhost of its own."""

    vhost = "/"

    @contextmanager
    def opened(self, work: Work) -> Iterator[tuple[str, list[str]]]:
        """The name of a fresh database with open runs, and their ids, until the block ends."""
        server, name = self.servers.postgres.url(), f"{self.name}_run"
        template = f"{self.name}_events_{work.open}_{work.ended}"
        if template not in self._templates:
            self.make(template)
            with closing(self.connect(template)) as conn, conn.cursor() as cursor:
                binds = {"types": 1, "bound": UNREACHED, "backend_name": BACKEND_NAME}
                cursor.execute(TYPES, binds)
                cursor.execute(UNCHECKED)
                value = ", n" if self.own_column else ""
                for statement in (ENDED, OPEN):
                    cursor.execute(
                        statement.format(own_column=self.own_column, own_value=value),
                        {"ended": work.ended, "open": work.open},
                    )
                for step in ("vacuum (analyze) task", "vacuum (analyze) task_run"):
                    cursor.execute(step)
            self._templates.add(template)
        scratch.execute(server, f"create database {name} template {template} strategy file_copy")
        self.vhost = f"events-{self.name}"
        self.servers.broker.add_vhost(self.vhost)
        with closing(connected(self.servers.broker.port, self.vhost)) as connection:  # workers have declared it
            connection.channel().exchange_declare(EXCHANGE, "topic", durable=True, auto_delete=False)
        try:
            with closing(self.connect(name)) as conn, conn.cursor() as cursor:
                cursor.execute("checkpoint")
                cursor.execute(IDS)
                ids = [row[0] for row in cursor.fetchmany(work.runs)]
            yield name, ids
        finally:
            scratch.execute(server, f"drop database {name} with (force)")
            self.servers.broker.delete_vhost(self.vhost)


class OurListener(Listening, Ours):
    """This project's listener."""

    def runner(self, url: str) -> tuple[list[str | Path], dict[str, str]]:
        """See ``Side.runner``."""
        command, environment = super().runner(url)
        broker = self.servers.broker.url(self.vhost)
        return [*command[:-1], "listen"], environment | {
            "SWH_SCHED_RUNNER_BROKER__URL": broker,
            "SWH_SCHED_RUNNER_WEB__PORT": "0",
        }


class BaselineListener(Listening, Baseline):
    """The package swh.scheduler's listener."""

    def runner(self, url: str) -> tuple[list[str | Path], dict[str, str]]:
        """See ``Side.runner``."""
        dsn: str = make_dsn(**parse_dsn(url))
        config = baseline_config(self.servers.folder / "listener.yml", dsn, self.servers.broker.url(self.vhost))
        return [BASELINE / "bin/swh", "scheduler", "start-listener"], {"SWH_CONFIG_FILENAME": str(config)}
