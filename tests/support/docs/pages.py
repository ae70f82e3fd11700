"""The commands of a page of the documentation, run as a reader types them, and what they print held to what is shown.

``tests.support.docs.blocks`` has how pages say what is special about a block.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from swh_sched_runner.embedded.postgres import Postgres
from tests.support.docs.blocks import (
    BACKGROUND,
    SAVED,
    SCRIPTS,
    UNTIL_SHOWN,
    Fault,
    blocks,
    commands,
    pattern,
)
from tests.support.sources import CHECKOUT
from tests.support.wait import until

COMMAND_SECONDS = 50.0
REPEAT_SECONDS = 1.0  # from the end of one try to the next
END_SECONDS = 20.0


class Page:
    """A page as one reader follows it: one shell, in a home of its own; all that it started ends with ``close``.

    ``replacements`` are what the page names, such as addresses, and what stands for it here.
    """

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        replacements: Mapping[str, str] | None = None,
        *,
        end_seconds: float = END_SECONDS,
    ) -> None:
        self._end_seconds = end_seconds
        self.home = directory / "home"
        self._replacements = replacements or {}
        self._files = directory / "said"
        self._count = 0
        for folder in (self.home, self._files, directory / "tmp"):
            folder.mkdir(parents=True, mode=0o700)
        self._sockets = tempfile.TemporaryDirectory(prefix="page-")  # a path that is short enough for sockets
        (self.home / ".curlrc").write_text("fail\nsilent\nshow-error\n")
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=_clone(self.home / "swh_sched_runner"),
            env=self._environment(directory) | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _environment(self, directory: Path) -> dict[str, str]:
        nowhere = "http://127.0.0.1:9"  # what asks the network all the same finds nobody
        return {
            "PATH": f"{Path(sys.prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": str(CHECKOUT),
            "HOME": str(self.home),
            "USER": "you",
            "TMPDIR": str(directory / "tmp"),
            "XDG_RUNTIME_DIR": self._sockets.name,
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "C_FORCE_ROOT": "1",
            "http_proxy": nowhere,
            "https_proxy": nowhere,
            "no_proxy": "localhost,127.0.0.1",
            "PIP_NO_INDEX": "1",
            "SWH_SCHED_RUNNER_LOG__FORMAT": "console",  # as in a terminal
            "SWH_SCHED_RUNNER_WEB__PORT": "0",  # the ports that it would take are this machine's
        }

    def follow(self, text: str) -> None:
        """Run the commands of a page, or of a part of one; raises ``Fault`` for what doesn't do as the page says."""
        for block in blocks(text):
            if block.note and block.note.startswith(SAVED):
                (self.home / block.note.removeprefix(SAVED)).write_text(block.text)
                continue
            if not block.is_commands or block.not_run:
                continue
            where = f"line {block.line}"
            if block.language in SCRIPTS:
                self._script(where, self._here(where, block.text))
                continue
            for typed, shown in commands(self._here(where, block.text)):
                if block.note == BACKGROUND:
                    self._in_background(where, typed, shown)
                elif block.note == UNTIL_SHOWN:
                    self._until_shown(where, typed, shown)
                else:
                    _judge(where, typed, shown, *self._run(typed), self.home)

    def _here(self, where: str, text: str) -> str:
        for address, ours in self._replacements.items():
            text = text.replace(address, ours)
        hosts = set(re.findall(r"://(?:[^/@\s]*@)?([\w.-]+)", text)) - {"localhost", "127.0.0.1"}
        if hosts:
            raise Fault(f"{where}: it leads to {', '.join(sorted(hosts))}; say why it is not run")
        return text

    def _script(self, where: str, text: str) -> None:
        strict = "set -Eeo pipefail; trap 'echo \"exit status $?: $BASH_COMMAND\"' ERR\n"
        status, said = self._run(strict + text + "\nset +Ee; trap - ERR\n")
        if status:
            raise Fault(f"{where}: exit status {status}\n{said}")

    def _in_background(self, where: str, typed: str, shown: str) -> None:
        pid = self._files / "pid"
        self._run(f"{typed.rstrip()} &\necho $! >{pid}\n")
        process, file = Path("/proc") / pid.read_text().strip(), self._said(self._count)
        expected = pattern(shown, self.home)
        with suppress(AssertionError):
            until(lambda: expected.search(file.read_text(errors="replace")) or not process.exists(), COMMAND_SECONDS)
        said = file.read_text(errors="replace")
        if not expected.search(said):
            raise Fault(f"{where}: {typed}shows\n{shown}and prints\n{said}")

    def _until_shown(self, where: str, typed: str, shown: str) -> None:
        expected, fails = pattern(shown, self.home), _shows_an_error(shown)
        status, said, tried = 0, "", 0.0

        def as_shown() -> bool:
            nonlocal status, said, tried
            if time.monotonic() - tried < REPEAT_SECONDS:
                return False
            status, said = self._run(typed)
            tried = time.monotonic()
            return fails == (status != 0) and expected.search(said) is not None

        try:
            until(as_shown, COMMAND_SECONDS)
        except AssertionError:
            raise Fault(f"{where}: {typed}exit status {status}, shows\n{shown}and prints\n{said}") from None

    def _run(self, text: str, timeout_seconds: float = COMMAND_SECONDS) -> tuple[int, str]:
        """Exit status and output of what the shell was told; the shell itself ends with a script that fails."""
        self._count += 1
        script, status = self._files / f"{self._count}.sh", self._files / f"{self._count}.status"
        script.write_text(text)
        assert self._shell.stdin is not None
        self._shell.stdin.write(
            f"{{ . {script}; }} </dev/null >{self._said(self._count)} 2>&1; echo $? >{status}\n".encode()
        )
        self._shell.stdin.flush()
        until(
            lambda: self._shell.poll() is not None or (status.exists() and status.read_text().endswith("\n")),
            timeout_seconds,
            what=text,
        )
        code = int(status.read_text()) if status.exists() else self._shell.returncode or 1
        return code, self._said(self._count).read_text(errors="replace")

    def _said(self, number: int) -> Path:
        return self._files / f"{number}.txt"

    def still_running(self) -> None:
        """Raises ``Fault`` where something that the page left in the background has ended by itself."""
        _, jobs = self._run("jobs\n")
        if ended := re.findall(r"^\[\d+\]. +(?:Exit|Done) .*", jobs, re.MULTILINE):
            said = "\n".join(file.read_text(errors="replace") for file in sorted(self._files.glob("*.txt")))
            raise Fault("\n".join([*ended, "---", said]))

    def close(self) -> None:
        """End what the page started, by its process ids; raises ``Fault`` for what doesn't go when it is asked to."""
        stubborn = ""
        if self._shell.poll() is None:
            try:
                self._run("kill $(jobs -p); wait\n", self._end_seconds)
            except (AssertionError, BrokenPipeError):
                stubborn = str(self.left())
        with suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.communicate()
        try:
            until(lambda: not self.left(), self._end_seconds)
        except AssertionError:
            stubborn = str(self.left())
            for pid in self.left():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._sockets.cleanup()
        if stubborn:
            raise Fault(f"still running after SIGTERM, and killed: {stubborn}")

    def left(self) -> dict[int, str]:
        """The processes, by id, that work below the page's home."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if Path(os.readlink(process / "cwd")).is_relative_to(self.home):
                    found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _judge(where: str, typed: str, shown: str, status: int, said: str, home: Path) -> None:
    """It must print what is shown and nothing else; and succeed, unless an error of the program is shown."""
    if _shows_an_error(shown) != (status != 0) or (shown and not pattern(shown, home).fullmatch(said)):
        raise Fault(f"{where}: {typed}exit status {status}, shows\n{shown}and prints\n{said}")


def _shows_an_error(shown: str) -> bool:
    return re.search(r"^swh-sched-runner: ", shown, re.MULTILINE) is not None


def _clone(to: Path) -> Path:
    """What a page needs of a clone, with this environment in its `.venv`, which `make venv` takes for made."""
    (to / ".venv").mkdir(parents=True)
    for name in ("Makefile", "setup.cfg"):
        (to / name).symlink_to(CHECKOUT / name)
    (to / ".venv/bin").symlink_to(Path(sys.prefix) / "bin")
    (to / ".venv/.made").touch()
    return to


def libpq(server: Postgres) -> dict[str, str]:
    """The environment in which `postgresql:///scheduler`, and psql, lead to this server."""
    parameters = parse_qs(urlsplit(server.url()).query)
    return {name: parameters[key][0] for name, key in (("PGHOST", "host"), ("PGPORT", "port"), ("PGUSER", "user"))}
