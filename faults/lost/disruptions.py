"""What goes wrong in a round of lost runs, by its kind: who is killed, how often, and for how long who is away."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Protocol

from faults.agenda import Script
from faults.fleet import Fleet, Slot
from faults.lost.record import Span
from faults.lost.services import Services
from faults.lost.workers import Workers
from faults.servers import Servers
from tests.support.servers.proxy import Proxy

LISTENER, RESCUER, RUNNER = "listen", "rescue", "run"
# Between two workers' connections to a broker that came back there may be so much: Celery waits longer each time.
RECONNECT_SECONDS = 12.0
# So long a kill waits for a worker that executes something long.
PATIENCE_SECONDS = 2.0
POLL_SECONDS = 0.05


class Scene(Protocol):
    """What a disruption works with. Proxies are those between a worker and the broker, by the number of its slot."""

    servers: Servers
    services: Services
    workers: Workers
    dice: Random
    proxies: dict[int, Proxy]
    outages: list[Span]
    cuts: list[Span]

    def known(self) -> list[Slot]:
        """Workers of which the services know what they consume from."""

    def executing(self) -> list[Slot]:
        """Those of them that execute something long now."""

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something done later."""


@dataclass(frozen=True)
class Kind:
    """A kind of rounds: how often each disruption is drawn, how many there are after the first, which kills a worker.

    ``away_seconds`` and ``waiting_seconds`` are the rescuer's: who searches runs that wait has less time for others.
    """

    disruptions: Mapping[str, int]
    count: int
    away_seconds: float = 2.0
    waiting_seconds: float = 3.0
    same_name: bool = False
    seconds: float = 5.0
    size: int = 300
    slow: bool = True


KINDS: Mapping[str, Kind] = {
    "lost-worker": Kind({"worker": 1}, 0, waiting_seconds=8.0, seconds=1.0, size=120, slow=False),
    "lost-services": Kind(
        {"listener": 3, "rescuer": 3, "runner": 1}, 3, waiting_seconds=8.0, seconds=2.0, size=120, slow=False
    ),
    "lost-workers": Kind({"worker": 3, "worker-alone": 1}, 4, seconds=10.0),
    "lost-names": Kind({"worker": 1}, 3, same_name=True, seconds=10.0),
    "lost-database": Kind({"database": 3, "worker": 2, "listener": 1, "rescuer": 1}, 5),
    "lost-broker": Kind(
        {"broker-stopped": 2, "broker-killed": 2, "worker": 1}, 2, away_seconds=RECONNECT_SECONDS, seconds=20.0
    ),
    "lost-network": Kind({"network": 3, "worker": 1}, 3, seconds=15.0),
    "lost-all": Kind(
        {
            "worker": 4,
            "worker-alone": 1,
            "listener": 3,
            "rescuer": 3,
            "runner": 2,
            "database": 2,
            "broker-stopped": 1,
            "broker-killed": 1,
        },
        9,
        away_seconds=RECONNECT_SECONDS,
        seconds=20.0,
    ),
}
OUTAGES = {"broker-stopped", "broker-killed", "database"}


def script(scene: Scene, kind: Kind) -> Script:
    """A worker is killed first, so that there is something to find; then what is drawn."""
    first = scene.dice.choice(["worker", "worker", "worker-alone"])
    drawn = [first, *scene.dice.choices(list(kind.disruptions), list(kind.disruptions.values()), k=kind.count)]
    for name in drawn:
        yield scene.dice.uniform(0.2, kind.seconds / len(drawn))
        yield from DISRUPTIONS[name](scene)


def _kill_worker(scene: Scene, *, alone: bool = False) -> Script:
    """One that executes something long, if there is one soon; another one takes its place.

    Never one that was not asked yet what it consumes from: it may have anything, until an operator says it is gone.
    """
    for _ in range(int(PATIENCE_SECONDS / POLL_SECONDS)):
        if scene.executing():
            break
        yield POLL_SECONDS
    if alive := scene.executing() or scene.known():
        slot = scene.dice.choice(alive)
        scene.workers.kill(slot, alone=alone)
        scene.later(scene.dice.choice([0.0, scene.dice.uniform(0, 2.0)]), lambda: _start(scene.workers, slot))
    yield 0.0


def _kill_service(name: str) -> Callable[[Scene], Script]:
    def kill(scene: Scene) -> Script:
        if alive := [slot for slot in scene.services.alive() if slot.arguments[0] == name]:
            slot = scene.dice.choice(alive)
            scene.services.kill(slot)
            scene.later(scene.dice.uniform(0, 1.5), lambda: _start(scene.services, slot))
        yield 0.0

    return kill


def _end_broker(end: Callable[[Servers], object]) -> Callable[[Scene], Script]:
    def restart(scene: Scene) -> Script:
        began = time.time()
        end(scene.servers)
        yield scene.dice.uniform(0, 1)
        scene.servers.rabbitmq.start()
        scene.outages.append(Span(began, time.time()))

    return restart


def _restart_database(scene: Scene) -> Script:
    scene.servers.end_postgres(scene.dice.choice([signal.SIGQUIT, signal.SIGKILL]))
    yield scene.dice.uniform(0, 0.5)
    scene.servers.postgres.start()


def _cut_network(scene: Scene) -> Script:
    """A worker's connections fall silent, and new ones too; later they are cut, and new ones work."""
    if alive := scene.workers.alive():
        slot = scene.dice.choice(alive)
        proxy, began = scene.proxies[slot.number], time.time()
        proxy.silence(new_ones=True)
        yield scene.dice.uniform(0.5, 8)
        proxy.speak()
        proxy.cut()
        scene.cuts.append(Span(began, time.time()))
    yield 0.0


def _start(fleet: Fleet, slot: Slot) -> None:
    if not slot.alive:
        fleet.start(slot)


DISRUPTIONS: Mapping[str, Callable[[Scene], Script]] = {
    "worker": _kill_worker,
    "worker-alone": lambda scene: _kill_worker(scene, alone=True),
    "listener": _kill_service(LISTENER),
    "rescuer": _kill_service(RESCUER),
    "runner": _kill_service(RUNNER),
    "broker-stopped": _end_broker(lambda servers: servers.rabbitmq.terminate()),
    "broker-killed": _end_broker(lambda servers: servers.rabbitmq.kill()),
    "database": _restart_database,
    "network": _cut_network,
}
