"""What is there to dispatch in a round: types, tasks in waves, origins; all of it from the round's dice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from faults.drainer import Speed

PRIORITY_QUEUE = "save_code_now:{}"
PRIORITIES = ("high", "normal", "low")
VISIT_TYPE = "git"
VISITED = "load-git"


@dataclass(frozen=True)
class Type:
    """A task type; several may share a queue, which the least of their limits then holds for.

    What fails is tried again so many times, at once.
    """

    name: str
    queue: str
    limit: int | None
    retries: int = 0


@dataclass(frozen=True)
class Planned:
    """A task: its number, which its message carries."""

    number: int
    task_type: str
    policy: str
    priority: str | None
    due_in_seconds: float


@dataclass(frozen=True)
class Wave:
    """Tasks that are created in one go, so many seconds after the start."""

    at_seconds: float
    tasks: Sequence[Planned]


@dataclass(frozen=True)
class Load:
    """Everything that a round dispatches."""

    types: Sequence[Type]
    waves: Sequence[Wave]
    origins: Sequence[str]
    speed: Speed
    batch_size: int

    @property
    def size(self) -> int:
        """How many tasks and visits there are."""
        return sum(len(wave.tasks) for wave in self.waves) + len(self.origins)

    def limits(self) -> dict[str, int | None]:
        """Every queue, those of tasks with a priority too, and its limit."""
        found: dict[str, int | None] = {}
        for queue in sorted({each.queue for each in self.types}):
            limits = [each.limit for each in self.types if each.queue == queue and each.limit is not None]
            found[queue] = found[PRIORITY_QUEUE.format(queue)] = min(limits, default=None)
        return found


def planned(
    dice: Random, *, visits: bool = False, small: bool = False, crowded: bool = False, slowness: float = 1.0
) -> Load:
    """A load of two seconds times ``slowness``: the most at once, the rest in drops, so that runners also fall asleep.

    A ``small`` one is short; a ``crowded`` one is of tasks by the thousand for one queue alone, which takes them
    by the thousand: many are on their way when their runner dies.
    """
    if crowded:
        types = [Type("crowd", "tests.crowd", dice.randint(1500, 3000))]
        sizes, speed, batch_size = [dice.randint(6000, 9000)], Speed(2000, dice.uniform(0.2, 0.6)), 5000
    else:
        types = _types(dice, 10 if not small and dice.random() < 0.3 else 1)
        sizes = [100, 20] if small else _sizes(dice)
        speed = Speed(dice.choice([100_000, dice.randint(20, 60), dice.randint(60, 200)]), dice.uniform(0.02, 0.2))
        batch_size = dice.choice([20, 40, 100, 1000])
    waves, number, at_seconds = [], 0, 0.0
    for size in sizes:
        waves.append(Wave(at_seconds, [_task(dice, number + n, types) for n in range(size)]))
        number += size
        at_seconds += slowness * dice.uniform(0.05, 0.4)
    count = dice.randint(200, 400) // (4 if small else 1) if visits else 0
    return Load(types, waves, [f"https://forge.example/{n}" for n in range(count)], speed, batch_size)


def _types(dice: Random, deep: int) -> list[Type]:
    return [
        Type("list-a", "tests.shared", deep * dice.randint(8, 60)),
        Type("list-b", "tests.shared", deep * dice.randint(8, 60)),
        Type("list-c", "tests.shared", None),
        Type("save", "tests.save", deep * dice.randint(3, 100)),
        Type("index", "tests.index", dice.choice([None, 200])),
        Type(VISITED, "tests.load", deep * dice.randint(10, 60)),
    ]


def _sizes(dice: Random) -> list[int]:
    return [dice.randint(400, 600), *(dice.choice([1, 5, 80, 150]) for _ in range(dice.randint(7, 10)))]


def _task(dice: Random, number: int, types: Sequence[Type]) -> Planned:
    return Planned(
        number,
        dice.choice(types).name,
        dice.choice(["oneshot", "recurring"]),
        dice.choice(PRIORITIES) if dice.random() < 0.1 else None,
        dice.uniform(0, 1.0) if dice.random() < 0.1 else 0.0,
    )
