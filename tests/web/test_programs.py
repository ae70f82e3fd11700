"""The programs, asked over HTTP as Prometheus and a supervisor of containers ask them."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.cli import web
from swh_sched_runner.config import WebSettings
from swh_sched_runner.db import migrate
from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.embedded.postgres import Postgres
from swh_sched_runner.embedded.valkey import Valkey
from swh_sched_runner.exc import ConfigurationError
from swh_sched_runner.model import ListedOrigin
from swh_sched_runner.web.server import Page
from tests.support.processes.programs import Programs, terminate
from tests.support.servers.rabbitmq import free_ports
from tests.support.wait import until


@pytest.fixture
def port() -> int:
    [port] = free_ports(1)
    return port


@pytest.fixture
def programs(tmp_path: Path, database_url: str, valkey_url: str) -> Iterator[Programs]:
    yield from programs_on(tmp_path, database_url, valkey_url)


def programs_on(folder: Path, database_url: str, broker_url: str) -> Iterator[Programs]:
    variables = {"SWH_SCHED_RUNNER_DATABASE__URL": database_url, "SWH_SCHED_RUNNER_BROKER__URL": broker_url}
    programs = Programs(folder, variables)
    yield programs
    programs.close()


def start(programs: Programs, command: str, *arguments: str) -> subprocess.Popen[bytes]:
    process = programs.start(command, *arguments)
    until(lambda: "event=ready" in programs.log(command) or process.poll() is not None, 60)
    assert process.poll() is None, programs.log(command)
    return process


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def missing(port: int) -> dict[str, str]:
    """What `/readyz` misses."""
    status, said = get(port, "/readyz")
    found: dict[str, Any] = json.loads(said)
    assert (status == 200) == (found["status"] == "ready") == ("missing" not in found)
    return found.get("missing", {})


def shown(port: int) -> dict[tuple[str, ...], float]:
    """`/metrics`: value by name and label values, in the order of the labels' names."""
    status, said = get(port, "/metrics")
    assert status == 200
    return {
        (sample.name.removeprefix("swh_sched_runner_"), *(sample.labels[label] for label in sorted(sample.labels))): (
            sample.value
        )
        for family in text_string_to_metric_families(said)
        for sample in family.samples
    }


def add_tasks(database_url: str, count: int, bound: int) -> None:
    with SchedulerBackend(database_url) as backend:
        backend.create_task_type(
            {
                "type": "look",
                "description": "d",
                "backend_name": "fleet.look",
                "default_interval": timedelta(days=1),
                "max_queue_length": bound,
            }
        )
        due = datetime.now(UTC) - timedelta(minutes=5)
        backend.create_tasks(
            [{"type": "look", "arguments": {"args": [n], "kwargs": {}}, "next_run": due} for n in range(count)]
        )


def test_the_runner_tells_what_it_dispatched_and_what_blocks_it(
    programs: Programs, database_url: str, port: int
) -> None:
    # given five tasks, a queue that takes three, and no worker
    add_tasks(database_url, 5, bound=3)
    # when
    runner = start(programs, "run", "--web-port", str(port))
    until(lambda: shown(port).get(("blocked_seconds_total", "fleet.look", "full"), 0) > 0.2, 30)
    found = shown(port)
    # then
    assert found["dispatched_total", "fleet.look", "look"] == 3
    assert found["queue_length", "fleet.look"] == found["max_queue_length", "fleet.look"] == 3
    assert found["batch_tasks_sum", "look"] == 3
    assert found["schedule_lag_seconds_bucket", "60.0", "look"] == 0
    assert found["schedule_lag_seconds_bucket", "900.0", "look"] == found["schedule_lag_seconds_count", "look"] > 0
    assert found["send_seconds_count", "fleet.look"] == found["schedule_lag_seconds_count", "look"]
    assert found["oldest_due_seconds", "false", "look"] >= 300
    assert found["round_seconds_count",] > 0
    assert found["database_up",] == 1
    assert get(port, "/healthz") == (200, '{"status":"alive"}\n')
    assert missing(port) == {}
    assert f"url=http://127.0.0.1:{port}/metrics" in programs.log("run")
    # and a client that says nothing does not keep it from stopping
    with socket.create_connection(("127.0.0.1", port)):
        began = time.monotonic()
        assert terminate(runner) == 0
        assert time.monotonic() - began < 8


def test_up_counts_what_workers_report(programs: Programs, database_url: str, valkey_url: str, port: int) -> None:
    # given all services in one process, and an event that is none
    programs.environment["SWH_SCHED_RUNNER_WEB__PORT"] = str(port)
    start(programs, "up")
    add_tasks(database_url, 1, bound=3)
    until(lambda: shown(port).get(("dispatched_total", "fleet.look", "look")) == 1, 30)
    # when a worker, which stands for any, reports
    from celery import Celery

    from swh_sched_runner.worker import configure

    with SchedulerBackend(database_url) as backend:
        [task] = backend.search_tasks()
        [run] = backend.get_task_runs([task["id"]])
    app = configure(Celery("fleet", broker=valkey_url, set_as_current=False))
    with app.events.default_dispatcher(hostname="w@h") as dispatcher:
        dispatcher.send("task-started", uuid=run["backend_id"])
        dispatcher.send("task-result", uuid=run["backend_id"], result={"status": "success", "eventful": True})
        dispatcher.send("task-made-up", uuid=run["backend_id"])
        dispatcher.send("task-started", uuid="")
    # then
    until(lambda: shown(port).get(("runs_ended_total", "eventful")) == 1, 30)
    until(lambda: shown(port).get(("events_rejected_total",)) == 1, 30)
    found = shown(port)
    assert found["events_total", "task-started"] == 1
    assert found["events_total", "task-result"] == 1
    assert found["events_total", "unreadable"] == 1
    assert found["events_total", "other"] == 1  # anybody may make up types, and each would be a series


def test_readiness_follows_the_servers_and_life_does_not(
    tmp_path: Path, own_postgres: Postgres, own_valkey: Valkey, port: int
) -> None:
    # given a listener on servers of its own
    engine = create_engine(own_postgres.url())
    migrate.upgrade(engine)
    engine.dispose()
    with contextlib.contextmanager(programs_on)(tmp_path, own_postgres.url(), own_valkey.url()) as programs:
        listener = start(programs, "listen", "--web-port", str(port))
        assert missing(port) == {}
        # when the broker is away
        own_valkey.stop()
        until(lambda: list(missing(port)) == ["broker", "listener", "heartbeats"], 30)
        assert missing(port)["broker"].startswith("The broker can't be reached: ")
        # and the database as well
        own_postgres.stop()
        until(lambda: list(missing(port)) == ["database", "broker", "listener", "heartbeats"], 30)
        assert until(lambda: shown(port)["database_up",] == 0, 30)
        assert get(port, "/healthz")[0] == 200
        # and when both are back
        own_postgres.start()
        own_valkey.start()
        until(lambda: missing(port) == {}, 30)
        until(lambda: shown(port)["database_up",] == 1, 30)
        assert terminate(listener) == 0


def test_a_default_port_that_is_taken_is_worth_a_warning_and_no_more(programs: Programs) -> None:
    programs.environment["SWH_SCHED_RUNNER_WEB__PORT"] = ""  # as if it were not given
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # whoever has it, it is taken
            taken.bind(("127.0.0.1", web.PORTS["listen"]))
            taken.listen()
        listener = start(programs, "listen")
        assert terminate(listener) == 0

    log = programs.log("listen")
    assert 'event="no metrics and no health checks"' in log
    assert f"127.0.0.1:{web.PORTS['listen']}: Address already in use" in log
    assert "web.port" in log


def test_a_configured_port_that_is_taken_ends_the_program(programs: Programs, port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        done = programs.run("listen", "--web-port", str(port))

    said = f"swh-sched-runner: web.port: can't listen on 127.0.0.1:{port}: Address already in use\n"
    assert done.returncode == 78
    assert done.stderr.endswith(said)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "a" * 80])
def test_a_configured_host_that_is_not_ours_is_named(port: int, host: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^web\.host: can't listen on {host}:{port}: \S"):
        web._listen(WebSettings(host=host, port=port), "run", {})


@pytest.mark.parametrize(
    ("command", "settings"), [("run", WebSettings(port=0)), ("demo", WebSettings())], ids=["switched off", "demo"]
)
def test_no_port_is_no_server(command: str, settings: WebSettings) -> None:
    assert web._listen(settings, command, {}) is None


def test_visits_count_under_the_task_type_that_visits(programs: Programs, database_url: str, port: int) -> None:
    with SchedulerBackend(database_url) as backend:
        backend.create_task_type({"type": "load-git", "description": "d", "backend_name": "loader.git"})
        lister = backend.get_or_create_lister("github")
        backend.record_listed_origins([ListedOrigin(lister_id=lister.id, url="https://example.org", visit_type="git")])
    programs.environment["SWH_SCHED_RUNNER_VISITS__GIT__PERIOD_SECONDS"] = "0.2"

    start(programs, "visits", "--web-port", str(port))

    until(lambda: shown(port).get(("dispatched_total", "loader.git", "load-git")) == 1, 30)
    until(lambda: shown(port)["queue_length", "loader.git"] == 1, 30)  # of its next look


def test_the_pruner_deletes_old_runs_again_and_again_and_counts_them(
    programs: Programs, database_url: str, port: int
) -> None:
    old = datetime.now(UTC) - timedelta(days=2)

    def add_runs(backend: SchedulerBackend, *names: str) -> None:
        for name in names:
            backend.schedule_task_run(task["id"], name, timestamp=old)
            backend.end_task_run(name, "eventful", timestamp=old)

    programs.environment["SWH_SCHED_RUNNER_PRUNER__PERIOD_SECONDS"] = "0.2"
    with SchedulerBackend(database_url) as backend:
        backend.create_task_type({"type": "load-git", "description": "d", "backend_name": "loader.git"})
        [task] = backend.create_tasks(
            [{"type": "load-git", "arguments": {}, "next_run": old, "policy": "oneshot", "retries_left": 0}]
        )
        backend.set_task_type_limits("load-git", keep_runs=timedelta(days=1))
        add_runs(backend, "first", "second")

        process = start(programs, "prune", "--web-port", str(port))

        until(lambda: shown(port).get(("runs_pruned_total", "load-git")) == 1, 20)
        add_runs(backend, "third")
        until(lambda: shown(port).get(("runs_pruned_total", "load-git")) == 2, 20)
        assert [run["backend_id"] for run in backend.get_task_runs([task["id"]])] == ["third"]
    assert terminate(process) == 0


def test_the_demo_answers_where_it_is_told_to(port: int) -> None:
    server = web._listen(WebSettings(port=port), "demo", {"/": lambda _: Page(b"here")})

    assert server is not None
    with server:
        assert get(port, "/") == (200, "here")
