"""The supervisor: services run until they are told to stop, and those that die are started anew."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from swh_sched_runner.exc import BrokerUnavailable, ConfigurationError
from swh_sched_runner.services import supervisor
from swh_sched_runner.services.service import Heartbeat, Periodic
from swh_sched_runner.services.supervisor import Supervisor, backoff_seconds
from tests.support.wait import until


class Counting(Periodic):
    """A service that counts its rounds, and what was made and closed of its kind."""

    name = "counting"
    period_seconds = 0.001

    def __init__(self, fail: Exception | None = None) -> None:
        self.rounds = 0
        self.closed = False
        self._fail = fail

    def run_once(self, heartbeat: Heartbeat) -> bool:
        self.rounds += 1
        if self._fail is not None:
            raise self._fail
        return False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(supervisor, "MAINTAIN_SECONDS", 0.005)


@pytest.fixture
def running() -> Iterator[Callable[..., Supervisor]]:
    """Runs supervisors in threads and stops them in the end."""
    threads: list[tuple[Supervisor, threading.Thread]] = []

    def start(*args: object, **kwargs: object) -> Supervisor:
        made = Supervisor(*args, **kwargs)  # type: ignore[arg-type]
        thread = threading.Thread(target=made.run)
        thread.start()
        threads.append((made, thread))
        return made

    yield start
    for made, thread in threads:
        made.stop.set()
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [BrokerUnavailable(reason="away"), RuntimeError("a bug")])
def test_a_service_that_dies_is_closed_and_started_anew_and_others_go_on(
    running: Callable[..., Supervisor], error: Exception
) -> None:
    made: list[Counting] = []
    healthy = Counting()

    def factory() -> Counting:
        made.append(Counting(error if len(made) < 3 else None))
        return made[-1]

    running({"failing": factory, "healthy": lambda: healthy})
    until(lambda: len(made) == 4 and made[3].rounds > 3 and healthy.rounds > 3)

    assert [service.closed for service in made] == [True, True, True, False]
    assert [service.rounds for service in made[:3]] == [1, 1, 1]


@pytest.mark.usefixtures("quick")
def test_a_configuration_that_can_t_work_stops_everything_with_its_error() -> None:
    healthy = Counting()

    def factory() -> Counting:
        raise ConfigurationError(reason="a pooler")

    with pytest.raises(ConfigurationError, match="a pooler"):
        Supervisor({"refused": factory, "healthy": lambda: healthy}).run()
    assert healthy.closed or healthy.rounds == 0


@pytest.mark.usefixtures("quick")
def test_a_service_that_can_t_be_made_is_tried_again(running: Callable[..., Supervisor]) -> None:
    service, tries = Counting(), []

    def factory() -> Counting:
        tries.append(1)
        if len(tries) < 3:
            raise BrokerUnavailable(reason="not yet")
        return service

    running({"late": factory})
    until(lambda: service.rounds > 0)
    assert len(tries) == 3


def test_a_stop_waits_for_the_round_in_hand(running: Callable[..., Supervisor]) -> None:
    entered, release = threading.Event(), threading.Event()

    class Slow(Counting):
        def run_once(self, heartbeat: Heartbeat) -> bool:
            entered.set()
            release.wait(30)
            return super().run_once(heartbeat)

    service = Slow()
    made = running({"slow": lambda: service})
    assert entered.wait(30)
    made.stop.set()
    assert not service.closed
    release.set()
    until(lambda: service.closed)
    assert service.rounds == 1


@pytest.mark.usefixtures("quick")
def test_systemd_is_told_ready_watchdog_status_and_stopping(
    running: Callable[..., Supervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        made = running({"counting": Counting})
        while "WATCHDOG=1" not in received:
            received.append(sock.recv(1000).decode())
        made.stop.set()
        while "STOPPING=1" not in received:
            received.append(sock.recv(1000).decode())

    assert received[0] == "READY=1"
    assert any(message.startswith("STATUS=counting: ") for message in received)


@pytest.mark.usefixtures("quick")
def test_the_watchdog_is_not_fed_while_a_service_is_stuck(
    running: Callable[..., Supervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SILENCE_SECONDS", 0.05)
    stuck, release = threading.Event(), threading.Event()

    class Stuck(Counting):
        def run_once(self, heartbeat: Heartbeat) -> bool:
            stuck.set()
            release.wait(30)
            return False

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        running({"stuck": Stuck})
        assert stuck.wait(30)
        received = [sock.recv(1000).decode() for _ in range(40)]
        release.set()

    assert "WATCHDOG=1" not in received[-10:]
    assert received[-1].startswith("STATUS=")


@pytest.mark.parametrize("on_terminal", [False, True])
@pytest.mark.usefixtures("quick")
def test_a_hang_up_ends_what_runs_on_a_terminal_and_nothing_else(
    on_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda number: on_terminal)

    class HungUp(Counting):
        def run_once(self, heartbeat: Heartbeat) -> bool:
            self.rounds += 1
            if self.rounds == 1:
                os.kill(os.getpid(), signal.SIGHUP)
            if self.rounds == 20:
                made.stop.set()
            return False

    service = HungUp()
    before = signal.getsignal(signal.SIGHUP)
    made = Supervisor({"hung up": lambda: service})
    with structlog.testing.capture_logs() as lines:
        made.run()

    assert ("SIGHUP ignored" in [line["event"] for line in lines]) is not on_terminal
    assert (service.rounds == 20) is not on_terminal
    assert signal.getsignal(signal.SIGHUP) == before


def test_back_off_grows_with_jitter_up_to_a_bound() -> None:
    assert all(0.25 <= backoff_seconds(1) <= 0.5 for _ in range(100))
    assert all(15 <= backoff_seconds(50) <= 30 for _ in range(100))
    assert len({backoff_seconds(3) for _ in range(10)}) > 1
