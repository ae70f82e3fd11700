"""Server processes that belong to this one: they end with it, log to a file, and are ended by their pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

POLL_SECONDS = 0.01
LOG_BYTES = 10 * 1024 * 1024
# sockaddr_un holds 108 bytes on Linux and 104 on macOS, the closing NUL included.
SOCKET_PATH_BYTES = 103


def launch(
    command: Sequence[str | Path],
    *,
    log: Path,
    death_signal: signal.Signals,
    owned: Path | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``command`` with its output appended to ``log``; it gets ``death_signal`` when this process ends.

    Call it from the main thread: Linux sends that signal when the calling *thread* ends. ``owned`` names the
    folder that the command must own, and asks for an ordinary user where this process is root. The command has
    a session of its own, so that Ctrl-C in a terminal doesn't reach it. It works in ``folder``, by default in ours.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("servers are started from the main thread: they end with the thread that starts them")
    launcher = [sys.executable, "-I", "-S", Path(__file__).with_name("launch.py")]
    arguments = [os.getpid(), int(death_signal), owned or ""]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*map(str, launcher), *map(str, arguments), *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=None if environment is None else dict(environment),
            cwd=folder,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes], *signals: tuple[signal.Signals, float]) -> None:
    """Send each signal and wait its seconds for the end; after the last one comes SIGKILL."""
    for number, patience_seconds in signals:
        if process.poll() is not None:
            return
        process.send_signal(number)
        if wait_until(lambda: process.poll() is not None, patience_seconds):
            return
    process.kill()
    process.wait()


def wait_until(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Whether ``condition`` came true in time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def end_leftover(pid_file: Path, folder: Path, *signals: tuple[signal.Signals, float]) -> None:
    """End the server of a dead owner that still works in ``folder``, so that two never share its data.

    The owner's death has told it to go already, so at first this only waits. A pid that meanwhile belongs to another
    program is left alone.
    """
    pid = _first_line(pid_file)
    if pid is None:
        return
    if wait_until(lambda: not _works_in(pid, folder), 5):
        return
    for number, patience_seconds in (*signals, (signal.SIGKILL, 10.0)):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        if wait_until(lambda: not _works_in(pid, folder), patience_seconds):
            return


def _first_line(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").resolve(strict=True) == folder.resolve()
    except OSError:
        return False


def fresh_log(log: Path) -> int:
    """Keep the log below twice 10 MB over many starts; where its new lines will begin."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    log.touch(mode=0o600)
    return log.stat().st_size


def tail(log: Path, start: int, lines: int = 5) -> str:
    """The last lines that the log got since ``start``, in one line."""
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    return " | ".join(text.strip().splitlines()[-lines:]) or "no output"


def private(folder: Path) -> Path:
    """Make ``folder`` if it is missing, for its owner alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def socket_folder(folder: Path, name: str) -> Path:
    """A folder where a socket called ``name`` has a path that the system takes: in ``folder`` if that is short enough.

    Else it is a private one below XDG_RUNTIME_DIR or the system's temporary folder, remembered in ``folder``.
    """
    own = folder / "run"
    if _fits(own / name):
        return private(own)
    memory = folder / "socket-folder"
    if memory.exists() and _is_private(remembered := Path(memory.read_text())):
        return remembered
    for parent in filter(None, (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp")):
        if os.access(parent, os.W_OK) and _fits(Path(parent) / "swh-sched-runner-12345678" / name):
            made = tempfile.mkdtemp(prefix="swh-sched-runner-", dir=parent)
            memory.write_text(made)
            return Path(made)
    raise OSError(f"no directory has a path short enough for the socket {name}")


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= SOCKET_PATH_BYTES


def _is_private(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    # Anybody may make a folder of this name below /tmp while ours is away.
    return folder.is_dir() and not folder.is_symlink() and status.st_uid == os.geteuid() and not status.st_mode & 0o077
