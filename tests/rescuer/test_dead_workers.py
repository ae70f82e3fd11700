"""Workers that are killed: their started runs are lost and due again, all others are untouched.

The tests took, in their order, on two loaded cores: 19 s, 23 s, 22 s, 43 s, 43 s, 150 s (the last
three are trials).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter

import pytest

from swh_sched_runner.config import RescuerSettings
from tests.conftest import skip_or_fail
from tests.rescuer.conftest import MakeFleet
from tests.support.fleet import LATE_ACKS, LIMITS, ONE_RESERVED, Fleet
from tests.support.wait import until

CONTAINER = (
    shutil.which("unshare") or "unshare",
    "--pid",
    "--fork",
    "--kill-child",
    "--map-root-user",
)  # the worker has pid 1
SLOW = 5  # so many times longer may a machine take that does other work
DEFAULTS = {name: getattr(RescuerSettings(), name) for name in LIMITS}


def test_the_started_run_of_a_killed_worker_is_lost_and_due_again(fleet: Fleet) -> None:
    first = fleet.worker("w1")
    held = fleet.started("held")
    waiting = fleet.received("a", "b")

    first.kill()
    fleet.let_end("held", "a", "b")
    second = fleet.worker("w2")

    assert fleet.rescue_lost(held) == "worker died"
    until(lambda: [run["status"] for run in fleet.runs(held)] == ["lost", "eventful"], 30)
    ended = [fleet.end(task) for task in waiting]
    assert [run["status"] for run in ended] == ["eventful", "eventful"]
    assert [len(fleet.runs(task)) for task in waiting] == [1, 1]
    executed = Counter(task_id for task_id, _ in second.executions())
    assert executed == Counter(run["backend_id"] for run in (fleet.runs(held)[1], *ended))
    assert fleet.verdicts() == ["worker died"]


def test_the_same_is_found_while_the_queue_is_never_empty(fleet: Fleet) -> None:
    first = fleet.worker("w1", config=ONE_RESERVED)
    held = fleet.started("held")
    fleet.worker("w2", config=ONE_RESERVED)
    waiting = fleet.create(*"abcdef")
    fleet.queued()

    first.kill()
    assert fleet.rescue_lost(held) == "worker died"
    fleet.queued()
    fleet.let_end("held", *"abcdef")

    until(lambda: [run["status"] for run in fleet.runs(held)] == ["lost", "eventful"], 30)
    ended = [fleet.end(task) for task in waiting]
    assert [(run["status"], run["metadata"]["executions"]) for run in ended] == [("eventful", 1)] * 6
    assert fleet.verdicts() == ["worker died"]


def test_a_run_that_is_delivered_again_keeps_its_id_and_its_end(fleet: Fleet) -> None:
    first = fleet.worker("w1", config=LATE_ACKS)
    held = fleet.started("held")

    first.kill()
    second = fleet.worker("w2", config=LATE_ACKS)
    until(second.executions, 30)
    fleet.untouched(held)
    fleet.let_end("held")

    assert fleet.end(held)["status"] == "eventful"
    assert len(fleet.runs(held)) == 1
    assert [task_id for task_id, _ in second.executions()] == [fleet.run(held)["backend_id"]]
    assert fleet.verdicts() == []


@pytest.mark.trial
@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
def test_a_container_killed_and_back_under_name_and_pid_loses_its_old_run_only(fleet: Fleet, stock: bool) -> None:
    if subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode:
        skip_or_fail("no namespaces of processes can be made here")
    worker = fleet.worker("w1", stock=stock, under=CONTAINER)
    old = fleet.started("old")

    killed = time.monotonic()
    worker.kill()
    worker.start()
    assert time.monotonic() - killed < 2 * SLOW
    new = fleet.started("new")
    [first, second] = fleet.lives()
    assert (first.pid, second.pid, first.life == second.life) == (1, 1, stock)

    fleet.rescue_until(lambda: fleet.verdict(old), 90, new, what="a verdict")
    assert fleet.verdicts() == ["worker died"]
    fleet.let_end("old", "new")
    assert fleet.end(new)["status"] == "eventful"
    assert len(fleet.runs(new)) == 1


@pytest.mark.trial
@pytest.mark.timeout(400)
def test_with_default_settings_the_run_of_a_killed_worker_is_lost_within_180_seconds(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(**DEFAULTS)
    first = fleet.worker("w1", options=())
    held = fleet.started("held")
    fleet.rescue()

    first.kill()
    killed = time.monotonic()
    verdict = fleet.rescue_lost(held, 180)
    seconds = time.monotonic() - killed

    sys.stdout.write(f"judged after {seconds:.0f} s\n")
    assert verdict == "worker died"
    assert seconds < 180
