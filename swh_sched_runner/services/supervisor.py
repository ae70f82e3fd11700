"""Runs services, each in a thread of its own, until told to stop; one that fails is started anew."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from types import FrameType

import structlog

from swh_sched_runner.db.deadline import watchdog
from swh_sched_runner.exc import ConfigurationError, SchedulerException, ServiceInTrouble
from swh_sched_runner.services.service import Heartbeat, Service

log = structlog.get_logger(__name__)

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
# A service that gives no sign of life for longer is stuck; systemd is not told that all is well any more.
SILENCE_SECONDS = 90.0
MAINTAIN_SECONDS = 1.0


def notify(message: str) -> None:
    """Tell systemd, if it listens (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            sock.sendall(message.encode())
        except OSError as error:
            log.warning("systemd notification failed", message=message, reason=str(error))


def backoff_seconds(failures: int) -> float:
    """How long to wait after so many failures in a row: doubling, with jitter, half to whole."""
    longest: float = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(failures - 1, 16))
    return longest * random.uniform(0.5, 1)


class Supervisor:
    """Runs services until ``stop`` is set; every failure is logged and followed by a fresh start, later and later."""

    def __init__(
        self,
        factories: Mapping[str, Callable[[], Service]],
        stop: threading.Event | None = None,
        maintain: Callable[[], object] | None = None,
    ) -> None:
        """``maintain`` is called every few seconds in the main thread."""
        self.stop = stop or threading.Event()
        self._factories = factories
        self._maintain = maintain
        self._refused: ConfigurationError | None = None
        self._heartbeats = {name: Heartbeat(self.stop) for name in factories}

    def run(self) -> None:
        """Start all services and return when they have stopped, after SIGTERM, SIGINT or ``stop``.

        Raises ``ConfigurationError`` where a service finds that it can't work as it is configured.
        """
        with _SignalsSet(self.stop):
            threads = [
                threading.Thread(target=self._keep_running, args=(name, factory), name=name)
                for name, factory in self._factories.items()
            ]
            for thread in threads:
                thread.start()
            notify("READY=1")
            log.info("ready", services=",".join(self._factories))
            self._watch(threads)
        log.info("stopped", services=",".join(self._factories))
        if self._refused is not None:
            raise self._refused

    @property
    def names(self) -> list[str]:
        """The services, by name."""
        return list(self._heartbeats)

    def silent(self) -> dict[str, float]:
        """The services that are stuck, and for how many seconds each gave no sign of life. Any thread may ask."""
        if self.stop.is_set():  # one that has ended is silent as well
            return {}
        seconds = {name: heartbeat.silent_seconds() for name, heartbeat in self._heartbeats.items()}
        return {name: silent for name, silent in seconds.items() if silent >= SILENCE_SECONDS}

    def standing_by(self) -> list[str]:
        """The services whose work another process does, while they wait for its end. Any thread may ask."""
        return [name for name, heartbeat in self._heartbeats.items() if heartbeat.standing_by]

    def require_working(self, name: str) -> None:
        """Raise ``ServiceInTrouble`` while something keeps this service from its work. Any thread may ask."""
        trouble = self._heartbeats[name].trouble
        if trouble is not None:
            raise ServiceInTrouble(reason=trouble)

    def _watch(self, threads: list[threading.Thread]) -> None:
        told = os.environ.get("WATCHDOG_USEC", "")
        watchdog_usec = int(told) if told.isascii() and told.isdigit() else 0
        period = min(watchdog_usec / 2_000_000, MAINTAIN_SECONDS) if watchdog_usec else MAINTAIN_SECONDS
        while not self.stop.wait(period):
            self._maintain_servers()
            if not self.silent():
                notify("WATCHDOG=1")
            notify("STATUS=" + "; ".join(f"{name}: {heartbeat.status}" for name, heartbeat in self._heartbeats.items()))
        log.info("stopping", reason="stop requested, finishing the current batch")
        notify("STOPPING=1")
        with watchdog.hurried():  # an answer of the database that may never come is not worth waiting for
            for thread in threads:
                while thread.is_alive():
                    thread.join(period)
                    notify("WATCHDOG=1")

    def _maintain_servers(self) -> None:
        try:
            if self._maintain is not None:
                self._maintain()
        except Exception as error:  # the services wait and say so; the next call may help
            log.error("private servers not restarted", reason=str(error), exc_info=error)

    def _keep_running(self, name: str, factory: Callable[[], Service]) -> None:
        heartbeat, failures = self._heartbeats[name], 0
        while not heartbeat.stopping:
            service: Service | None = None
            try:
                service = factory()
                while not heartbeat.stopping:
                    more = service.run_once(heartbeat)
                    if failures:
                        failures, heartbeat.trouble = 0, None
                    heartbeat.beat()
                    if not more:
                        service.wait_for_work(heartbeat)
            except ConfigurationError as error:
                # No try helps before somebody changes the configuration, and none of the others is asked either.
                self._refused = error
                self.stop.set()
            except SchedulerException as error:
                failures += 1
                self._wait(heartbeat, name, failures, error, known=True)
            except Exception as error:  # a service that dies must not stay dead, whatever it died of
                failures += 1
                self._wait(heartbeat, name, failures, error, known=False)
            finally:
                _close(name, service)

    def _wait(self, heartbeat: Heartbeat, name: str, failures: int, error: Exception, *, known: bool) -> None:
        seconds = backoff_seconds(failures)
        heartbeat.status = f"waits {seconds:.0f} s: {error}"
        heartbeat.trouble = str(error)
        heartbeat.standing_by = False
        if known:
            log.warning("service waits", service=name, reason=str(error), seconds=round(seconds, 1))
        else:
            log.error("service died, restarting it", service=name, seconds=round(seconds, 1), exc_info=error)
        heartbeat.wait(seconds)


def _close(name: str, service: Service | None) -> None:
    if service is None:
        return
    try:
        service.close()
    except Exception as error:  # what it died of may keep it from closing; its connections are replaced anyway
        log.warning("service did not close cleanly", service=name, reason=repr(error))


def _hang_up(stop: threading.Event, *, on_terminal: bool) -> None:
    """The terminal is gone, and the program with it; a service has none, and nothing that it could read anew."""
    if on_terminal:
        stop.set()
    else:
        log.info("SIGHUP ignored", reason="logs go to stderr, and the configuration is read at the start alone")


class _SignalsSet:
    """While entered in the main thread, SIGTERM and SIGINT set an event; SIGHUP does where there is a terminal."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event
        self._before: dict[int, signal.Handlers | int | Callable[[int, FrameType | None], object] | None] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, lambda *_: self._event.set())
            if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # as nohup sets it, it stays
                on_terminal = any(os.isatty(number) for number in (0, 1, 2))  # now: a terminal that is gone is none
                self._before[signal.SIGHUP] = signal.signal(
                    signal.SIGHUP, lambda *_: _hang_up(self._event, on_terminal=on_terminal)
                )

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
