"""A runner that works as the supervisor lets it work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.service import Heartbeat


@contextmanager
def running(runner: Runner) -> Iterator[None]:
    """The runner at work in a thread."""
    stop = threading.Event()
    heartbeat = Heartbeat(stop)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                if not runner.run_once(heartbeat):
                    runner.wait_for_work(heartbeat)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not failed
