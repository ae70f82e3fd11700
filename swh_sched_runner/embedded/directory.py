"""The data directory: who owns it, which servers it runs, where they are.

- ``lock`` is held by the one process that runs the servers, for as long as it lives, however it dies.
- ``running.json`` says where they are to the other commands; it is believed only while the lock is held.
- ``workers.lock`` is held, shared, by every worker process on the private broker.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import platformdirs
import structlog

from swh_sched_runner.embedded.postgres import Postgres
from swh_sched_runner.embedded.process import POLL_SECONDS
from swh_sched_runner.embedded.valkey import Valkey
from swh_sched_runner.exc import DataDirectoryInUse, DataDirectoryRefused

log = structlog.get_logger(__name__)

# ``running`` takes the lock for an instant to see whether it is free; that is no other owner.
LOCK_SECONDS = 0.5


class Running(msgspec.Struct, frozen=True):
    """Where the private servers of a data directory are; None what is not run there. ``pid`` is their owner's."""

    database_url: str | None
    broker_url: str | None
    pid: int


class Servers:
    """The private servers that this process runs, while ``servers`` lasts; None what it doesn't run."""

    def __init__(self, running: Running, postgres: Postgres | None, valkey: Valkey | None) -> None:
        self.running = running
        self.postgres = postgres
        self.valkey = valkey

    @property
    def database_url(self) -> str | None:
        """The libpq URL of the private database, None if it is not private."""
        return self.running.database_url

    @property
    def broker_url(self) -> str | None:
        """The URL of the private broker for Celery, None if it is not private."""
        return self.running.broker_url

    def revive(self) -> list[str]:
        """Start again what has died, under the same URL, and return its names. From the main thread only."""
        revived = []
        for name, server in (("PostgreSQL", self.postgres), ("Valkey", self.valkey)):
            if server is not None and not server.alive():
                log.warning("private server died, restarting it", server=name, log=str(server.log))
                server.start()
                revived.append(name)
        return revived


def resolve(configured: str | None) -> Path:
    """The data directory: the configured one, else the user's own."""
    return Path(configured or platformdirs.user_data_dir("swh-sched-runner")).expanduser().absolute()


@contextmanager
def servers(directory: Path, *, database: bool, broker: bool) -> Iterator[Servers]:
    """Own ``directory`` and run what is asked for until the block ends. From the main thread only.

    Raises ``DataDirectoryInUse`` where another process owns it, ``DataDirectoryRefused`` where it belongs to
    somebody else or others may write to it, ``DataDirectoryVersion`` for data of another PostgreSQL.
    """
    began = time.monotonic()
    with _owned(directory), ExitStack() as stack:
        with usable(directory):
            postgres = stack.enter_context(Postgres(directory / "postgresql")) if database else None
            valkey = stack.enter_context(Valkey(directory / "valkey")) if broker else None
            running = Running(postgres.url() if postgres else None, valkey.url() if valkey else None, os.getpid())
            stack.callback((directory / "running.json").unlink, missing_ok=True)
            _publish(directory, running)
        if postgres or valkey:
            log.info(
                "private servers started",
                servers=" and ".join(name for name, on in (("PostgreSQL", postgres), ("Valkey", valkey)) if on),
                directory=str(directory),
                seconds=round(time.monotonic() - began, 2),
            )
        yield Servers(running, postgres, valkey)


def running(directory: Path) -> Running | None:
    """Where the servers of ``directory`` are; None when nobody runs them, or they are not up yet."""
    try:
        with _opened(directory / "lock", os.O_RDONLY) as lock:
            if _take(lock, fcntl.LOCK_SH):
                return None
        return msgspec.json.decode((directory / "running.json").read_bytes(), type=Running)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    except PermissionError as error:
        raise DataDirectoryRefused(directory=directory, reason="it belongs to another user") from error


@contextmanager
def worker_lock(directory: Path) -> Iterator[None]:
    """RetryBuffer by a worker process on the private broker, and by the children that it forks, until all are dead."""
    prepare(directory)
    with ExitStack() as stack:
        with usable(directory):
            lock = stack.enter_context(_opened(directory / "workers.lock", os.O_RDWR | os.O_CREAT))
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def workers_alive(directory: Path) -> bool:
    """Whether any process holds ``worker_lock``. False means that all workers of the private broker are dead."""
    try:
        with _opened(directory / "workers.lock", os.O_RDWR) as lock:
            return not _take(lock, fcntl.LOCK_EX)
    except FileNotFoundError:
        return False


@contextmanager
def _owned(directory: Path) -> Iterator[None]:
    prepare(directory)
    with ExitStack() as stack:
        with usable(directory):
            lock = stack.enter_context(_opened(directory / "lock", os.O_RDWR | os.O_CREAT))
        deadline = time.monotonic() + LOCK_SECONDS
        while not _take(lock, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                pid = os.pread(lock, 20, 0).decode().strip() or "unknown"
                raise DataDirectoryInUse(directory=directory, pid=pid)
            time.sleep(POLL_SECONDS)
        (directory / "running.json").unlink(missing_ok=True)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield


def prepare(directory: Path) -> None:
    """Make ``directory``, for its owner alone, where it is missing; raises ``DataDirectoryRefused``."""
    with usable(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    if found.st_uid != os.geteuid():
        raise DataDirectoryRefused(directory=directory, reason="it belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise DataDirectoryRefused(directory=directory, reason=f"others may write to it (chmod 700 {directory})")


@contextmanager
def usable(directory: Path) -> Iterator[None]:
    """While entered, what the system refuses about files raises ``DataDirectoryRefused``, which names the file."""
    try:
        yield
    except OSError as error:
        file = f" ({error.filename})" if error.filename not in (None, str(directory)) else ""
        raise DataDirectoryRefused(directory=directory, reason=f"{error.strerror or error}{file}") from error


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _take(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _publish(directory: Path, running: Running) -> None:
    aside = directory / "running.json.new"
    with _opened(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
        os.write(file, msgspec.json.encode(running))
    aside.replace(directory / "running.json")
