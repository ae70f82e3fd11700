"""A runner's sleep: announced where that is worth it, and ended where notifications were of no use."""

from __future__ import annotations

import threading
from typing import Any

from swh_sched_runner.services.dispatch import sleep
from swh_sched_runner.services.dispatch.sleep import Sleep
from swh_sched_runner.services.service import Heartbeat


class Session:
    """A dispatcher session that notes what is asked of it."""

    def __init__(self, *, lets_sleep: bool = True, notified: bool = False) -> None:
        self.calls: list[str] = []
        self._lets_sleep, self._notified = lets_sleep, notified

    def fall_asleep(self, seconds: float) -> bool:
        self.calls.append(f"fall_asleep {seconds:g}")
        return self._lets_sleep

    def wake_up(self) -> None:
        self.calls.append("wake_up")

    def wait(self, seconds: float) -> bool:
        self.calls.append("wait")
        return self._notified


def asleep(session: Any) -> Sleep:
    return Sleep(session, lambda: session.calls.append("keep_alive"))


def test_a_nap_is_not_announced() -> None:
    session = Session()
    assert not asleep(session).announce(sleep.NAP_SECONDS)
    assert asleep(session).announce(1)
    assert session.calls == ["fall_asleep 1"]


def test_a_sleep_that_can_not_be_announced_is_short_and_grows() -> None:
    it = asleep(Session(lets_sleep=False))
    lengths = []
    for _ in range(8):
        assert not it.announce(60)
        lengths.append(it.unannounced_seconds(60))

    assert lengths[:2] == [2 * sleep.FIRST_RETRY_SECONDS, 4 * sleep.FIRST_RETRY_SECONDS]
    assert lengths[-1] == sleep.LAST_RETRY_SECONDS
    assert it.unannounced_seconds(0.001) == 0.001


def test_notifications_of_no_use_end_the_announcement_for_a_while() -> None:
    session = Session(notified=True)
    it = asleep(session)
    it.announce(60)
    assert it.sleep(60, Heartbeat())

    it.worked(due=True, sent=False, busy=False)

    assert session.calls[-1] == "wake_up"
    assert not it.announce(60)


def test_a_runner_that_stays_busy_wakes_up_and_one_that_sent_once_stays_announced() -> None:
    session = Session(notified=True)
    it = asleep(session)
    it.announce(60)
    it.worked(due=True, sent=True, busy=False)
    assert "wake_up" not in session.calls
    it.worked(due=True, sent=True, busy=True)
    it.worked(due=True, sent=True, busy=True)
    assert session.calls.count("wake_up") == 1


def test_the_connections_are_kept_alive_and_a_stop_ends_the_sleep() -> None:
    stop, session = threading.Event(), Session()
    heartbeat = Heartbeat(stop)
    it = Sleep(session, lambda: (session.calls.append("keep_alive"), stop.set()))  # type: ignore[arg-type]

    assert not it.sleep(600, heartbeat)
    assert session.calls == ["wait", "keep_alive"]
