"""The fault that is drawn beside what goes wrong: scripts that yield the seconds until they want to go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Protocol

import psycopg2
import psycopg2.extensions

from faults import planted
from faults.agenda import Script
from faults.disk import Disk
from faults.fleet import Fleet, Slot
from faults.load import Load
from faults.servers import SERVICE, Endpoints
from tests.support.servers.proxy import Proxy

RETRY_SECONDS = 0.1
POLL_SECONDS = 0.005
# How long a statement may take where connections fall silent; by default that is 20 s. A service has to notice within
# 10 s that a connection is silent, and to connect anew; two busy cores take their time.
STATEMENT_SECONDS = 4
NOTICE_SECONDS = 20.0
# A runner whose connection was cut waits a little, and a little more where it takes over.
WAIT_SECONDS = 3.0
CUTS = 3
LOCK = "lock table dispatch_batch in share row exclusive mode"
WAITING = "select count(*) from pg_locks where relation = 'dispatch_batch'::regclass and not granted"
TRIGGER = """
create or replace function faults_refuse() returns trigger language plpgsql as $$
begin raise exception 'refused for a while' using errcode = '{code}'; end $$;
create trigger faults_refuse before update on task_run for each row execute function faults_refuse();
"""
# What keeps the database from taking events, and what heals it; {disk} is a folder.
WAYS: dict[str, tuple[str, str]] = {
    "53100": (TRIGGER.format(code="53100"), "drop trigger if exists faults_refuse on task_run"),
    "P0001": (TRIGGER.format(code="P0001"), "drop trigger if exists faults_refuse on task_run"),
    "revoked": (f"revoke update on task_run from {SERVICE}", f"grant update on task_run to {SERVICE}"),
}
FULL_DISK = "full disk"


class Scene(Protocol):
    """What a fault works with. ``listening`` is the listener's fleet; proxies are by the number of the slot."""

    endpoints: Endpoints
    load: Load
    directory: Path
    fleet: Fleet
    listening: Fleet
    dice: Random
    broker_proxies: dict[int, Proxy]
    database_proxies: dict[int, Proxy]

    def cleanup(self, action: Callable[[], object]) -> None:
        """Have something done at the end of the round, however it ends."""

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something done later."""


def refused(scene: Scene) -> Script:
    """For some seconds the database takes no events, or nothing at all; half of the time the listener is killed."""
    dice = scene.dice
    yield dice.uniform(0.1, 1.0)
    way = dice.choice([*WAYS, FULL_DISK])
    disk = Disk(scene.directory / "disk")
    if way == FULL_DISK and not (yield from _moved_to(scene, disk)):
        way = "53100"
    begin, heal = WAYS.get(way, ("", ""))
    if way == FULL_DISK:
        disk.fill()
    else:
        yield from _insist(scene, begin)
    seconds = dice.uniform(3, 12)
    if dice.random() < 0.5:
        yield seconds / 2
        _replace_listener(scene)
        seconds /= 2
    yield seconds
    if way == FULL_DISK:
        disk.free()
    else:
        yield from _insist(scene, heal)


def unsendable(scene: Scene) -> Script:
    """Some tasks can't be sent: put into the table by SQL, among the others, while these are sent."""
    for name in scene.dice.sample(planted.NAMES, len(planted.NAMES)):
        yield scene.dice.uniform(0, 0.5)
        kind = scene.dice.choice([each.name for each in scene.load.types])
        policy = scene.dice.choice(["oneshot", "recurring"])
        yield from _insist(scene, planted.INSERT, planted.values(name, kind, policy))


def mute(scene: Scene) -> Script:
    """The connections of a service to PostgreSQL fall silent and nobody cuts them; it has to notice by itself."""
    yield scene.dice.uniform(0.1, 1.0)
    slot = scene.dice.choice([*scene.fleet.slots, *scene.listening.slots])
    proxy = scene.database_proxies[slot.number]
    while not proxy.accepted:
        yield RETRY_SECONDS
    proxy.silence(only_answers=scene.dice.random() < 0.5)
    before, deadline = proxy.accepted, time.monotonic() + NOTICE_SECONDS
    while proxy.accepted == before and slot.alive:
        if time.monotonic() > deadline:
            scene.fleet.objections.append(
                f"service {slot.number} does not notice that PostgreSQL is silent: {slot.log}"
            )
            proxy.cut()
            return
        yield RETRY_SECONDS


def cut_in_grab(scene: Scene) -> Script:
    """The runners' connections to the broker are cut while they grab; and again at the first grab after that."""
    yield scene.dice.uniform(0, 0.6)
    for _ in range(CUTS):
        try:
            with closing(psycopg2.connect(scene.endpoints.database_url)) as holding, holding.cursor() as cursor:
                cursor.execute(LOCK)
                yield from _cut_when_waiting(scene, cursor)
        except psycopg2.Error:  # the server was restarted meanwhile
            continue


def _cut_when_waiting(scene: Scene, cursor: psycopg2.extensions.cursor) -> Script:
    for _ in range(int(WAIT_SECONDS / POLL_SECONDS)):
        cursor.execute(WAITING)
        if cursor.fetchone() != (0,):
            break
        yield POLL_SECONDS
    for slot in scene.fleet.slots:
        scene.broker_proxies[slot.number].cut()
    yield scene.dice.uniform(0, 0.5)


def _moved_to(scene: Scene, disk: Disk) -> Generator[float, None, bool]:
    """Put the runs on a small disk; whether there is one."""
    if not disk.mount():
        return False
    name = f"faults_{scene.endpoints.database}"
    scene.cleanup(disk.unmount)
    scene.cleanup(lambda: _leave(scene.endpoints, name))
    folder = disk.directory / "tablespace"
    folder.mkdir(mode=0o700)
    yield from _insist(scene, f"create tablespace {name} location '{folder}'")
    yield from _insist(scene, f"alter table task_run set tablespace {name}")
    return True


def _leave(endpoints: Endpoints, name: str) -> None:
    for statement in ("alter table task_run set tablespace pg_default", f"drop tablespace {name}"):
        with suppress(psycopg2.Error):
            _execute(endpoints.database_url, statement)


def _replace_listener(scene: Scene) -> None:
    """SIGKILL, and another one."""
    for slot in scene.listening.slots:
        scene.listening.kill(slot)
        scene.later(scene.dice.uniform(0, 1), lambda slot=slot: _start(scene.listening, slot))


def _start(fleet: Fleet, slot: Slot) -> None:
    if not slot.alive:
        fleet.start(slot)


def _insist(scene: Scene, statements: str, values: Mapping[str, str] | None = None) -> Script:
    """Until the server takes it, which may be away."""
    while True:
        try:
            _execute(scene.endpoints.database_url, statements, values)
            return
        except psycopg2.OperationalError:
            yield RETRY_SECONDS


def _execute(url: str, statements: str, values: Mapping[str, str] | None = None) -> None:
    # A connection that is silent may hold locks for a while: others are looked after meanwhile.
    with closing(psycopg2.connect(url, options="-c lock_timeout=500")) as conn:
        conn.autocommit = True
        with conn.cursor() as cursor:
            cursor.execute(statements, values)


NONE = "none"
SCRIPTS: dict[str, Callable[[Scene], Script]] = {
    "refused": refused,
    "unsendable": unsendable,
    "mute": mute,
    "cut-in-grab": cut_in_grab,
}
NAMES = (*SCRIPTS, NONE)


def fault_of(seed: int) -> str:
    """The fault of the round with this seed."""
    return Random(f"fault of {seed}").choice(list(SCRIPTS))
