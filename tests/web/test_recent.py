"""Answers that are kept briefly, and waited for no longer than that."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from swh_sched_runner.web.recent import Recent
from tests.support.wait import until


class Source:
    """Answers with a count, once it may; fails where it is told to."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()
        self.error: Exception | None = None
        self.reads = 0

    def __call__(self) -> int:
        self.reads += 1
        self.may.wait(30)
        if self.error is not None:
            raise self.error
        return self.reads


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.may.set()


def test_an_answer_is_kept_and_then_read_anew(source: Source) -> None:
    timestamps = [0.0]
    recent = Recent(source, kept_seconds=5, patience_seconds=30, clock=lambda: timestamps[-1])

    first = recent.get()
    timestamps.append(4.9)
    kept = recent.get()
    timestamps.append(5.1)

    assert (first, kept, recent.get()) == (1, 1, 2)


def test_an_error_is_kept_like_an_answer(source: Source) -> None:
    source.error = ValueError("away")
    recent = Recent(source, kept_seconds=60, patience_seconds=30)

    for _ in range(2):
        with pytest.raises(ValueError, match="away"):
            recent.get()
    assert source.reads == 1


def test_patience_counts_from_when_the_reading_began(source: Source) -> None:
    # given a source that does not answer
    source.may.clear()
    recent = Recent(source, kept_seconds=0, patience_seconds=0.2)
    # when
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
        recent.get()
    began = time.monotonic()
    for _ in range(50):
        with pytest.raises(TimeoutError):
            recent.get()
    # then nobody waits again, and nobody asks again beside the one who still does
    assert time.monotonic() - began < 5
    assert source.reads == 1
    source.may.set()
    until(lambda: recent.begin().done())
    assert recent.get() >= 1


def test_many_who_ask_at_once_ask_once(source: Source) -> None:
    source.may.clear()
    recent = Recent(source, kept_seconds=60, patience_seconds=30)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(recent.get())) for _ in range(10)]
    for thread in threads:
        thread.start()
    source.may.set()
    for thread in threads:
        thread.join(30)

    assert answers == [1] * 10
