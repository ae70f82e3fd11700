"""The runner: due tasks reach their queues, once, within the bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from celery import Celery

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch, TaskGroup
from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.dispatch.sender import LATE_MESSAGES_SECONDS
from swh_sched_runner.services.service import Heartbeat
from tests.support.queues import depth, ids_of, take
from tests.support.samples import a_task, a_type
from tests.support.wait import until

QUEUE = "tests.load-git"
PRIORITY_QUEUE = f"save_code_now:{QUEUE}"

MakeRunner = Callable[..., Runner]


def run_all(runner: Runner) -> None:
    while runner.run_once(Heartbeat()):
        pass


def runs_of(backend: SchedulerBackend) -> list[str]:
    return [run["backend_id"] for run in backend.get_task_runs(task["id"] for task in backend.search_tasks())]


def test_due_tasks_reach_their_queue_in_order_under_the_ids_of_their_runs(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n) for n in range(25))

    run_all(make_runner(batch_size=10))

    messages = take(app, QUEUE)
    assert ids_of(messages) == runs_of(backend)
    assert [message.payload[1]["url"][-2:].strip("/") for message in messages] == [str(n) for n in range(25)]
    assert {message.headers["task"] for message in messages} == {QUEUE}
    assert {task["status"] for task in backend.search_tasks()} == {"next_run_scheduled"}


def test_a_queue_is_filled_to_its_limit_and_again_as_messages_are_taken(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery
) -> None:
    backend.create_task_type(a_type(max_queue_length=10))
    backend.create_tasks(a_task(n) for n in range(25))
    runner = make_runner(batch_size=4)

    run_all(runner)
    assert depth(app, QUEUE) == 10
    taken = ids_of(take(app, QUEUE, 7))
    run_all(runner)
    assert depth(app, QUEUE) == 10
    while more := ids_of(take(app, QUEUE)):
        taken += more
        run_all(runner)

    assert sorted(taken) == sorted(runs_of(backend))
    assert len(taken) == 25


def test_a_limit_of_nothing_keeps_the_queue_empty_and_none_does_not_limit(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery
) -> None:
    backend.create_task_type(a_type("closed", max_queue_length=0))
    backend.create_task_type(a_type("open", max_queue_length=None))
    backend.create_tasks(a_task(n, name) for name in ("closed", "open") for n in range(5))

    run_all(make_runner(batch_size=3))

    assert depth(app, "tests.closed") == 0
    assert depth(app, "tests.open") == 5
    assert len(backend.peek_ready_tasks("closed")) == 5


def test_foreign_messages_count_towards_the_limit(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery
) -> None:
    backend.create_task_type(a_type(max_queue_length=5))
    backend.create_tasks(a_task(n) for n in range(5))
    for _ in range(7):
        app.send_task("foreign", queue=QUEUE)
    until(lambda: depth(app, QUEUE) == 7)

    run_all(make_runner())
    assert depth(app, QUEUE) == 7

    take(app, QUEUE, 6)
    run_all(make_runner())
    assert depth(app, QUEUE) == 5


def test_priority_tasks_go_to_a_limited_queue_of_their_own_high_first(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery
) -> None:
    backend.create_task_type(a_type(max_queue_length=4))
    backend.create_tasks(a_task(n, priority=p) for n, p in enumerate(["low", "normal", "high", "normal", "high", None]))

    run_all(make_runner())

    assert [message.payload[1]["url"][-1] for message in take(app, PRIORITY_QUEUE)] == ["2", "4", "1", "3"]
    assert [message.payload[1]["url"][-1] for message in take(app, QUEUE)] == ["5"]


def test_only_the_chosen_task_types_are_dispatched(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery
) -> None:
    backend.create_task_type(a_type("chosen"))
    backend.create_task_type(a_type("other"))
    backend.create_tasks([a_task(1, "chosen"), a_task(1, "other")])

    run_all(make_runner(task_types=("chosen",)))

    assert depth(app, "tests.chosen") == 1
    assert len(backend.peek_ready_tasks("other")) == 1


def test_types_that_share_a_queue_share_the_least_of_their_limits(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery
) -> None:
    for name, bound in (("a", 9), ("b", 100), ("c", None)):
        backend.create_task_type(a_type(name, backend_name="tests.shared", max_queue_length=bound))
    backend.create_tasks(a_task(n, name) for name in ("a", "b", "c") for n in range(20))

    run_all(make_runner())

    assert depth(app, "tests.shared") == 9
    assert [len(backend.peek_ready_tasks(name)) for name in ("a", "b", "c")] == [17, 17, 17]


def test_what_a_dead_runner_left_unconfirmed_is_sent_first_under_the_same_ids(
    backend: SchedulerBackend, dispatch: Dispatch, make_runner: MakeRunner, app: Celery
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n) for n in range(6))
    dead = dispatch.open_session()
    batch = dispatch.open_batch(dead.id, QUEUE, TaskGroup("load-git", QUEUE, 100, priority=False), 4)
    assert batch is not None
    dead.close()

    run_all(make_runner())

    sent = ids_of(take(app, QUEUE))
    assert sent[:4] == [message.backend_id for message in batch.messages]
    assert sorted(sent) == sorted(runs_of(backend))
    with_batches = dispatch.open_session()
    assert dispatch.other_sessions(with_batches.id) == []
    with_batches.close()


def test_late_messages_of_a_dead_runner_count_before_its_batches_are_sent(
    backend: SchedulerBackend, dispatch: Dispatch, make_runner: MakeRunner, app: Celery
) -> None:
    class Meanwhile(Heartbeat):
        """What the dead runner had on its way arrives while its successor waits."""

        def wait(self, seconds: float) -> bool:
            for _ in range(2):
                app.send_task("late", queue=QUEUE)
            until(lambda: depth(app, QUEUE) == 2)
            return False

    backend.create_task_type(a_type(max_queue_length=3))
    backend.create_tasks(a_task(n) for n in range(3))
    dead = dispatch.open_session()
    assert dispatch.open_batch(dead.id, QUEUE, TaskGroup("load-git", QUEUE, 3, priority=False), 3)
    dead.close()

    make_runner().run_once(Meanwhile())

    assert [message.headers["task"] for message in take(app, QUEUE)] == ["late", "late", QUEUE]


def test_what_a_living_runner_left_unconfirmed_is_left_to_it(
    backend: SchedulerBackend, dispatch: Dispatch, make_runner: MakeRunner, app: Celery
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks([a_task()])
    alive = make_runner()
    dispatch.open_batch(alive._sender.session_id, QUEUE, TaskGroup("load-git", QUEUE, 100, priority=False), 4)

    run_all(make_runner())
    assert depth(app, QUEUE) == 0

    run_all(alive)
    assert depth(app, QUEUE) == 1


def test_open_batches_are_sent_within_the_limit_and_nothing_new_before_them(
    backend: SchedulerBackend, dispatch: Dispatch, make_runner: MakeRunner, app: Celery
) -> None:
    backend.create_task_type(a_type(max_queue_length=3))
    backend.create_tasks(a_task(n) for n in range(8))
    dead = dispatch.open_session()
    batch = dispatch.open_batch(dead.id, QUEUE, TaskGroup("load-git", QUEUE, 3, priority=False), 5)
    assert batch is not None
    unconfirmed = [message.backend_id for message in batch.messages]
    dead.close()
    runner = make_runner()

    run_all(runner)
    first = ids_of(take(app, QUEUE))
    run_all(runner)
    second = ids_of(take(app, QUEUE))
    run_all(runner)
    third = ids_of(take(app, QUEUE))

    assert (first, second[:2]) == (unconfirmed[:3], unconfirmed[3:])
    assert len(second) <= 3
    assert sorted(first + second + third) == sorted(runs_of(backend))


def test_many_runners_at_once_send_every_task_once_and_never_beyond_the_limit(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery
) -> None:
    backend.create_task_type(a_type(max_queue_length=20))
    backend.create_tasks(a_task(n) for n in range(300))
    runners = [make_runner(batch_size=7) for _ in range(4)]
    done = threading.Event()
    depths: list[int] = []

    def work(runner: Runner) -> None:
        while not done.is_set():
            runner.run_once(Heartbeat())

    def sample() -> None:
        while not done.is_set():
            depths.append(depth(app, QUEUE))

    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(work, runner) for runner in runners] + [pool.submit(sample)]
        sent: list[str] = []
        try:
            until(lambda: sent.extend(ids_of(take(app, QUEUE, 15))) or len(sent) >= 300, 60)
        finally:
            done.set()
        for future in futures:
            future.result()

    assert sorted(sent) == sorted(runs_of(backend))
    assert len(set(sent)) == 300
    assert max(depths) <= 20


def test_a_queue_is_left_to_the_session_with_an_open_batch_and_so_is_its_lock(
    backend: SchedulerBackend, dispatch: Dispatch, make_runner: MakeRunner, app: Celery
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n) for n in range(6))
    living = dispatch.open_session()
    try:
        batch = dispatch.open_batch(living.id, QUEUE, TaskGroup("load-git", QUEUE, 100, priority=False), 2)
        assert batch is not None
        runner = make_runner()
        runner.run_once(Heartbeat())  # maintains as well, which may take its time
        started = time.monotonic()
        sent = [runner.run_once(Heartbeat()) for _ in range(10)]
        assert time.monotonic() - started < 5 * LATE_MESSAGES_SECONDS  # no round waits so long for what may come late
        assert (sent, depth(app, QUEUE)) == ([False] * 10, 0)

        dispatch.close_batch(living.id, batch.id)
        run_all(runner)
        assert depth(app, QUEUE) == 4
    finally:
        living.close()
