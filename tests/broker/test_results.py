"""What a result backend says of the ends of tasks."""

from __future__ import annotations

import json
import pickle
import socket
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.celery.results import read, stored
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import BrokerUnavailable, ResultsUnavailable
from tests.support.processes.workers import StartWorker
from tests.support.servers.rabbitmq import free_ports
from tests.support.wait import until


@pytest.fixture(params=["valkey", "file"])
def backend_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        folder = tmp_path / "results"
        folder.mkdir()
        return f"file://{folder}"
    url: str = request.getfixturevalue("valkey_url")
    return url


@pytest.fixture
def results_app(rabbitmq_url: str, backend_url: str) -> Iterator[Celery]:
    app = create_app(BrokerSettings(url=rabbitmq_url, result_backend=backend_url))
    yield app
    app.close()


def test_ends_that_real_workers_stored_are_read(
    results_app: Celery, rabbitmq_url: str, backend_url: str, queue: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    # given
    config = {"result_backend": backend_url, "task_track_started": True}
    began = datetime.now(UTC)

    def send(name: str, *args: Any, **options: Any) -> str:
        identifier: str = results_app.send_task(name, args, queue=queue, **options).id
        return identifier

    uneventful = send("echo", {"status": "success", "eventful": False})
    failed = send("fail", "for a reason")
    killed = send("die")
    worker = start_worker(rabbitmq_url, [queue], config=config)
    revoked = str(uuid.uuid4())
    results_app.control.revoke(revoked, reply=True, timeout=5, limit=1)
    send("echo", task_id=revoked)
    terminated = send("wait", str(tmp_path / "terminated"))
    started = send("wait", str(tmp_path / "never"))
    later = send("echo", countdown=600)
    until(lambda: (tmp_path / "terminated.started").exists() and (tmp_path / "never.started").exists(), 60)
    results_app.control.revoke(terminated, terminate=True, signal="SIGKILL", reply=True, timeout=5, limit=1)
    ended = [uneventful, failed, killed, revoked, terminated]
    # when
    until(lambda: len(stored(results_app, ended)) == 5 and later in worker.logs(), 60)
    found = stored(results_app, [*ended, started, later, str(uuid.uuid4())])
    # then
    assert found.keys() == set(ended)
    assert {identifier: each.status for identifier, each in found.items()} == {
        uneventful: "uneventful",
        failed: "failed",
        killed: "failed",
        revoked: "failed",
        terminated: "failed",
    }
    assert found[uneventful].note == {"result": {"status": "success", "eventful": False}}
    assert found[failed].note == {"error": "RuntimeError: for a reason"}
    assert "WorkerLostError" in found[killed].note["error"]
    assert found[revoked].note == {"error": "revoked"}
    assert found[terminated].note == {"error": "revoked: terminated by a signal"}
    assert all(began <= each.ended <= datetime.now(UTC) for each in found.values())
    (tmp_path / "never").touch()


def a_meta(**fields: Any) -> bytes:
    meta = {"task_id": "x", "status": "SUCCESS", "result": 1, "traceback": None, "date_done": "2026-11-01T10:00:00"}
    return json.dumps(meta | fields).encode()


def test_the_time_of_an_end_is_utc_unless_it_says_otherwise() -> None:
    plain, zoned = read("x", a_meta()), read("x", a_meta(date_done="2026-11-01T10:00:00+02:00"))
    assert plain is not None
    assert zoned is not None
    assert plain.ended == datetime(2026, 11, 1, 10, tzinfo=UTC)
    assert zoned.ended == datetime(2026, 11, 1, 8, tzinfo=UTC)


@pytest.mark.parametrize("state", ["PENDING", "RECEIVED", "STARTED", "RETRY", "REJECTED", "IGNORED", "MINE"])
def test_other_states_say_nothing(state: str) -> None:
    assert read("x", a_meta(status=state)) is None


@pytest.mark.parametrize(
    "payload",
    [
        None,
        b"",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        a_meta(task_id="another"),
        a_meta(date_done=None),
        a_meta(date_done="yesterday"),
        a_meta(date_done="0001-01-01T00:00:00+14:00"),
        a_meta(status=7),
        json.dumps({"task_id": "x", "status": "SUCCESS", "date_done": "2026-11-01T10:00:00"}).encode(),
    ],
)
def test_what_cannot_be_read_says_nothing(payload: Any) -> None:
    assert read("x", payload) is None


def test_what_a_database_cannot_hold_is_removed() -> None:
    found = read("x", a_meta(result={"status": "failed", "error": "a\0b\ud800c"}))
    assert found is not None
    assert (found.status, found.note["error"]) == ("failed", "abc")


def test_failures_without_a_traceback_are_told_by_their_exception() -> None:
    failure = {"exc_type": "OSError", "exc_message": ["no", 7], "exc_module": "os"}
    found = read("x", a_meta(status="FAILURE", result=failure))
    assert found is not None
    assert found.note == {"error": "OSError('no', 7)"}

    bare = read("x", a_meta(status="FAILURE", result="x"))
    assert bare is not None
    assert bare.note == {"error": "failed without a reason"}


def test_a_task_that_expired_is_told_as_such() -> None:
    failure = {"exc_type": "TaskRevokedError", "exc_message": ["expired"], "exc_module": "celery.exceptions"}
    found = read("x", a_meta(status="REVOKED", result=failure))
    assert found is not None
    assert (found.status, found.note) == ("failed", {"error": "revoked: expired"})


class Planted:
    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)

    def __init__(self, path: Path) -> None:
        self.path = str(path)


def test_pickle_is_never_loaded(results_app: Celery, tmp_path: Path) -> None:
    planted = tmp_path / "loaded"
    identifier = str(uuid.uuid4())
    key = results_app.backend.get_key_for_task(identifier)
    results_app.backend.set(key, pickle.dumps(Planted(planted)))
    results_app.backend.set(results_app.backend.get_key_for_task("x"), a_meta())

    assert stored(results_app, [identifier, "x"]).keys() == {"x"}
    assert not planted.exists()


def test_without_a_result_backend_nothing_is_known(rabbitmq_url: str) -> None:
    assert stored(create_app(BrokerSettings(url=rabbitmq_url)), ["x"]) == {}


@pytest.mark.parametrize("url", ["rpc://", "cache+memory://"])
def test_backends_that_cannot_be_asked_tell_nothing(rabbitmq_url: str, url: str) -> None:
    assert stored(create_app(BrokerSettings(url=rabbitmq_url, result_backend=url)), ["x"]) == {}


def test_a_result_backend_that_is_away_is_no_answer(rabbitmq_url: str) -> None:
    [port] = free_ports(1)
    app = create_app(BrokerSettings(url=rabbitmq_url, result_backend=f"redis://127.0.0.1:{port}/0"))
    began = time.monotonic()

    with pytest.raises(ResultsUnavailable, match="result backend can't be reached") as caught:
        stored(app, ["x"])

    assert isinstance(caught.value, BrokerUnavailable)
    assert time.monotonic() - began < 30


def test_a_result_backend_that_is_silent_is_no_answer(rabbitmq_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        port = server.getsockname()[1]
        app = create_app(BrokerSettings(url=rabbitmq_url, result_backend=f"redis://127.0.0.1:{port}/0"))
        assert app.conf.redis_socket_timeout == app.conf.redis_socket_connect_timeout == 20
        app.conf.redis_socket_timeout = 1

        with pytest.raises(ResultsUnavailable, match="Timeout"):
            stored(app, ["x"])
