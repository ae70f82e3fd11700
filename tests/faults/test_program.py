"""The program as its users run it, killed in the middle of a batch and started again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from faults import caller, drainer, processes
from faults.fleet import end
from faults.judge import judge, read_notes, read_tables
from faults.load import planned
from faults.servers import Endpoints, Servers
from faults.window import Window
from tests.support.processes.programs import Programs, kill_all, terminate
from tests.support.wait import until

LOAD = planned(Random(1))


@pytest.fixture
def endpoints(servers: Servers) -> Iterator[Endpoints]:
    with servers.fresh() as endpoints:
        yield endpoints


@pytest.fixture
def programs(endpoints: Endpoints, tmp_path: Path) -> Iterator[Programs]:
    programs = Programs(
        tmp_path,
        {
            "SWH_SCHED_RUNNER_DATABASE__URL": endpoints.database_url,
            "SWH_SCHED_RUNNER_BROKER__URL": endpoints.broker_url,
            "SWH_SCHED_RUNNER_WEB__PORT": "0",
        },
    )
    yield programs
    programs.close()


def test_a_runner_that_was_killed_finishes_its_batches_when_it_is_started_again(
    endpoints: Endpoints, programs: Programs, tmp_path: Path
) -> None:
    caller.prepare(endpoints.database_url, LOAD)
    caller.call(endpoints.database_url, LOAD)
    notes = tmp_path / "notes"
    taking = processes.start(
        tmp_path / "drainer.log", drainer.drain, endpoints.broker_url, list(LOAD.limits()), notes, LOAD.speed
    )

    first = programs.start("run")
    with closing(Window(endpoints.database_url)) as window:
        until(lambda: window.unconfirmed() == first.pid, 30)
        kill_all(first)
        second = programs.start("run")
        until(lambda: window.left() == 0, 60)

    assert terminate(second) == 0
    assert end(taking, 20)
    numbers = [task.number for wave in LOAD.waves for task in wave.tasks]
    assert judge(read_tables(endpoints.database_url), read_notes(notes), numbers).violations == []
    assert "batches of a dead session taken over" in programs.log("run")
