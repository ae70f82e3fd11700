"""The workers of a round: real ones of Celery, with processes of their own, that are killed and started again."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import processes
from faults.fleet import Fleet, Slot
from faults.lost import app
from faults.lost.record import Death

CONCURRENCY = 2


@dataclass(frozen=True)
class Kind:
    """What all workers of a round have in common. ``settings`` are Celery's."""

    names: Sequence[str]
    queues: Sequence[str]
    record: Path
    stock: bool
    settings: Mapping[str, Any]
    same_name: bool = False


@dataclass
class Workers(Fleet):
    """Places for workers, and who was killed in them. ``urls`` say where each reaches the broker, by its number."""

    kind: Kind | None = None
    urls: Mapping[int, str] = field(default_factory=dict)
    deaths: list[Death] = field(default_factory=list)
    _started: list[int] = field(default_factory=list)

    def start(self, slot: Slot) -> None:
        """Start a worker; under a new name, as in a container, unless it keeps its name."""
        assert self.kind is not None
        name = f"w{slot.number}" + ("" if self.kind.same_name else f"-{len(self._started)}")
        slot.leaving = False
        slot.process = processes.start(slot.log, _work, self.urls[slot.number], name, self.kind)
        self._started.append(slot.pid)

    def kill(self, slot: Slot, *, alone: bool = False) -> None:
        """SIGKILL to a worker and its processes, as when its machine dies; or to its main process ``alone``."""
        if slot.process is None:
            return
        if slot.alive:
            self.kills += 1
            self.deaths.append(Death(slot.pid, time.time()))
            if alone:
                slot.process.kill()
            else:
                _kill_group(slot.pid)
            slot.process.join()
        slot.process = None

    def abandon(self) -> None:
        """Kill whatever runs, also what those left behind whose main process was killed."""
        super().abandon()
        for pid in self._started:
            _kill_group(pid)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _work(url: str, name: str, kind: Kind) -> None:
    """Be a worker."""
    os.setpgid(0, 0)
    os.environ["C_FORCE_ROOT"] = "1"
    tempfile.tempdir = str(kind.record.parent)  # a killed worker leaves its folder of semaphores behind
    writer = app.Writer(kind.record, name)
    celery = app.made(url, kind.names, writer, kind.settings, stock=kind.stock)
    celery.worker_main(
        [
            "worker",
            *("-n", f"{name}@faults", "-Q", ",".join(kind.queues), "-P", "prefork", "-c", str(CONCURRENCY)),
            *("-E", "-l", "INFO", "--heartbeat-interval", "1"),
        ]
    )
