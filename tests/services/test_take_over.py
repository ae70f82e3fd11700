"""Two successors of one dead runner: one at a time tries, and neither ends the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from celery import Celery

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch, TaskGroup
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.broker.factory import open_publisher
from swh_sched_runner.broker.interface import Publisher
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.services.dispatch.sender import Sender
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.service import Heartbeat
from tests.support.queues import depth
from tests.support.samples import a_task, a_type
from tests.support.wait import until

QUEUE = "tests.load-git"


@pytest.fixture
def make_sender(dispatch: Dispatch, app: Celery, broker: BrokerSettings) -> Iterator[Callable[[], Sender]]:
    opened: list[Sender] = []

    def make() -> Sender:
        opened.append(Sender(dispatch, partial(open_publisher, app, broker), "runner", Instruments()))
        return opened[-1]

    yield make
    for sender in opened:
        sender.close()


@pytest.fixture
def left_behind(backend: SchedulerBackend, dispatch: Dispatch) -> DispatcherSession:
    """The session of a runner that died with three messages in the outbox."""
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n) for n in range(3))
    dead = dispatch.open_session()
    assert dispatch.open_batch(dead.id, QUEUE, TaskGroup("load-git", QUEUE, 100, priority=False), 3)
    return dead


def end(session: DispatcherSession, dispatch: Dispatch) -> None:
    """Close a session, and wait until the server has noticed."""
    session.close()
    other = dispatch.open_session()
    until(lambda: other.try_lock(session.id))
    other.unlock(session.id)
    other.close()


def before(publisher: Publisher, method: str, action: Callable[[], object]) -> None:
    """Let something happen just before the next call of a method, once."""
    original = getattr(publisher, method)

    def call(session_id: int) -> bool:
        setattr(publisher, method, original)
        action()
        answer: bool = original(session_id)
        return answer

    setattr(publisher, method, call)


def test_a_second_successor_neither_ends_nor_bars_the_first_one(
    left_behind: DispatcherSession, dispatch: Dispatch, make_sender: Callable[[], Sender], app: Celery
) -> None:
    # given a successor that holds the dead session's lock, and has not asked the broker yet
    first, second = make_sender(), make_sender()
    end(left_behind, dispatch)
    before(first._publisher, "session_is_gone", lambda: second.maintain(Heartbeat()))

    # when another one comes just then
    confirmed = first.maintain(Heartbeat())

    # then the first one takes over, its session lives, and the messages are sent once
    assert confirmed == 3
    first.session.check()
    second.session.check()
    assert depth(app, QUEUE) == 3


def test_a_successor_ends_no_successor_that_took_the_lock_of_the_ended_session(
    left_behind: DispatcherSession, dispatch: Dispatch
) -> None:
    # given a session that ended while a successor was about to end it, and another one that has its lock now
    first, second = dispatch.open_session(), dispatch.open_session()
    end(left_behind, dispatch)
    assert first.try_lock(left_behind.id)

    # when
    second.end_session(left_behind.id)

    # then
    first.check()
    assert not second.try_lock(left_behind.id)
    first.close()
    second.close()


def test_one_successor_at_a_time_may_take_over(dispatch: Dispatch, left_behind: DispatcherSession) -> None:
    first, second = dispatch.open_session(), dispatch.open_session()
    other = dispatch.open_session()

    assert first.begin_take_over(left_behind.id)
    assert not second.begin_take_over(left_behind.id)
    assert second.begin_take_over(other.id)

    first.end_take_over(left_behind.id)
    assert second.begin_take_over(left_behind.id)
    second.close()
    until(lambda: first.begin_take_over(left_behind.id))
    for session in (first, other, left_behind):
        session.close()
