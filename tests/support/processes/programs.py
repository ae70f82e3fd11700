"""The program as a process of its own, as its users run it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.sources import CHECKOUT


class Programs:
    """Starts `swh-sched-runner` with one environment; everything that still runs is killed by ``close``."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("SWH_SCHED_RUNNER_")
        } | {
            "HOME": str(directory),
            "PYTHONPATH": str(CHECKOUT),
            "C_FORCE_ROOT": "1",
            "SWH_SCHED_RUNNER_WEB__PORT": "0",  # the ports that it would take are this machine's
            **environment,
        }
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start it in the background, in a session of its own; its output goes to ``log(arguments[0])``."""
        with (self.directory / f"{arguments[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "swh_sched_runner", *arguments],
                env=self.environment,
                cwd=self.directory,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def log(self, command: str) -> str:
        """What all processes of this command printed so far."""
        file = self.directory / f"{command}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            [sys.executable, "-m", "swh_sched_runner", *arguments],
            env=self.environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def json(self, *arguments: str) -> Any:
        """Run it and read the JSON that it prints; fails the test unless it exits with 0."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def close(self) -> None:
        """Kill what still runs."""
        for process in self._started:
            kill_all(process)


def terminate(process: subprocess.Popen[bytes]) -> int:
    """SIGTERM; the exit status."""
    process.send_signal(signal.SIGTERM)
    return process.wait(30)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process and its children in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
