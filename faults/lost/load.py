"""What is executed in a round of lost runs, and how each run goes: its id tells."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from faults.drainer import Speed
from faults.load import PRIORITIES, Load, Planned, Type, Wave

TYPES = (
    Type("lost-once", "tests.lost", 40),
    Type("lost-thrice", "tests.lost", 60, retries=2),
    Type("lost-often", "tests.often", None, retries=4),
)
# Tasks that are executed for longer than it takes to judge them.
SLOW = Type("lost-slow", "tests.slow", None, retries=1)
SLOW_SHARE = 50  # one in so many
# How runs go, and how often; what a worker has to report of each is in STATUSES.
WAYS = {"eventful": 60, "uneventful": 12, "failed": 8, "raises": 8, "retries": 9, "crashes": 3}
STATUSES = {"raises": "failed", "retries": "eventful", "crashes": "failed"}
LONG_SHARE = 0.1
SHORT_SECONDS = 0.04
WAVES = 8


@dataclass(frozen=True)
class Course:
    """How a run goes, and how long an attempt takes."""

    way: str
    seconds: float

    @property
    def is_long(self) -> bool:
        """Whether it takes long enough to be killed meanwhile."""
        return self.seconds > SHORT_SECONDS

    def status(self, stock: bool) -> str:
        """What its worker has to report. A stock one does not report what was returned."""
        if stock and self.way in ("uneventful", "failed"):
            return "eventful"
        return STATUSES.get(self.way, self.way)


def course(run: str, name: str) -> Course:
    """How the run with this id, of the Celery task of this name, goes; each time the same, whoever asks."""
    dice = Random(run)
    way = dice.choices(list(WAYS), list(WAYS.values()))[0]
    if name == SLOW.queue:
        return Course(way, dice.uniform(8, 12))
    return Course(way, dice.uniform(0.8, 2.0) if dice.random() < LONG_SHARE else dice.uniform(0, SHORT_SECONDS))


def planned(dice: Random, size: int, seconds: float, *, slow: bool) -> Load:
    """A load of so many tasks: some are there at once, the others come in waves, for so many seconds.

    With ``slow`` some are slow ones, each in a process of its worker for longer than a verdict takes.
    """
    waves = [Wave(0.0, [_task(dice, number, slow=slow) for number in range(size // 4)])]
    for n in range(WAVES):
        first, last = (size // 4 + size * 3 // 4 * k // WAVES for k in (n, n + 1))
        waves.append(
            Wave(
                seconds * (n + dice.random()) / WAVES, [_task(dice, number, slow=slow) for number in range(first, last)]
            )
        )
    return Load((*TYPES, SLOW) if slow else TYPES, waves, [], Speed(1, 0.0), dice.choice([10, 100]))


def _task(dice: Random, number: int, *, slow: bool) -> Planned:
    return Planned(
        number,
        SLOW.name if slow and number % SLOW_SHARE == 0 else dice.choice(TYPES).name,
        dice.choice(["oneshot", "recurring"]),
        dice.choice(PRIORITIES) if dice.random() < 0.1 else None,
        dice.uniform(0, 1.0) if dice.random() < 0.1 else 0.0,
    )
