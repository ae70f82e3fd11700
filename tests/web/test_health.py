"""``/healthz`` and ``/readyz``: what is stuck, and what is missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from swh_sched_runner.cli import web
from swh_sched_runner.cli.context import Context
from swh_sched_runner.db.engine import Database
from swh_sched_runner.services import supervisor
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.service import Heartbeat
from swh_sched_runner.services.supervisor import Supervisor
from swh_sched_runner.web import health
from swh_sched_runner.web.server import Page
from tests.support.servers.rabbitmq import free_ports
from tests.support.wait import until

ANY = Message()


def content(page: Page) -> tuple[int, Any]:
    assert page.content_type == "application/json"
    return page.status, msgspec.json.decode(page.body)


@pytest.fixture
def readiness(tmp_path: Path) -> Iterator[Callable[[str, str], Callable[[Message], Page]]]:
    """The page of a program on this database and this broker."""
    contexts: list[Context] = []

    def make(database_url: str, broker_url: str) -> Callable[[Message], Page]:
        (tmp_path / "empty.toml").touch()
        flags = {"database.url": database_url, "broker.url": broker_url}
        contexts.append(Context(tmp_path / "empty.toml", flags, environ={}))
        return web.pages(contexts[-1], Supervisor({}), Instruments())["/readyz"]

    yield make
    for context in contexts:
        context.close()


@pytest.mark.parametrize("broker", ["rabbitmq_url", "valkey_url"])
def test_a_program_is_ready_with_its_database_and_its_broker(
    readiness: Callable[..., Callable[[Message], Page]],
    database_url: str,
    broker: str,
    request: pytest.FixtureRequest,
) -> None:
    page = readiness(database_url, request.getfixturevalue(broker))

    assert content(page(ANY)) == (200, {"status": "ready"})


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_all_that_is_missing_is_named_with_the_reason_and_without_passwords(
    readiness: Callable[..., Callable[[Message], Page]], scheme: str
) -> None:
    closed, other = free_ports(2)
    page = readiness(f"postgresql://u:hidden@127.0.0.1:{closed}/db", f"{scheme}://u:hidden@127.0.0.1:{other}/0")

    status, said = content(page(ANY))

    assert (status, said["status"], list(said["missing"])) == (503, "not ready", ["database", "broker"])
    assert said["missing"]["database"].startswith("The database can't be reached: ")
    assert said["missing"]["broker"].startswith("The broker can't be reached: ")
    assert "hidden" not in str(said)


def test_credentials_that_the_broker_refuses_are_missing_too(
    readiness: Callable[..., Callable[[Message], Page]], database_url: str, rabbitmq_url: str
) -> None:
    page = readiness(database_url, rabbitmq_url.replace("guest:guest", "guest:hidden"))

    status, said = content(page(ANY))

    assert (status, list(said["missing"])) == (503, ["broker"])
    assert "hidden" not in str(said)


def test_a_schema_that_does_not_fit_is_missing_and_not_the_database(
    readiness: Callable[..., Callable[[Message], Page]], database_url: str, valkey_url: str, database: Database
) -> None:
    database.run(lambda conn: conn.execute(text("update swh_sched_runner_version set version_num = '9999'")) and None)
    page = readiness(database_url, valkey_url)

    status, said = content(page(ANY))

    assert (status, list(said["missing"])) == (503, ["schema"])
    assert "schema version 9999" in said["missing"]["schema"]


def test_an_answer_that_does_not_come_is_missing_and_the_others_are_not_kept_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "PATIENCE_SECONDS", 0.3)
    release = threading.Event()
    hanging = {f"hanging {n}": lambda: release.wait(60) for n in range(30)}
    page = health.ready(hanging | {"answering": lambda: None})

    began = time.monotonic()
    status, said = content(page(ANY))
    seconds = time.monotonic() - began
    release.set()

    assert status == 503
    assert said["missing"] == dict.fromkeys(hanging, "no answer within 0.3 s")
    assert seconds < 6  # waited for together: 9 s one after the other


def test_a_program_is_alive_until_one_of_its_services_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a service that beats, and one that can be stuck
    monkeypatch.setattr(supervisor, "SILENCE_SECONDS", 0.5)
    stuck, release = threading.Event(), threading.Event()

    class Beating:
        name = "beating"

        def run_once(self, heartbeat: Heartbeat) -> bool:
            return False

        def wait_for_work(self, heartbeat: Heartbeat) -> None:
            heartbeat.wait(0.01)

        def close(self) -> None:
            pass

    class Sticky(Beating):
        def run_once(self, heartbeat: Heartbeat) -> bool:
            if stuck.is_set():
                release.wait(20)
            return False

    made = Supervisor({"beating": Beating, "sticky": Sticky})
    thread = threading.Thread(target=made.run)
    thread.start()
    page = health.alive(made.silent)
    try:
        before = content(page(ANY))
        stuck.set()
        _, said = until(lambda: (found := content(page(ANY)))[0] == 503 and found)
        release.set()
        stuck.clear()
        after = until(lambda: (found := content(page(ANY)))[0] == 200 and found)
    finally:
        release.set()
        made.stop.set()
        thread.join(30)

    assert before == after == (200, {"status": "alive"})
    assert list(said["silent"]) == ["sticky"]
    assert said["silent"]["sticky"].startswith("no sign of life for ")
    assert content(page(ANY))[0] == 200  # a program that ends is not stuck
