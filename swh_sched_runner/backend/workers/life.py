"""A life: one run of a worker process, and what becomes of it by each thing that it signs. Pure; no database."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import attrs

from swh_sched_runner.backend.workers.leaving import Ends, Leaving

# Of a host name so many characters are kept; Celery's are shorter.
MAX_HOSTNAME = 255
MAX_SOFTWARE = 64
# Heartbeats wait in their queue for ten seconds at most: what arrives later after an end was sent after it.
LATE_SECONDS = 15.0
# So long a life has been silent while another one of its name signs: it is over, whatever their clocks say.
SUCCEEDED_SECONDS = 30.0
# No clock that serves for anything is further ahead.
AHEAD = timedelta(days=1)
# So many starts wait to be compared with a heartbeat; beyond, nothing comes to compare them with.
MOST_STARTS = 10_000
# The same before the first heartbeat: the row is written with each batch, and there may never be one.
MOST_STARTS_AT_FIRST = 1_000
# Pools in which one thread accepts all executions and sends all events: counts and clocks come in one order.
ORDERED_POOLS = ("prefork", "solo")


class WorkerKey(NamedTuple):
    """What an event says of the life that sent it. ``life`` is the random id that our Events class sends, if so.

    Without it, several lives may have one key, one after the other: every container starts with pid 1.
    """

    hostname: str
    pid: int | None
    life: str | None

    @property
    def rank(self) -> tuple[str, int, str]:
        """For an order among keys."""
        return self.hostname, -1 if self.pid is None else self.pid, self.life or ""


@attrs.frozen
class WorkerSign:
    """A worker event. ``signed`` is its timestamp, by the clock of the worker's machine."""

    key: WorkerKey
    kind: Literal["online", "offline", "heartbeat"]
    signed: datetime
    clock: int | None = None
    processed: int | None = None
    active: int | None = None
    software: str | None = None
    version: str | None = None


@attrs.frozen
class Starts:
    """The task-started of one key in a batch, of foreign tasks as well: when the first and last was, and the clocks."""

    key: WorkerKey
    first: datetime
    last: datetime
    clocks: Collection[int]


@attrs.define(slots=True)
class Life(Leaving):
    """A row of ``worker``, whose columns it explains in the schema. ``id`` is None until it is written."""

    hostname: str
    pid: int | None
    life: str | None
    began: datetime
    signed: datetime
    first_sign: datetime
    id: int | None = None
    last_sign: datetime | None = None
    clock: int | None = None
    processed: int | None = None
    active: int | None = None
    software: str | None = None
    version: str | None = None
    pool: str | None = None
    clock_offset: float | None = None
    events_clock: int | None = None
    audit_from: int | None = None
    audit_settled: int | None = None
    audit_processed: int | None = None
    audit_starts: int = 0
    recent_starts: list[int] = attrs.Factory(list)
    sample_clock: int | None = None
    sample_processed: int | None = None
    sample_active: int | None = None
    sampled: datetime | None = None
    unmatched: int | None = None
    missing: int | None = None
    ended: datetime | None = None
    ended_by: str | None = None

    @property
    def key(self) -> WorkerKey:
        """What its events say."""
        return WorkerKey(self.hostname, self.pid, self.life)

    @property
    def has_begun(self) -> bool:
        """Whether it is known to have begun an execution."""
        return bool(self.processed) or self.events_clock is not None

    def is_before(self, sign: WorkerSign) -> bool:
        """Whether the sign, which has this life's key, is the first of a later life.

        Only what is newer than all that was seen proves anything: a late event goes back as well. Of two counts that go
        back one may be made up, of one that is known to be larger than any the next may be true.
        """
        if self.life is not None or sign.signed <= self.signed:
            return False
        if sign.kind == "online":
            return sign.processed == 0 and self.has_begun
        return (
            None not in (self.clock, self.processed, sign.clock, sign.processed)
            and sign.clock < self.clock  # type: ignore[operator]
            and sign.processed < self.processed  # type: ignore[operator]
        )

    def sign(self, sign: WorkerSign, now: datetime) -> None:
        """Take in a worker event that arrives ``now``."""
        is_newest = sign.signed >= self.signed if sign.clock is None else sign.clock >= (self.clock or 0)
        self._lasts(sign.signed, sign.signed)
        if is_newest:
            self.clock = sign.clock if sign.clock is not None else self.clock
            self.processed = sign.processed if sign.processed is not None else self.processed
            self.active = sign.active if sign.active is not None else self.active
            self.software, self.version = sign.software or self.software, sign.version or self.version
        match sign.kind:
            case "online":
                self.come_online(sign.signed)
                if sign.processed == 0:
                    self._sample(sign, now)
            case "offline":
                self.leave(sign.signed, sign.clock, sign.active, now, self.events_clock or 0)
            case "heartbeat":
                self._revive(is_newest, now)
                self.last_sign = now
                if is_newest:
                    self.clock_offset = (now - sign.signed).total_seconds()
                self._sample(sign, now)

    def start(self, starts: Starts) -> None:
        """Take in its task-started of a batch."""
        self._lasts(starts.first, starts.last)
        if self.begins(starts.clocks, starts.last) and self.ended_by == "left":
            self.ended = self.ended_by = None  # it was not over
        fresh = {clock for clock in starts.clocks if self.audit_settled is None or clock > self.audit_settled}
        self.recent_starts = sorted(fresh.union(self.recent_starts))
        if starts.clocks:
            self.events_clock = max(self.events_clock or 0, *starts.clocks)
        if len(self.recent_starts) > (MOST_STARTS_AT_FIRST if self.audit_from is None else MOST_STARTS):
            self._audit_anew()
        self.compare_sample()

    def _lasts(self, first: datetime, last: datetime) -> None:
        self.began, self.signed = min(self.began, first), max(self.signed, last)

    def _revive(self, is_newest: bool, now: datetime) -> None:
        """A life that goes on signing is not over, but for one that an operator ended."""
        if (
            self.ended is not None
            and self.ended_by != "forgotten"
            and is_newest
            and now > self.ended + timedelta(seconds=LATE_SECONDS)
        ):
            self.ended = self.ended_by = None

    # The audit: processed at a heartbeat less task-started before it.

    def _sample(self, sign: WorkerSign, now: datetime) -> None:
        if sign.clock is None or sign.processed is None:
            return
        if self.audit_from is None:
            if self.audit_settled is None or sign.clock >= self.audit_settled:
                self.audit_from = self.audit_settled = sign.clock
                self.audit_processed, self.audit_starts = sign.processed, 0
                self.recent_starts = [clock for clock in self.recent_starts if clock > sign.clock]
        elif self.sample_clock is None and sign.clock > (self.audit_settled or 0):
            self.sample_clock, self.sample_processed, self.sample_active = sign.clock, sign.processed, sign.active
            self.sampled = now
        self.compare_sample()

    def _audit_anew(self) -> None:
        self.audit_from, self.audit_settled = None, self.events_clock
        self.audit_processed, self.audit_starts, self.recent_starts = None, 0, []
        self.unmatched = self.missing = None
        self._drop_sample()

    def _drop_sample(self) -> None:
        self.sample_clock = self.sample_processed = self.sample_active = None
        self.sampled = None

    def compare_sample(self, *, all_recorded: bool = False) -> None:
        """Compare the heartbeat that waits, if all starts before it are recorded.

        A start after it proves that, since a worker sends its events in order; so does an event queue that is empty
        long enough after it (``all_recorded``).
        """
        clock, processed = self.sample_clock, self.sample_processed
        if clock is None or processed is None or self.audit_processed is None:
            return
        if not all_recorded and (self.events_clock or 0) <= clock:
            return
        if not self.is_ordered and self.sample_active != 0:
            self._drop_sample()  # threads count an execution and report it one after the other
            return
        before = [start for start in self.recent_starts if start < clock]
        self.audit_starts += len(before)
        self.recent_starts = self.recent_starts[len(before) :]
        self.audit_settled = clock
        unmatched = processed - self.audit_processed - self.audit_starts
        if self.unmatched is not None:
            self.missing = max(0, min(unmatched, self.unmatched))
        self.unmatched = unmatched
        self._drop_sample()

    @property
    def is_ordered(self) -> bool:
        """Whether its counts and clocks come in one order."""
        return self.pool in ORDERED_POOLS


class Lives:
    """The lives of some workers, as they are known, and what becomes of them ``now``."""

    def __init__(self, known: Iterable[Life], now: datetime) -> None:
        self._by_hostname: dict[str, list[Life]] = {}
        self._now = now
        for life in known:
            self._by_hostname.setdefault(life.hostname, []).append(life)

    def all(self) -> list[Life]:
        """Known ones in the order in which they were given, new ones among them."""
        return [life for lives in self._by_hostname.values() for life in lives]

    def take_in(
        self, signs: Sequence[WorkerSign], starts: Sequence[Starts], ends: Sequence[Ends] = ()
    ) -> dict[WorkerKey, Life]:
        """Take in what was signed; answers the life of each key of ``starts``."""
        signs = [attrs.evolve(sign, signed=self._plausible(sign.signed)) for sign in signs]
        ordered = sorted(signs, key=lambda sign: (sign.signed, sign.clock or 0))
        for sign in ordered:
            self._life_of(sign.key, sign.signed, sign).sign(sign, self._now)
        started = {}
        for each in starts:
            each = attrs.evolve(each, first=self._plausible(each.first), last=self._plausible(each.last))
            life = self._life_of(each.key, each.last)
            life.start(each)
            started[each.key] = life
        for end in ends:
            # One host name and pid: where two lives of them shut down, it can't be told which one signed.
            signed = [life for life in self._by_hostname.get(end.hostname, ()) if life.pid == end.pid]
            lives = [life for life in signed if life.is_leaving and life.ended is None]
            if len(lives) == 1:
                lives[0].ends(end.ends)
        for lives in self._by_hostname.values():
            self._end_succeeded(lives)
            for life in lives:
                life.count_left(is_ordered=life.is_ordered)
        return started

    def _plausible(self, signed: datetime) -> datetime:
        """A clock that is a day ahead says nothing: the time of arrival counts instead."""
        return signed if signed < self._now + AHEAD else self._now

    def _life_of(self, key: WorkerKey, signed: datetime, sign: WorkerSign | None = None) -> Life:
        lives = self._by_hostname.setdefault(key.hostname, [])
        same = sorted((life for life in lives if life.key == key), key=lambda life: life.began)
        begun = [life for life in same if life.began <= signed]
        life = begun[-1] if begun else same[0] if same else None
        if life is None or (sign is not None and life.is_before(sign)):
            life = Life(*key, began=signed, signed=signed, first_sign=self._now)
            lives.append(life)
        return life

    def _end_succeeded(self, lives: list[Life]) -> None:
        for life in lives:
            if life.ended is None and any(self._succeeds(other, life) for other in lives if other is not life):
                life.ended, life.ended_by = self._now, "succeeded"

    @staticmethod
    def _succeeds(other: Life, life: Life) -> bool:
        """Whether the other one began after all that this one signed: by their machine's clock, else by arrival.

        Not if this one went on after the other was seen: then a clock is wrong, or an event made up.
        """
        outlived = life.last_sign is not None and life.last_sign > other.first_sign + timedelta(seconds=LATE_SECONDS)
        if other.began > life.signed and not outlived:
            return True
        if life.last_sign is None or other.last_sign is None:
            return False
        silent = (other.last_sign - life.last_sign).total_seconds()
        return other.first_sign > life.last_sign and silent > SUCCEEDED_SECONDS
