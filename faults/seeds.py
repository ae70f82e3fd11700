"""Which round a seed plays: its kind, its fault, how many runners."""

from __future__ import annotations

from pathlib import Path
from random import Random

from faults import drawn, kinds, rounds
from faults.lost import disruptions
from faults.lost import rounds as lost_rounds
from faults.servers import Servers

Result = rounds.Result | lost_rounds.Result

KINDS = (*kinds.SCRIPTS, *disruptions.KINDS)
# Seeds in a row go through all kinds. The first ten are those of CI, where the points have tests of their own.
ORDER = (
    *("killed", "visits", "lost-worker", "database-restarted", "session"),
    *("killed", "broker-killed", "paused", "lost-services", "replaced"),
    *("points", "broker-silent", "killed", "lost-all", "visits-points", "killed", "lost-database"),
    *("database-silent", "killed", "lost-broker", "crowded", "broker-restarted", "lost-network"),
    *("lost-workers", "killed", "lost-names"),
)


def kind_of(seed: int) -> str:
    """The kind of the round with this seed."""
    return ORDER[seed % len(ORDER)]


def runners_of(seed: int) -> int:
    """How many runners the round with this seed has, unless that is said."""
    return Random(f"runners of {seed}").choice([1, 2, 4])


def play(
    servers: Servers,
    directory: Path,
    seed: int,
    runners: int | None = None,
    kind: str | None = None,
    fault: str | None = None,
) -> Result:
    """Play the round of this seed. One of lost runs has one runner, and no fault besides."""
    kind, folder = kind or kind_of(seed), directory / f"round-{seed}"
    if kind in disruptions.KINDS:
        return lost_rounds.Round(servers, folder, seed, kind).run()
    fault = fault or drawn.fault_of(seed)
    return rounds.Round(servers, folder, seed, runners or runners_of(seed), kind, fault).run()
