"""``status`` says which services and workers live, and what is missing."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from sqlalchemy import text

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.db.engine import Database
from tests.cli.conftest import Run

SERVICES = ("visits", "rescuer", "listener", "runner")


@pytest.fixture
def alive(database: Database) -> Iterator[None]:
    """A session of each service, and a worker with a sign."""
    dispatch = Dispatch(database)
    execute(
        database,
        "insert into worker (hostname, pid, began, signed, last_sign) values ('celery@w1', 7, now(), now(), now())",
    )
    with ExitStack() as stack:
        for service in SERVICES:
            stack.enter_context(closing(dispatch.open_session(service)))
        yield


def execute(database: Database, statement: str) -> None:
    with database.engine.begin() as conn:
        conn.execute(text(statement))


def test_what_is_missing_is_said_in_words_and_check_exits_1(run: Run) -> None:
    outcome, checked = run("status"), run("status", "--check")

    assert (outcome.status, checked.status) == (0, 1)
    assert outcome.out == checked.out
    assert outcome.out.startswith("services\n  none\n")
    assert "no runner is alive: due tasks wait in the database\n" in outcome.out
    assert "no listener is alive: ends of runs wait in the broker\n" in outcome.out
    assert "no rescuer is alive" in outcome.out
    assert "visit scheduler" not in outcome.out


def test_a_visit_scheduler_is_missing_where_visits_are_configured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWH_SCHED_RUNNER_VISITS__GIT__PERIOD_SECONDS", "10")

    assert "no visit scheduler is alive: no visits are dispatched" in run("status", "--json").json["missing"]


@pytest.mark.usefixtures("alive")
def test_what_lives_is_shown_with_host_pid_and_since(run: Run) -> None:
    outcome, for_people = run("status", "--check", "--json"), run("status")

    assert outcome.status == 0
    assert outcome.json["missing"] == []
    here, kinds = socket.gethostname(), ("runner", "listener", "visit scheduler", "rescuer", "worker")
    assert [(each["service"], each["host"], each["pid"]) for each in outcome.json["services"]] == [
        *((kind, here, os.getpid()) for kind in kinds[:-1]),
        ("worker", "celery@w1", 7),
    ]
    assert f"{here}:{os.getpid()}" in for_people.out
    assert "celery@w1:7" in for_people.out


@pytest.mark.usefixtures("alive")
def test_a_listener_whose_session_ended_and_a_silent_worker_are_missing(run: Run, database: Database) -> None:
    execute(
        database, "select pg_terminate_backend(backend_pid, 5000) from dispatcher_session where service = 'listener'"
    )
    execute(database, "update worker set last_sign = now() - interval '2 minutes'")

    outcome = run("status", "--check", "--json")

    assert outcome.status == 1
    assert outcome.json["missing"] == [
        "no listener is alive: ends of runs wait in the broker",
        "no worker is known to be alive: a listener records their signs of life",
    ]
