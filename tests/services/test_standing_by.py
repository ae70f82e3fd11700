"""One listener works, the others stand by until it ends."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.broker.celery.app import connect
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import DatabaseUnavailable
from tests.support.processes.programs import Programs, terminate
from tests.support.samples import a_type, run_of_a_task
from tests.support.servers.rabbitmq import free_ports
from tests.support.wait import until
from tests.web.test_programs import get, missing


def standing_by(port: int) -> list[str]:
    """The services that `/readyz` names; it answers that all is well."""
    status, said = get(port, "/readyz")
    assert status == 200
    names: list[str] = json.loads(said).get("standing_by", [])
    return names


def test_a_listener_that_stands_by_says_so_and_goes_on_when_the_other_is_killed(
    tmp_path: Path, backend: SchedulerBackend, database_url: str, app: Celery, broker: BrokerSettings
) -> None:
    # given a listener at work, and one that came later
    backend.create_task_type(a_type())
    for number in range(2):
        run_of_a_task(backend, f"run-{number}", number=number)
    first_port, second_port = free_ports(2)
    assert broker.url is not None
    variables = {"SWH_SCHED_RUNNER_DATABASE__URL": database_url, "SWH_SCHED_RUNNER_BROKER__URL": broker.url}
    programs = Programs(tmp_path, variables)
    try:
        first = programs.start("listen", "--web-port", str(first_port))
        until(lambda: "metrics and health" in programs.log("listen"), 60)
        with connect(app) as connection, app.events.Dispatcher(connection, hostname="w", enabled=True) as dispatcher:

            def ended(run: int) -> bool:
                dispatcher.send("task-failed", uuid=f"run-{run - 1}", exception="x", traceback="x")
                return backend.get_task_runs([run])[0]["status"] == "failed"

            until(lambda: ended(1), 20)
            second = programs.start("listen", "--web-port", str(second_port))
            until(lambda: "standing by, another listener works" in programs.log("listen"), 60)
            until(lambda: programs.log("listen").count("metrics and health") == 2, 20)
            assert (missing(first_port), missing(second_port)) == ({}, {})
            assert (standing_by(first_port), standing_by(second_port)) == ([], ["listener"])
            # when
            first.kill()
            first.wait()
            killed = time.monotonic()
            dispatcher.send("task-failed", uuid="run-1", exception="x", traceback="x")
            # then
            until(lambda: backend.get_task_runs([2])[0]["status"] == "failed", 20)
        assert time.monotonic() - killed < 10  # two seconds on a machine that does nothing else
        until(lambda: standing_by(second_port) == [], 20)
        assert "taking over, the other listener has ended" in programs.log("listen")
        assert terminate(second) == 0
    finally:
        programs.close()


def test_a_turn_is_one_listener_s_until_its_session_ends(dispatch: Dispatch, database: Database) -> None:
    one, other, elsewhere = (dispatch.open_listener_lock(queue) for queue in ("events", "events", "others"))

    assert one.take()
    assert not other.take()
    assert elsewhere.take()
    one.check()
    one.close()
    until(other.take, 10)

    with database.engine.begin() as conn:  # as a server that restarts does
        conn.execute(text("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"))
    with pytest.raises(DatabaseUnavailable):
        other.check()
    other.close()
    elsewhere.close()
