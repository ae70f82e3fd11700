"""Workers that send no task events (no ``-E``): what became of a run that they had, nobody says.

The test took 10 s on two loaded cores.
"""

from __future__ import annotations

from tests.support.fleet import QUEUE, Fleet
from tests.support.wait import until


def test_a_run_that_succeeded_without_an_event_is_not_judged(fleet: Fleet) -> None:
    worker = fleet.worker("w1", stock=True, events=False)
    task = fleet.begun("silent")
    until(lambda: fleet.lives()[0].processed, 30, what="a heartbeat counts it")
    fleet.let_end("silent")

    reason = f"{worker.hostname}, which consumes {QUEUE}, sends no task events"
    fleet.rescue_until(lambda: ("3", reason) in fleet.undecided().values(), 60, task, what="it says why")
    fleet.rescue_for(2, task)

    assert fleet.verdicts() == []
