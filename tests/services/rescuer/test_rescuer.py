"""The verdict of each rule, what makes it void, and when nothing is judged."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from swh_sched_runner.broker.celery.events import (
    TaskCancelled,
    TaskFailed,
    TaskReceived,
    TaskResult,
    TaskStarted,
    WorkerHeartbeat,
    WorkerOffline,
    WorkerOnline,
)
from swh_sched_runner.config import RescuerSettings
from swh_sched_runner.exc import BrokerUnavailable
from swh_sched_runner.services.rescuer.rescuer import LOOK_SECONDS
from swh_sched_runner.services.rescuer.selection import Request
from swh_sched_runner.services.service import Heartbeat
from tests.services.rescuer.conftest import AT, QUEUE, QUICK, FakeWorker, Scene
from tests.support.samples import run_of_a_task

pytestmark = pytest.mark.slow

W1 = "w1@here"
W2 = "w2@here"


def an_event(cls: type[Any], second: float, host: str = W1, **more: Any) -> Any:
    return cls(timestamp=AT + second, hostname=host, **({"pid": 1, "clock": int(second)} | more))


def a_worker(scene: Scene, host: str = W1, pool: str = "prefork", **more: Any) -> FakeWorker:
    """A worker that gave a sign just now and consumes the queue."""
    scene.tell(an_event(WorkerHeartbeat, 1, host, processed=0))
    scene.answered(host, pool)
    scene.query("update worker set clock_offset = 0")  # its signs of long ago arrived in time
    worker = scene.broker.workers[host] = FakeWorker(**more)
    return worker


def a_started_run(scene: Scene, run: str = "run-1", host: str = W1) -> None:
    run_of_a_task(scene.backend, run)
    scene.tell(an_event(TaskReceived, 2, host, uuid=run), an_event(TaskStarted, 3, host, uuid=run))
    scene.broker.workers[host].has.add(run)


def dies(scene: Scene, host: str = W1) -> None:
    """Its connection is closed; the broker takes back what it had in hand, which is nothing."""
    scene.broker.workers[host].connected = False


# Rule 2.


def test_a_run_of_a_worker_that_was_killed_is_lost(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    rescuer = scene.make()
    rescuer.find(Heartbeat())
    dies(scene)

    scene.rounds(rescuer)

    assert scene.run_of() == ("lost", "worker died")
    assert scene.query("select ended_by from worker") == [("closed",)]
    assert scene.broker.marks == [False, True]
    [(evidence,)] = scene.query("select metadata -> 'verdict' from task_run")
    assert evidence["rule"] == "2b"
    assert evidence["evidence"] == {
        "queue": QUEUE,
        "queue_exists": True,
        "ready": 0,
        "answered": [],
        "worker": W1,
        "worker_pid": 1,
        "ended_by": "closed",
    }
    assert scene.query("select status, retries_left from task") == [("next_run_not_scheduled", 1)]


def test_a_worker_that_ended_before_it_said_its_queues_holds_nothing_up_for_good(scene: Scene) -> None:
    a_worker(scene)
    a_worker(scene, W2)
    a_started_run(scene)
    scene.query("update worker set pool = null, blocks = null, queues = null where hostname = 'w2@here'")
    rescuer = scene.make()
    rescuer.find(Heartbeat())
    dies(scene)
    dies(scene, W2)

    findings = scene.rounds(rescuer)

    assert findings.undecided == {1: ("2b", f"{W2} has not said which queues it consumes from")}
    assert scene.run_of() == ("started", None)
    # when it has been silent, and away, for long
    scene.later(601)
    scene.rounds(rescuer)

    assert scene.run_of() == ("lost", "worker died")
    assert scene.query("select ended_by from worker where hostname = 'w2@here'") == [(None,)]


def test_a_worker_that_comes_back_in_time_keeps_its_run(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    rescuer = scene.make()
    dies(scene)
    rescuer.find(Heartbeat())
    scene.later(50)
    scene.broker.workers[W1].connected = True
    rescuer.find(Heartbeat())
    scene.later(50)

    rescuer.find(Heartbeat())

    assert scene.run_of() == ("started", None)


def test_a_run_whose_message_came_back_is_not_lost(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    rescuer = scene.make()
    dies(scene)
    scene.broker.ready = ["run-1"]

    findings = scene.rounds(rescuer)

    assert findings.held == {1: f"it is ready in {QUEUE}"}
    assert scene.run_of() == ("started", None)


def test_a_run_that_another_worker_took_over_is_not_lost(scene: Scene) -> None:
    a_worker(scene)
    a_worker(scene, W2, has={"run-1"})
    a_started_run(scene)
    rescuer = scene.make()
    dies(scene)

    findings = scene.rounds(rescuer)

    assert findings.held == {1: f"{W2} has it"}


def test_a_worker_that_left_with_nothing_in_hand_loses_its_run(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    scene.tell(an_event(WorkerOffline, 5, active=0))
    dies(scene)

    scene.rounds(scene.make(), 1)

    assert scene.run_of() == ("lost", "left and not returned")


def test_a_worker_whose_last_task_has_ended_since_it_left_loses_its_run(scene: Scene) -> None:
    """The end of the run was lost before; a task of another application was executed until now."""
    a_worker(scene)
    a_started_run(scene)
    scene.tell(an_event(WorkerOffline, 5, active=1))
    dies(scene)
    rescuer = scene.make()
    scene.rounds(rescuer, 1)
    assert scene.run_of() == ("started", None)
    scene.tell(an_event(TaskFailed, 7, uuid="another"))

    scene.rounds(rescuer, 1)

    assert scene.run_of() == ("lost", "left and not returned")


def test_a_worker_that_began_something_after_it_left_is_not_over(scene: Scene) -> None:
    """With the mark comes its start: a run that was handed to the pool before."""
    a_worker(scene)
    a_started_run(scene)
    scene.tell(an_event(WorkerOffline, 5, active=1), an_event(TaskFailed, 6, uuid="another"))
    dies(scene)
    scene.broker.on_mark = lambda: scene.tell(an_event(TaskStarted, 7, uuid="a third"))

    findings = scene.rounds(scene.make(), 1)

    assert [verdict.suspect.backend_id for verdict in findings.void] == ["run-1"]
    assert scene.run_of() == ("started", None)
    assert scene.query("select ended, left_running from worker") == [(None, 1)]


def test_a_worker_that_is_leaving_may_go_on_working(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    scene.tell(an_event(WorkerOffline, 5, active=1))
    dies(scene)

    scene.rounds(scene.make())

    assert scene.run_of() == ("started", None)
    scene.query("update worker set left_at = now() - interval '1 hour'")
    scene.rounds(scene.make(), 1)
    assert scene.run_of() == ("lost", "left and not returned")


def test_a_worker_whose_name_another_process_took_is_over_half_a_minute_later(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    scene.broker.workers[W1].has.clear()
    scene.tell(an_event(WorkerHeartbeat, 9, pid=2, processed=0))
    scene.answered(W1)

    scene.rounds(scene.make(), 1)
    assert scene.run_of() == ("started", None)
    scene.query("update worker set ended = ended - interval '31 seconds' where ended is not null")
    scene.rounds(scene.make(), 1)

    assert scene.run_of() == ("lost", "worker died")


@pytest.mark.parametrize(("pool", "status"), [("prefork", "lost"), ("solo", "started")])
def test_a_worker_that_was_silent_is_over_if_its_pool_does_not_block(scene: Scene, pool: str, status: str) -> None:
    a_worker(scene, pool=pool)
    a_started_run(scene)
    dies(scene)
    scene.query("update worker set last_sign = now() - interval '20 minutes'")

    scene.rounds(scene.make())

    assert scene.run_of()[0] == status


def test_a_worker_that_goes_on_signing_without_its_queue_is_not_over(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    dies(scene)
    rescuer = scene.make()
    for second in range(100, 200, 20):
        rescuer.find(Heartbeat())
        scene.later(20)
        scene.tell(an_event(WorkerHeartbeat, second, processed=1))

    rescuer.find(Heartbeat())

    assert scene.run_of() == ("started", None)


def test_workers_that_all_vanish_at_once_are_not_taken_for_dead(scene: Scene) -> None:
    for number in range(3):
        a_worker(scene, f"w{number}@here")
    a_started_run(scene, host="w0@here")
    rescuer = scene.make()
    rescuer.find(Heartbeat())
    for number in range(3):
        dies(scene, f"w{number}@here")

    scene.rounds(rescuer, 3)

    assert scene.run_of() == ("started", None)


# Rule 3.


@pytest.mark.parametrize(
    ("events", "verdict"),
    [
        ([], "never delivered"),
        ([TaskReceived], "received, not started"),
        ([TaskReceived, TaskStarted, TaskCancelled], "cancelled"),
    ],
    ids=["sent", "received", "cancelled"],
)
def test_a_run_that_waits_for_a_message_that_nobody_has_is_lost(scene: Scene, events: list[Any], verdict: str) -> None:
    run_of_a_task(scene.backend)
    a_worker(scene)
    scene.tell(*(an_event(cls, 10 + second, uuid="run-1") for second, cls in enumerate(events)))

    scene.rounds(scene.make(), 1)

    assert scene.run_of() == ("lost", verdict)


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ([], "scheduled"),
        ([an_event(WorkerOnline, 20, processed=0, clock=1, pid=2)], "scheduled"),  # it was started anew
        ([an_event(TaskStarted, 20, uuid="foreign")], "lost"),
    ],
    ids=["lives", "is over", "sends events"],
)
def test_where_a_worker_sends_no_task_events_a_run_may_have_ended(scene: Scene, told: list[Any], status: str) -> None:
    a_worker(scene)
    run_of_a_task(scene.backend)
    scene.tell(an_event(WorkerHeartbeat, 9, processed=1))
    scene.tell(*told)
    scene.answered(W1)

    findings = scene.rounds(scene.make())

    assert scene.run_of()[0] == status
    reason = f"{W1}, which consumes {QUEUE}, sends no task events"
    assert findings.undecided == ({1: ("3", reason)} if status == "scheduled" else {})


def test_a_worker_without_task_events_that_was_over_before_did_not_execute_the_run(scene: Scene) -> None:
    a_worker(scene)
    scene.tell(an_event(WorkerHeartbeat, 9, processed=1), an_event(WorkerOnline, 20, processed=0, clock=1, pid=2))
    scene.query("update worker set ended = '2000-01-01' where ended is not null")
    scene.answered(W1)
    run_of_a_task(scene.backend)

    scene.rounds(scene.make())

    assert scene.run_of() == ("lost", "never delivered")


def test_a_worker_that_turns_out_to_send_no_task_events_makes_the_verdict_void(scene: Scene) -> None:
    a_worker(scene)
    run_of_a_task(scene.backend)
    scene.broker.on_mark = lambda: scene.tell(an_event(WorkerHeartbeat, 9, processed=1))

    findings = scene.rounds(scene.make(), 1)

    assert [verdict.suspect.backend_id for verdict in findings.void] == ["run-1"]
    assert scene.run_of() == ("scheduled", None)


def test_a_run_that_waits_for_a_short_time_is_not_searched(scene: Scene) -> None:
    run_of_a_task(scene.backend)
    scene.query("update task_run set scheduled = now() - interval '9 minutes'")

    scene.rounds(scene.make(), 1)

    assert scene.run_of() == ("scheduled", None)
    assert scene.broker.marks == []


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"more_consumers": 1}, f"{QUEUE} has 2 consumers, and 1 workers that consume it are known"),
        ({"leased_elsewhere": True}, f"{QUEUE} is leased elsewhere"),
        ({"ready": ["another"], "readable": False}, f"{QUEUE} can't be read"),
        ({"listens": False}, "no mark came back from the event queue within 0 s"),
    ],
    ids=["consumer", "lease", "unreadable", "mark"],
)
def test_without_evidence_a_run_that_waits_is_undecided(scene: Scene, what: dict[str, Any], reason: str) -> None:
    run_of_a_task(scene.backend)
    a_worker(scene)
    for name, value in what.items():
        setattr(scene.broker, name, value)

    findings = scene.rounds(scene.make(), 1)

    assert findings.verdicts == []
    [(run, rule, said)] = scene.query("select run_id, rule, reason from undecided_run")
    assert (run, rule) == (1, "3")
    assert said.startswith(reason)


@pytest.mark.parametrize("consumes", [True, False], ids=["begins to", "ceases to"])
def test_a_worker_that_consumes_a_queue_since_is_asked_again(scene: Scene, consumes: bool) -> None:
    a_worker(scene)
    second = a_worker(scene, W2)
    second.consumes = consumes
    if consumes:
        scene.answered(W2, queues=())
    run_of_a_task(scene.backend)
    rescuer = scene.make()

    findings = scene.rounds(rescuer, 1)
    assert findings.undecided[1][1].startswith(f"{QUEUE} has {1 + consumes} consumers")
    scene.rounds(rescuer, 1)

    assert scene.run_of() == ("lost", "never delivered")


def test_because_of_a_consumer_that_nobody_knows_workers_are_not_asked_in_each_round(scene: Scene) -> None:
    a_worker(scene)
    scene.broker.more_consumers = 1
    run_of_a_task(scene.backend)
    rescuer = scene.make()

    scene.rounds(rescuer, 4)
    assert scene.broker.inspected == 1
    scene.rounds(rescuer, 4)
    assert scene.broker.inspected == 2


def test_a_worker_that_does_not_answer_may_have_the_message(scene: Scene) -> None:
    run_of_a_task(scene.backend)
    a_worker(scene, pool="solo", answers=False)

    findings = scene.rounds(scene.make(), 1)

    assert findings.undecided == {1: ("3", f"{W1} may have the message and does not answer")}


def test_a_message_in_a_busy_queue_is_found_by_reading_it(scene: Scene) -> None:
    run_of_a_task(scene.backend)
    run_of_a_task(scene.backend, "run-2", number=2)
    a_worker(scene)
    scene.broker.ready = ["another", "run-1"]

    findings = scene.rounds(scene.make(), 1)

    assert findings.held == {1: f"it is ready in {QUEUE}"}
    assert scene.run_of("run-2") == ("lost", "never delivered")


def test_a_queue_where_messages_wait_rests_between_two_looks(scene: Scene) -> None:
    run_of_a_task(scene.backend)
    scene.broker.ready = ["run-1"]
    rescuer = scene.make()
    scene.rounds(rescuer, 1)
    scene.broker.ready = []

    scene.rounds(rescuer, 1)
    assert scene.run_of() == ("scheduled", None)
    scene.later(600)
    scene.rounds(rescuer, 1)

    assert scene.run_of() == ("lost", "never delivered")


# Rules 1, 4 and 5.


def test_a_stored_result_is_the_outcome_of_a_run_whose_end_was_lost(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    scene.broker.workers[W1].has.clear()
    ended = datetime.fromtimestamp(AT + 60, UTC)
    scene.broker.results["run-1"] = ("eventful", {"result": {"status": "eventful"}}, ended)

    scene.rounds(scene.make(results=True))

    assert scene.run_of() == ("eventful", "event lost, outcome recovered")
    assert scene.query("select ended, metadata -> 'result' from task_run") == [(ended, {"status": "eventful"})]


def test_a_result_that_is_stored_between_the_marks_counts(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    dies(scene)

    def stores() -> None:
        scene.broker.results["run-1"] = ("failed", {"error": "KeyError"}, None)

    scene.broker.on_mark = stores
    scene.rounds(scene.make(results=True))

    assert scene.run_of() == ("failed", "event lost, outcome recovered")


def test_a_run_that_its_worker_does_not_have_twice_has_lost_its_event(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    scene.broker.workers[W1].has.clear()
    rescuer = scene.make()

    scene.rounds(rescuer, 1)
    assert scene.run_of() == ("started", None)
    scene.rounds(rescuer, 1)

    assert scene.run_of() == ("lost", "event lost")


def loses_events(scene: Scene, missing: int = 1) -> None:
    scene.query("update worker set missing = :missing where ended is null", missing=missing)


def test_a_run_of_a_worker_that_lost_events_is_searched_at_once(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    scene.broker.workers[W1].has.clear()
    loses_events(scene)

    findings = scene.rounds(scene.make(), 1)

    assert [(verdict.rule, verdict.verdict) for verdict in findings.verdicts] == [("5", "event lost")]
    assert scene.broker.marks == [False, True]
    assert scene.run_of() == ("lost", "event lost")


def test_a_run_that_a_worker_that_lost_events_still_has_is_left_alone(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    loses_events(scene)

    scene.rounds(scene.make())

    assert scene.run_of() == ("started", None)
    assert scene.broker.marks == []


def test_events_that_are_lost_start_one_round_at_once(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    rescuer = scene.make(RescuerSettings(flush_seconds=0.001, between_looks_seconds=0.001, period_seconds=60.0))
    rescuer.find(Heartbeat())
    heartbeat = Waits(scene)

    loses_events(scene)
    rescuer.wait_for_work(heartbeat)
    assert heartbeat.waited < 2 * LOOK_SECONDS

    rescuer.find(Heartbeat())
    heartbeat.waited = 0
    loses_events(scene, 2)  # more of them a little later do not
    rescuer.wait_for_work(heartbeat)
    assert heartbeat.waited == 60


class Waits(Heartbeat):
    """Waits are over at once; the clock of the scene goes on, and workers go on signing."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self.waited = 0.0
        self._scene = scene

    def wait(self, seconds: float) -> bool:
        self.waited += seconds
        self._scene.clock.now += seconds
        return False


def test_a_run_that_its_worker_has_is_left_alone(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)

    findings = scene.rounds(scene.make())

    assert (findings.undecided, findings.held) == ({}, {})
    assert scene.broker.marks == []


def test_a_run_that_takes_too_long_is_lost_though_its_worker_has_it(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    scene.query("insert into dispatch_type (type, max_run_seconds) values ('load-git', 7000)")

    scene.rounds(scene.make(), 1)

    assert scene.run_of() == ("lost", "timed out")


def test_a_worker_whose_clock_is_late_did_not_begin_as_early_as_it_says(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    scene.query("insert into dispatch_type (type, max_run_seconds) values ('load-git', 7000)")
    scene.query("update worker set clock_offset = 3600")

    findings = scene.rounds(scene.make(), 1)

    assert findings.verdicts == []
    assert scene.run_of() == ("started", None)


def test_a_run_that_takes_too_long_and_came_back_is_not_lost(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    a_worker(scene, W2, has={"run-1"})
    scene.query("insert into dispatch_type (type, max_run_seconds) values ('load-git', 7000)")

    findings = scene.rounds(scene.make(), 1)

    assert findings.held == {1: f"{W2} has it"}


def test_a_run_of_an_unknown_worker_is_undecided(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    scene.query("update task_run set worker = null")

    findings = scene.rounds(scene.make(), 1)

    assert findings.undecided == {1: ("1", "the worker that began it is unknown")}


# What makes a verdict void.


def test_an_event_of_the_run_makes_the_verdict_void(scene: Scene) -> None:
    a_worker(scene)
    run_of_a_task(scene.backend)
    scene.broker.on_mark = lambda: scene.tell(an_event(TaskReceived, 50, uuid="run-1"))

    findings = scene.rounds(scene.make(), 1)

    assert [verdict.suspect.id for verdict in findings.void] == [1]
    assert scene.run_of() == ("scheduled", None)


def test_a_result_that_comes_with_the_mark_makes_the_verdict_void(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    dies(scene)
    done: dict[str, Any] = {"uuid": "run-1", "result": {"status": "eventful"}, "result_bytes": 10}
    scene.broker.on_mark = lambda: scene.tell(an_event(TaskResult, 50, **done))

    scene.rounds(scene.make())

    assert scene.run_of() == ("eventful", None)


def test_a_sign_of_the_dead_makes_the_verdict_void(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    dies(scene)
    scene.broker.on_mark = lambda: scene.tell(an_event(WorkerHeartbeat, 99, processed=1))

    findings = scene.rounds(scene.make())

    assert len(findings.void) == 1
    assert scene.run_of() == ("started", None)


@pytest.mark.parametrize("host", [W1, W2], ids=["known", "new"])
def test_a_worker_that_comes_online_makes_the_verdict_void(scene: Scene, host: str) -> None:
    a_worker(scene)
    run_of_a_task(scene.backend)
    scene.broker.on_mark = lambda: scene.tell(an_event(WorkerOnline, 99, host, processed=0))

    findings = scene.rounds(scene.make(), 1)

    assert len(findings.void) == 1
    assert scene.run_of() == ("scheduled", None)


def test_a_worker_that_answers_again_with_the_run_has_it(scene: Scene) -> None:
    a_worker(scene)
    run_of_a_task(scene.backend)
    ask, asked = scene.broker.ask, []

    def takes_it_late(hostnames: Any, backend_ids: Any) -> Any:
        asked.append(hostnames)
        if len(asked) == 2:
            scene.broker.workers[W1].has.add("run-1")
        return ask(hostnames, backend_ids)

    scene.broker.ask = takes_it_late  # type: ignore[method-assign]

    findings = scene.rounds(scene.make(), 1)

    assert findings.held == {1: f"{W1} has it"}


# Two of them, corrections, and how much is too much.


def test_two_rescuers_at_once_end_a_run_once(scene: Scene) -> None:
    a_worker(scene)
    run_of_a_task(scene.backend)
    rescuers = [scene.make(), scene.make()]

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda rescuer: rescuer.find(Heartbeat()), rescuers))

    assert sum(len(findings.verdicts) - len(findings.void) for findings in found) == 1
    assert scene.query("select status, retries_left from task") == [("next_run_not_scheduled", 1)]


def test_a_result_that_comes_later_corrects_the_verdict(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    dies(scene)
    scene.rounds(scene.make())
    assert scene.run_of()[0] == "lost"

    scene.tell(an_event(TaskResult, 80, uuid="run-1", result={"status": "eventful"}, result_bytes=10))

    assert scene.run_of()[0] == "eventful"
    assert scene.query("select status, metadata ? 'reason' from task_run") == [("eventful", False)]
    assert scene.query("select retries_left from task") == [(2,)]


def test_too_many_verdicts_at_once_wait_for_an_operator(scene: Scene) -> None:
    for number in range(25):
        run_of_a_task(scene.backend, f"run-{number}", number=number)
    rescuer, heartbeat = scene.make(), Heartbeat()

    rescuer.run_once(heartbeat)

    assert heartbeat.trouble is not None
    assert "25 of 25 open runs" in heartbeat.trouble
    assert scene.run_of("run-7") == ("scheduled", None)
    scene.make(request=Request(at_once=True, force=True)).run_once(heartbeat)
    assert heartbeat.trouble is None
    assert scene.query("select count(*) from task_run where status = 'lost'") == [(25,)]


def test_few_verdicts_are_never_too_many(scene: Scene) -> None:
    for number in range(19):
        run_of_a_task(scene.backend, f"run-{number}", number=number)

    scene.make(msgspec.structs.replace(QUICK, batch_size=5)).find(Heartbeat())

    assert scene.query("select count(*) from task_run where status = 'lost'") == [(19,)]


def test_a_dry_run_changes_nothing(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    dies(scene)

    findings = scene.rounds(scene.make(request=Request(at_once=True, dry_run=True)))

    assert [verdict.verdict for verdict in findings.verdicts] == ["worker died"]
    assert scene.run_of() == ("started", None)
    assert scene.query("select ended_by from worker") == [(None,)]


def test_a_dry_run_shows_no_verdict_on_a_run_that_moved_meanwhile(scene: Scene) -> None:
    a_worker(scene)
    run_of_a_task(scene.backend)
    scene.broker.on_mark = lambda: scene.tell(an_event(TaskReceived, 50, uuid="run-1"))

    findings = scene.rounds(scene.make(request=Request(at_once=True, dry_run=True)), 1)

    assert findings.looked.gone
    assert findings.verdicts == []


def test_a_run_whose_task_has_moved_on_is_found_too(scene: Scene) -> None:
    run_of_a_task(scene.backend)
    scene.query("update task set status = 'next_run_not_scheduled'")

    scene.make().find(Heartbeat())

    assert scene.run_of() == ("lost", "never delivered")


def test_what_is_in_the_outbox_is_not_judged(scene: Scene) -> None:
    run_of_a_task(scene.backend)
    scene.query(
        "with s as (insert into dispatcher_session (host, pid, backend_pid) values ('h', 1, 1) returning id) "
        "insert into dispatch_batch (session_id, queue, runs) select id, 'q', array[1] from s"
    )

    findings = scene.make().find(Heartbeat())

    assert (findings.verdicts, findings.undecided) == ([], {})


def test_a_broken_connection_ends_the_round_and_nothing_is_judged(scene: Scene) -> None:
    a_worker(scene)
    run_of_a_task(scene.backend)

    def breaks(queue: str, message: str | None = None) -> Any:
        raise BrokerUnavailable(reason="connection reset")

    scene.broker.info = breaks  # type: ignore[method-assign]
    with pytest.raises(BrokerUnavailable):
        scene.make().find(Heartbeat())

    assert scene.run_of() == ("scheduled", None)


def test_a_rescuer_that_is_told_to_stop_judges_nothing(scene: Scene) -> None:
    a_worker(scene)
    run_of_a_task(scene.backend)
    stop = threading.Event()
    scene.broker.on_mark = stop.set

    scene.make().find(Heartbeat(stop))

    assert scene.broker.marks == [False]
    assert scene.run_of() == ("scheduled", None)


def test_another_rescuer_knows_nothing_of_what_the_one_before_saw(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    dies(scene)
    scene.rounds(scene.make(), 1)

    scene.rounds(scene.make(), 1)

    assert scene.run_of() == ("started", None)


def test_what_keeps_a_rescuer_waiting_does_not_keep_it_from_watching(scene: Scene) -> None:
    a_worker(scene)
    run_of_a_task(scene.backend)
    kept_alive: list[float] = []
    scene.broker.keep_alive = lambda: kept_alive.append(scene.clock.now)  # type: ignore[method-assign]

    scene.make(msgspec.structs.replace(QUICK, between_looks_seconds=10, flush_seconds=5)).find(Hurried(scene))

    assert scene.run_of() == ("lost", "never delivered")
    assert len(kept_alive) >= 15


class Hurried(Heartbeat):
    """Waits are over at once, by the clock of the scene."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self._scene = scene

    def wait(self, seconds: float) -> bool:
        self._scene.clock.now += seconds
        return False


def test_between_rounds_the_connections_of_workers_are_watched(scene: Scene) -> None:
    a_worker(scene)
    looks: list[float] = []

    def is_connected(hostname: str) -> bool:
        looks.append(scene.clock.now)
        return True

    scene.broker.worker_is_connected = is_connected  # type: ignore[method-assign]

    scene.make(msgspec.structs.replace(QUICK, period_seconds=20)).wait_for_work(Hurried(scene))

    assert looks == [1000.0, 1005.0, 1010.0, 1015.0]


def test_who_looks_once_watches_first_for_long_enough(scene: Scene) -> None:
    a_worker(scene)
    a_started_run(scene)
    dies(scene)
    rescuer = scene.make(request=Request(at_once=True))

    rescuer.observe(Hurried(scene))
    scene.later(0)
    scene.query("update worker set last_sign = last_sign - interval '65 seconds'")
    rescuer.find(Heartbeat())

    assert scene.run_of() == ("lost", "worker died")
