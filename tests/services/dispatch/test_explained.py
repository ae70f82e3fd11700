"""A runner says what it does: in a few words as its status, and with level debug each decision."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.service import Heartbeat
from tests.support.samples import a_task, a_type


def status_when_it_sleeps(runner: Runner) -> str:
    """What the runner says before its first sleep; it is told to stop, so that the sleep is over at once."""
    stop = threading.Event()
    heartbeat = Heartbeat(stop)
    while runner.run_once(heartbeat):
        pass
    stop.set()
    runner.wait_for_work(heartbeat)
    return heartbeat.status


def test_an_idle_runner_says_when_the_next_task_is_due(
    backend: SchedulerBackend, make_runner: Callable[..., Runner]
) -> None:
    runner = make_runner()
    assert status_when_it_sleeps(runner) == "idle, no task waits"

    backend.create_task_type(a_type())
    backend.create_tasks([a_task(next_run=datetime.now(UTC) + timedelta(hours=3))])
    assert status_when_it_sleeps(runner) == "idle, next task due in 3 h"

    backend.create_task_type(a_type("full", max_queue_length=0))
    backend.create_tasks([a_task(task_type="full")])
    assert status_when_it_sleeps(runner) == "due tasks wait for queue tests.full (full)"


def test_debug_explains_a_round_and_each_decision(
    backend: SchedulerBackend, make_runner: Callable[..., Runner], caplog: pytest.LogCaptureFixture
) -> None:
    backend.create_task_type(a_type(max_queue_length=10))
    backend.create_task_type(a_type("full", max_queue_length=0))
    ids = [task["id"] for task in backend.create_tasks([a_task(1), a_task(2), a_task(3, "full")])]
    runner = make_runner()

    with caplog.at_level(logging.DEBUG, "swh_sched_runner"), structlog.testing.capture_logs() as lines:
        runner.run_once(Heartbeat())

    by_event = {line["event"]: line for line in lines}
    assert by_event["tasks taken"]["tasks"] == ids[:2]
    leased = {line["queue"]: line["capacity"] for line in lines if line["event"] == "queue leased"}
    assert leased == {"tests.load-git": 10, "tests.full": 0}
    assert by_event["round over"]["blocked"] == {"tests.full": "full"}
    assert by_event["round over"]["sent"] == 2
