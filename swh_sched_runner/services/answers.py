"""What lives answer when they are asked for their pools and queues."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from swh_sched_runner.backend.workers.lives import Inspected
from swh_sched_runner.broker.celery.inspection import WorkerAnswer

Inspect = Callable[[Sequence[str]], Mapping[str, WorkerAnswer]]


class Asked(Protocol):
    """A life that can be asked."""

    @property
    def id(self) -> int:
        """Its row."""

    @property
    def hostname(self) -> str:
        """Its name."""

    @property
    def pid(self) -> int | None:
        """Its process."""


def answers_of(inspect: Inspect, lives: Iterable[Asked]) -> list[Inspected]:
    """What these lives answer; another process than the one that is known is another life.

    Raises ``BrokerUnavailable``.
    """
    asked = list(lives)
    answers = inspect([life.hostname for life in asked]) if asked else {}
    return [
        Inspected(life.id, answer.pool, answer.blocks, answer.heartbeat, answer.queues)
        for life in asked
        if (answer := answers.get(life.hostname)) is not None and answer.pid == life.pid
    ]
