"""A fleet in which nothing is wrong: the rescuer finds nothing."""

from __future__ import annotations

from tests.support.fleet import OTHER_QUEUE, Fleet
from tests.support.processes.programs import Programs
from tests.support.wait import until

ROUNDS = 4
NONE = "no run is lost, as far as can be told\n"


def test_a_healthy_fleet_under_load_has_no_verdicts(fleet: Fleet, programs: Programs) -> None:
    fleet.worker("w1", concurrency=2)
    fleet.worker("w2", queue=OTHER_QUEUE, concurrency=2, stock=True)
    slow = [fleet.started("a"), fleet.started("b"), *fleet.received("c"), *fleet.create("d", "e", "f")]
    quick = fleet.create_quick(3_000)

    printed = [programs.run("rescue", "--once", "--dry-run") for _ in range(ROUNDS)]
    under_load = any(run["ended"] is None for run in fleet.all_runs(quick))
    fleet.let_end(*"abcdef")

    assert [(done.returncode, done.stderr) for done in printed if done.returncode] == []
    assert [done.stdout for done in printed] == [NONE] * ROUNDS
    assert under_load
    assert [fleet.end(task)["status"] for task in slow] == ["eventful"] * len(slow)
    until(lambda: all(run["ended"] for run in fleet.all_runs(quick)), 60)
    assert fleet.verdicts() == []
