"""What goes wrong in a round: scripts that yield the seconds until they want to go on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator
from functools import partial
from random import Random
from typing import Protocol

from faults import points
from faults.agenda import Script
from faults.fleet import Fleet, Slot
from faults.points import Point
from faults.servers import HEARTBEAT_SECONDS, Servers
from faults.window import Window
from tests.support.servers.proxy import Proxy

POLL_SECONDS = 0.002
POINTS_SECONDS = 4.0
# A closed connection is noticed at once, a silent one after three heartbeats or so.
LONGER_THAN_HEARTBEATS = 3.5 * HEARTBEAT_SECONDS


class Scene(Protocol):
    """What a script works with."""

    servers: Servers
    window: Window
    fleet: Fleet
    dice: Random
    broker_proxies: dict[int, Proxy]
    database_proxies: dict[int, Proxy]

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something done later."""

    def unconfirmed(self) -> Slot | None:
        """A runner that has an open batch now."""


def killed(scene: Scene) -> Script:
    """SIGKILL again and again: half the time whoever is there, else one that has unconfirmed and not yet closed."""
    dice = scene.dice
    for _ in range(3 + len(scene.fleet.slots)):
        yield dice.uniform(0.02, 0.8)
        if dice.random() < 0.5:
            slot = dice.choice(scene.fleet.alive() or [None])
        else:
            slot = yield from _one_with_unconfirmed(scene)
        if slot is not None and slot.alive:
            _kill(scene, slot)


def at_points(scene: Scene) -> Script:
    """Runners that kill themselves at a named point each, and come back; each does so twice, while there is work."""
    for _ in range(int(POINTS_SECONDS / POLL_SECONDS)):
        if not any(slot.point or slot.coming for slot in scene.fleet.slots):
            return
        yield POLL_SECONDS
    if not scene.fleet.points:
        scene.fleet.objections.append("no runner reached its point")


def points_of(kind: str, dice: Random) -> list[Point]:
    """Where the runners of one slot die in a round of this kind."""
    if kind == "crowded":
        return [Point(points.HALF_SENT, dice.randint(3, 10)) for _ in range(2)]
    return [Point(dice.choice(points.NAMES), dice.randint(1, 4)) for _ in range(2)] if kind in POINTED else []


def replaced(scene: Scene) -> Script:
    """SIGTERM to one after the other, as when a new release is rolled out; and one is killed on the way."""
    for slot in list(scene.fleet.slots):
        yield scene.dice.uniform(0.2, 0.6)
        if slot.alive:
            scene.fleet.replace(slot)
    yield scene.dice.uniform(0, 0.3)
    for slot in scene.fleet.alive()[:1]:
        if not slot.leaving:
            _kill(scene, slot)


def paused(scene: Scene) -> Script:
    """SIGSTOP for longer than its heartbeats, in the middle of a batch; then SIGCONT, with a successor at work."""
    yield scene.dice.uniform(0.1, 0.8)
    slot = (yield from _one_with_unconfirmed(scene)) or scene.fleet.slots[0]
    scene.fleet.pause(slot)
    yield LONGER_THAN_HEARTBEATS + scene.dice.uniform(0, 1)
    scene.fleet.go_on(slot)
    yield 0.5


def broker_restarted(scene: Scene) -> Script:
    """The broker is stopped in order, and started again."""
    yield scene.dice.uniform(0.1, 1)
    scene.servers.rabbitmq.terminate()
    yield scene.dice.uniform(0, 1)
    scene.servers.rabbitmq.start()


def broker_killed(scene: Scene) -> Script:
    """The broker is killed, in the middle of a batch if there is one, and started again."""
    # RabbitMQ 3.10 notes a new quorum queue half a second late: killed before, it never gets the event queue back.
    yield scene.dice.uniform(1, 2)
    yield from _one_with_unconfirmed(scene)
    scene.servers.rabbitmq.kill()
    yield scene.dice.uniform(0, 1)
    scene.servers.rabbitmq.start()


def broker_silent(scene: Scene) -> Script:
    """Connections to the broker that carry nothing any more, or no answers, or are cut; new ones work."""
    for _ in range(2):
        yield scene.dice.uniform(0.1, 0.6)
        slot = (yield from _one_with_unconfirmed(scene)) or scene.fleet.slots[0]
        proxy = scene.broker_proxies[slot.number]
        ways: list[Callable[[], None]] = [proxy.silence, partial(proxy.silence, only_answers=True), proxy.cut]
        scene.dice.choice(ways)()


def database_silent(scene: Scene) -> Script:
    """A runner's connections to PostgreSQL carry nothing for some seconds, then they are cut, as by TCP's timeout."""
    yield scene.dice.uniform(0.1, 0.8)
    slot = (yield from _one_with_unconfirmed(scene)) or scene.fleet.slots[0]
    proxy = scene.database_proxies[slot.number]
    proxy.silence(only_answers=scene.dice.random() < 0.5)
    yield scene.dice.uniform(2, 3 * HEARTBEAT_SECONDS)
    proxy.cut()


def database_restarted(scene: Scene) -> Script:
    """PostgreSQL is shut down immediately, or its postmaster killed, and started again; twice."""
    for _ in range(2):
        yield scene.dice.uniform(0.2, 0.8)
        scene.servers.end_postgres(scene.dice.choice([signal.SIGQUIT, signal.SIGKILL]))
        yield scene.dice.uniform(0, 0.5)
        scene.servers.postgres.start()


def session_ended(scene: Scene) -> Script:
    """The session that holds a runner's lock is ended; again and again."""
    for _ in range(4):
        yield scene.dice.uniform(0.1, 0.6)
        yield from _one_with_unconfirmed(scene)
        scene.window.end_session()


def _one_with_unconfirmed(scene: Scene, patience_seconds: float = 0.5) -> Generator[float, None, Slot | None]:
    for _ in range(int(patience_seconds / POLL_SECONDS)):
        if (slot := scene.unconfirmed()) is not None:
            return slot
        yield POLL_SECONDS
    return None


def _kill(scene: Scene, slot: Slot) -> None:
    scene.fleet.kill(slot)
    scene.later(scene.dice.choice([0.0, scene.dice.uniform(0, 1.0)]), lambda: scene.fleet.start(slot))


SCRIPTS: dict[str, Callable[[Scene], Script]] = {
    "killed": killed,
    "points": at_points,
    "visits": killed,
    "visits-points": at_points,
    "crowded": at_points,
    "replaced": replaced,
    "paused": paused,
    "session": session_ended,
    "broker-restarted": broker_restarted,
    "broker-killed": broker_killed,
    "broker-silent": broker_silent,
    "database-silent": database_silent,
    "database-restarted": database_restarted,
}
# What workers held comes back when the broker's connections end, which may lift a queue above its limit.
WITHOUT_BOUND = {"broker-restarted", "broker-killed"}
OUTAGES = {"broker-restarted", "broker-killed", "database-restarted"}
VISITING = {"visits", "visits-points"}
POINTED = {"points", "visits-points"}
# Where what goes wrong takes long to be noticed there is work all the while.
LONG = {"paused", "broker-silent", "database-silent"}
