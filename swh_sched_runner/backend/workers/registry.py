"""The rows of ``worker``, each call a transaction of its own."""

from __future__ import annotations

from collections.abc import Sequence

from swh_sched_runner.backend.workers import lives
from swh_sched_runner.backend.workers.lives import Inspected, LifeListed, Signs, Uninspected
from swh_sched_runner.db.engine import Database


class Workers:
    """Workers' lives; shares the pool of its ``Database``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def record(self, signs: Signs) -> None:
        """Record what workers signed."""
        self._db.run(lives.record, signs)

    def uninspected(self) -> list[Uninspected]:
        """Lives to ask for their pool and queues; each is named once a minute until it answers."""
        return self._db.run(lives.uninspected)

    def record_answers(self, answers: Sequence[Inspected]) -> None:
        """Record what lives answered."""
        self._db.run(lives.record_answers, answers)

    def trim(self) -> int:
        """Remove the rows of lives that are over for a day and that no run in flight names; answers how many."""
        return self._db.run(lives.trim)

    def list(self, *, everything: bool = False) -> list[LifeListed]:
        """Lives that are not over, or all that are kept."""
        return self._db.run(lives.list_lives, everything=everything)

    def forget(self, hostname: str, *, force: bool = False) -> int:
        """End the lives of a worker by an operator's word. Raises ``UnknownWorker`` and, unforced, ``WorkerAlive``."""
        return self._db.run(lives.forget, hostname, force=force)
