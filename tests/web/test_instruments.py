"""What the services measure, as Prometheus would read it."""

from __future__ import annotations

import threading

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from swh_sched_runner.services.instruments import Instruments

PREFIX = "swh_sched_runner_"


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def instruments(clock: Clock) -> Instruments:
    return Instruments(clock)


def value(instruments: Instruments, name: str, **labels: str) -> float | None:
    """A sample of the exposition, read back."""
    text = generate_latest(instruments.registry).decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == PREFIX + name and sample.labels == labels:
                return sample.value
    return None


def test_messages_are_counted_by_what_became_of_them(instruments: Instruments) -> None:
    instruments.dispatched("look", "fleet.look", 40)
    instruments.dispatched("look", "fleet.look", 2)
    instruments.resent("fleet.look", 3)
    instruments.unconfirmed("fleet.look", 4)

    assert value(instruments, "dispatched_total", task_type="look", queue="fleet.look") == 42
    assert value(instruments, "resent_total", queue="fleet.look") == 3
    assert value(instruments, "unconfirmed_total", queue="fleet.look") == 4


def test_a_queue_that_was_seen_has_counters_from_zero_on(instruments: Instruments) -> None:
    instruments.queue_seen("q", 5, 10)

    assert value(instruments, "resent_total", queue="q") == 0
    assert value(instruments, "unconfirmed_total", queue="q") == 0


def test_the_length_of_a_queue_is_gone_while_it_can_not_be_read(instruments: Instruments) -> None:
    def seen() -> tuple[float | None, ...]:
        names = ("queue_length", "max_queue_length", "queue_unreadable")
        return tuple(value(instruments, name, queue="q") for name in names)

    instruments.queue_seen("q", 0, 10)
    readable = seen()
    instruments.queue_seen("q", None, 10)
    unreadable = seen()
    instruments.queue_seen("q", 7, None)

    assert readable == (0, 10, 0)
    assert unreadable == (None, 10, 1)
    assert seen() == (7, None, 0)


def test_blocked_seconds_go_to_the_reason_of_the_time_and_show_while_they_pass(
    instruments: Instruments, clock: Clock
) -> None:
    def seconds() -> list[float | None]:
        return [value(instruments, "blocked_seconds_total", queue="q", reason=reason) for reason in ("full", "paused")]

    before = seconds()
    instruments.blocked("q", "full")
    clock.now += 2
    instruments.blocked("q", "full")  # still
    clock.now += 3
    during = seconds()
    instruments.blocked("q", "paused")
    clock.now += 10
    changed = seconds()
    instruments.blocked("q", None)
    instruments.blocked("q", None)
    clock.now += 100
    ended = seconds()
    instruments.blocked("q", "full")
    clock.now += 1

    assert before == [None, None]
    assert during == [5, None]
    assert changed == ended == [5, 10]
    assert seconds() == [6, 10]


def test_groups_in_which_nothing_is_due_any_more_drop_out(instruments: Instruments) -> None:
    def waits(task_type: str, priority: str) -> float | None:
        return value(instruments, "oldest_due_seconds", task_type=task_type, priority=priority)

    instruments.oldest_due({("a", False): 1.5, ("a", True): 0.5, ("b", False): 7.0})
    assert [waits("a", "false"), waits("a", "true"), waits("b", "false")] == [1.5, 0.5, 7]

    instruments.oldest_due({("b", False): 8.0})
    assert [waits("a", "false"), waits("a", "true"), waits("b", "false")] == [None, None, 8]


def test_durations_from_a_millisecond_to_an_hour_are_told_apart(instruments: Instruments) -> None:
    for seconds in (0.0008, 0.04, 3000.0, 7200.0):
        instruments.lag("look", seconds)

    def within(seconds: str) -> float | None:
        return value(instruments, "schedule_lag_seconds_bucket", task_type="look", le=seconds)

    assert [within(le) for le in ("0.001", "0.025", "0.05", "900.0", "3600.0", "+Inf")] == [1, 1, 2, 2, 3, 4]


def test_a_grab_that_took_nothing_has_a_duration_and_no_size(instruments: Instruments) -> None:
    instruments.grabbed("look", 0, 0.002)
    instruments.grabbed("look", 150, 0.02)

    assert value(instruments, "grab_seconds_count", task_type="look") == 2
    assert value(instruments, "batch_tasks_count", task_type="look") == 1
    assert value(instruments, "batch_tasks_sum", task_type="look") == 150


def test_label_values_of_any_characters_are_read_back_as_they_were(instruments: Instruments) -> None:
    name = 'with "quotes", \\ back\nslash and é'
    instruments.dispatched(name, name, 1)

    assert value(instruments, "dispatched_total", task_type=name, queue=name) == 1


def test_several_threads_lose_no_count_and_scrapes_meanwhile_never_fail(instruments: Instruments, clock: Clock) -> None:
    def work() -> None:
        for n in range(2000):
            instruments.dispatched("t", "q", 1)
            instruments.blocked(f"q{n % 7}", ("full", "paused", None)[n % 3])
            instruments.queue_seen(f"q{n}", n, None)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        generate_latest(instruments.registry)

    assert value(instruments, "dispatched_total", task_type="t", queue="q") == 6000


def test_verdicts_are_counted_and_what_is_undecided_is_as_in_the_last_round(instruments: Instruments) -> None:
    instruments.verdict("worker died")
    instruments.verdict("worker died")
    instruments.undecided({"3": 4, "5": 1})
    instruments.undecided({"3": 2})
    instruments.verdicts_withheld(25)

    assert value(instruments, "verdicts_total", verdict="worker died") == 2
    assert value(instruments, "undecided_runs", rule="3") == 2
    assert value(instruments, "undecided_runs", rule="5") is None
    assert value(instruments, "verdicts_withheld") == 25
