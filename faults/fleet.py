"""The runners of a round: started, killed, paused, and started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from faults import processes
from faults.points import REACHED, Point
from swh_sched_runner import cli

# A service that waits out an outage looks at its stop signal meanwhile, but finishes the batch in hand.
STOP_SECONDS = 15.0
DIED = "service died"
# One that has only just been started ends by the signal itself.
POLITE = (0, -signal.SIGTERM)


@dataclass
class Slot:
    """A place for one runner after the other, always with the same program and environment."""

    number: int
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    process: ForkServerProcess | None = None
    point: Point | None = None
    coming: list[Point] = field(default_factory=list)
    paused: bool = False
    leaving: bool = False

    @property
    def name(self) -> str:
        """What objections call it."""
        return f"{self.arguments[0]} {self.number}"

    @property
    def alive(self) -> bool:
        """Whether a runner runs here, or is paused."""
        return self.process is not None and self.process.is_alive()

    @property
    def pid(self) -> int:
        """The runner's pid."""
        assert self.process is not None
        assert self.process.pid is not None
        return self.process.pid


@dataclass
class Fleet:
    """Slots, and what becomes of them. With ``outages`` a program may end since it finds a server away at its start."""

    slots: list[Slot]
    outages: bool = False
    kills: int = 0
    points: list[Point] = field(default_factory=list)
    objections: list[str] = field(default_factory=list)

    def start(self, slot: Slot) -> None:
        """Start a runner, which dies at the next of the points that are to come in this slot, if there are any."""
        slot.point = slot.coming.pop(0) if slot.coming else None
        slot.paused = slot.leaving = False
        slot.process = processes.start_program(slot.log, slot.environment, slot.arguments, slot.point)

    def alive(self) -> list[Slot]:
        """The slots whose runner runs and isn't paused."""
        return [slot for slot in self.slots if slot.alive and not slot.paused]

    def kill(self, slot: Slot) -> None:
        """SIGKILL."""
        if slot.alive:
            self._signal(slot, signal.SIGKILL)
            assert slot.process is not None
            slot.process.join()
            self.kills += 1
        slot.process = None

    def pause(self, slot: Slot) -> None:
        """SIGSTOP: it does nothing, and its sockets stay open."""
        self._signal(slot, signal.SIGSTOP)
        slot.paused = True

    def go_on(self, slot: Slot) -> None:
        """SIGCONT."""
        self._signal(slot, signal.SIGCONT)
        slot.paused = False

    def replace(self, slot: Slot) -> None:
        """SIGTERM; ``look`` starts the next one when this one is gone."""
        self._signal(slot, signal.SIGTERM)
        slot.leaving = True

    def by_pid(self, pid: int) -> Slot | None:
        """Where the runner with this pid runs."""
        return next((slot for slot in self.alive() if slot.pid == pid), None)

    def look(self) -> Iterator[Slot]:
        """See who has ended: yields those that should be started again, objects to those that ended otherwise."""
        for slot in self.slots:
            if slot.process is None or slot.process.is_alive():
                continue
            status, slot.process = slot.process.exitcode, None
            if slot.point is not None and status == -signal.SIGKILL and REACHED in slot.log.read_text(errors="replace"):
                self.kills += 1
                self.points.append(slot.point)
                slot.point = None
                yield slot
            elif slot.leaving and status in POLITE:
                self.start(slot)
            elif self.outages and status == cli.UNAVAILABLE:
                yield slot
            else:
                self.objections.append(f"{slot.name} ended by itself with status {status}: see {slot.log}")

    def stop(self) -> None:
        """End all politely, and object to those that don't end, or end badly."""
        for slot in self.slots:
            if slot.alive:
                self._signal(slot, signal.SIGTERM)
        for slot in self.slots:
            if slot.process is None:
                continue
            slot.process.join(STOP_SECONDS)
            if slot.process.is_alive():
                self.objections.append(f"{slot.name} does not stop within {STOP_SECONDS:g} s: see {slot.log}")
                self.kill(slot)
            elif slot.process.exitcode not in POLITE:
                self.objections.append(f"{slot.name} stopped with {slot.process.exitcode}: see {slot.log}")
            slot.process = None

    def abandon(self) -> None:
        """Kill whatever runs."""
        for slot in self.slots:
            self.kill(slot)

    @staticmethod
    def _signal(slot: Slot, number: signal.Signals) -> None:
        os.kill(slot.pid, number)


def died(slots: Iterable[Slot]) -> list[str]:
    """Objections to services that ended by an error that they don't know, as their logs tell."""
    counts = {slot.log: slot.log.read_text(errors="replace").count(DIED) for slot in slots if slot.log.exists()}
    return [f"a service died {count} times: see {log}" for log, count in counts.items() if count]


def end(process: ForkServerProcess, seconds: float) -> bool:
    """SIGTERM, and SIGKILL if that isn't enough; whether it was."""
    process.terminate()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    return process.exitcode == 0
