"""A rescuer on a real database, and a broker with workers as a test describes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.tasks.lost import Lost, Marks, record_marks
from swh_sched_runner.backend.workers.lives import Inspected
from swh_sched_runner.backend.workers.registry import Workers
from swh_sched_runner.backend.workers.watched import WatchedLives
from swh_sched_runner.broker.celery.inspection import WorkerAnswer
from swh_sched_runner.broker.interface import QueueInfo
from swh_sched_runner.config import RescuerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.services.listener.merge import fold
from swh_sched_runner.services.listener.signs import signs_of
from swh_sched_runner.services.rescuer.evidence import Findings
from swh_sched_runner.services.rescuer.rescuer import BrokerAccess, Rescuer
from swh_sched_runner.services.rescuer.selection import Request
from swh_sched_runner.services.service import Heartbeat
from tests.support.samples import a_type

QUEUE = "tests.load-git"
AT = datetime.now(UTC).timestamp() - 7200  # since then all happens, by the workers' clocks
QUICK = RescuerSettings(flush_seconds=0.001, between_looks_seconds=0.001, drain_seconds=0.001)


@attrs.define
class FakeWorker:
    """A worker as the broker shows it: connected or not, and what it answers."""

    connected: bool = True
    answers: bool = True
    consumes: bool = True
    has: set[str] = attrs.field(factory=set)


class FakeBroker:
    """A broker, its listener and its workers. ``on_mark`` is called when a mark arrives, before that is recorded."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.ready: list[str] = []
        self.workers: dict[str, FakeWorker] = {}
        self.more_consumers = 0
        self.listens = True
        self.readable = True
        self.leased_elsewhere = False
        self.results: dict[str, tuple[str, Mapping[str, Any], datetime | None]] = {}
        self.marks: list[bool] = []
        self.on_mark: Callable[[], object] = lambda: None
        self.has_dead_letters = True
        self.broken = False
        self.inspected = 0  # how often

    def access(self, *, results: bool = False) -> BrokerAccess:
        """What a rescuer gets of it."""
        return BrokerAccess(
            lambda: self,  # type: ignore[arg-type,return-value]
            lambda: self,
            lambda: self,
            self.ask,
            self.inspect,
            self.stored if results else None,
        )

    # The inspector.

    def info(self, queue: str, message: str | None = None) -> QueueInfo:
        consumers = self.more_consumers + sum(w.connected and w.consumes for w in self.workers.values())
        return QueueInfo(queue, True, len(self.ready), consumers)

    def worker_is_connected(self, hostname: str) -> bool | None:
        return self.workers[hostname].connected if hostname in self.workers else False

    def ask(self, hostnames: Sequence[str], backend_ids: Sequence[str]) -> Mapping[str, Collection[str]]:
        asked = {hostname: self.workers[hostname] for hostname in hostnames if hostname in self.workers}
        return {name: w.has & set(backend_ids) for name, w in asked.items() if w.connected and w.answers}

    def inspect(self, hostnames: Sequence[str]) -> Mapping[str, WorkerAnswer]:
        self.inspected += 1
        asked = {hostname: self.workers[hostname] for hostname in hostnames if hostname in self.workers}
        return {
            name: WorkerAnswer(1, "prefork", False, 60.0, [QUEUE] if w.consumes else [])
            for name, w in asked.items()
            if w.connected and w.answers
        }

    def stored(self, backend_ids: Sequence[str]) -> Mapping[str, tuple[str, Mapping[str, Any], datetime | None]]:
        return {run: self.results[run] for run in backend_ids if run in self.results}

    # Leases.

    def hold(self, queue: str, heartbeat: Heartbeat) -> Any:
        return f"{queue} is leased elsewhere" if self.leased_elsewhere else self

    def ready_ids(self, most: int) -> frozenset[str] | None:
        return frozenset(self.ready) if self.readable else None

    def release(self) -> None:
        pass

    def keep_alive(self) -> None:
        pass

    def close(self) -> None:
        pass

    # Marks.

    def place(self, mark: str, *, dead_letters: bool) -> None:
        self.marks.append(dead_letters)
        self.on_mark()
        if self.listens:
            self._database.run(record_marks, Marks(frozenset([mark]), dead_letters=dead_letters))


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """Runs and workers, and the rescuer that looks at them."""

    def __init__(self, database: Database, backend: SchedulerBackend, broker: FakeBroker) -> None:
        self.database = database
        self.backend = backend
        self.broker = broker
        self.clock = Clock()
        backend.create_task_type(a_type())

    def tell(self, *events: Any) -> None:
        """Record events as the listener does."""
        tasks = [event for event in events if hasattr(event, "uuid")]
        Dispatch(self.database).record_events(fold(tasks), (), signs_of(events))

    def answered(self, hostname: str, pool: str = "prefork", queues: Sequence[str] = (QUEUE,)) -> None:
        """A worker told of its pool and queues."""
        ids = self.query("select id from worker where hostname = :hostname and ended is null", hostname=hostname)
        answer = [Inspected(i, pool, pool not in ("prefork", "threads"), 60.0, list(queues)) for (i,) in ids]
        Workers(self.database).record_answers(answer)

    def query(self, statement: str, **binds: Any) -> list[tuple[Any, ...]]:
        with self.database.engine.begin() as conn:
            result = conn.execute(text(statement), binds)
            return [tuple(row) for row in result] if result.returns_rows else []

    def make(
        self,
        settings: RescuerSettings = QUICK,
        *,
        results: bool = False,
        request: Request | None = None,
    ) -> Rescuer:
        return Rescuer(
            Lost(self.database),
            WatchedLives(self.database),
            self.broker.access(results=results),
            settings,
            "save_code_now:{backend_name}",
            request=request,
            clock=self.clock,
            mark_seconds=0.01,
        )

    def rounds(self, rescuer: Rescuer, times: int = 2) -> Findings:
        """So many rounds, so far apart that a worker that was away all the time is away for long enough."""
        for _ in range(times):
            findings = rescuer.find(Heartbeat())
            self.later(61)
        return findings

    def later(self, seconds: float) -> None:
        """So much time passes without a sign of any worker."""
        self.clock.now += seconds
        self.query("update worker set last_sign = last_sign - make_interval(secs => :seconds)", seconds=seconds)

    def run_of(self, backend_id: str = "run-1") -> tuple[str, Any]:
        """The status of a run, and the verdict on it."""
        [found] = self.query(
            "select status, metadata -> 'verdict' ->> 'verdict' from task_run where backend_id = :run", run=backend_id
        )
        return found[0], found[1]


@pytest.fixture
def scene(database: Database, backend: SchedulerBackend) -> Scene:
    return Scene(database, backend, FakeBroker(database))
