"""From the bytes of an event message to typed events and to the ends of runs."""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swh_sched_runner.broker.celery.events import (
    Event,
    Other,
    TaskCancelled,
    TaskFailed,
    TaskReceived,
    TaskRejected,
    TaskResult,
    TaskRetried,
    TaskRevoked,
    TaskStarted,
    TaskSucceeded,
    Unreadable,
    WorkerHeartbeat,
    WorkerOffline,
    WorkerOnline,
    cut,
    parse,
)
from swh_sched_runner.broker.celery.run_outcome import End, Evidence, end_of, outcome

STARTED = {
    "type": "task-started",
    "uuid": "u",
    "timestamp": 1.5,
    "hostname": "w@h",
    "pid": 4,
    "clock": 9,
    "utcoffset": 0,
}


def body(*events: Any) -> bytes:
    return json.dumps(events[0] if len(events) == 1 else list(events)).encode()


def one(**fields: Any) -> Event | Unreadable:
    (event,) = parse(body({"uuid": "u", "timestamp": 1.5} | fields))
    return event


@pytest.mark.parametrize(
    ("fields", "event"),
    [
        ({"type": "task-received", "name": "load", "retries": 2}, TaskReceived("u", 1.5, name="load", retries=2)),
        ({"type": "task-started", "hostname": "w@h", "pid": 7}, TaskStarted("u", 1.5, hostname="w@h", pid=7)),
        ({"type": "task-result", "result": {"a": [1]}}, TaskResult("u", 1.5, result={"a": [1]})),
        ({"type": "task-succeeded", "result": "'repr'", "runtime": 0.25}, TaskSucceeded("u", 1.5, runtime=0.25)),
        ({"type": "task-failed", "exception": "E()"}, TaskFailed("u", 1.5, exception="E()")),
        ({"type": "task-retried", "exception": "E()", "traceback": "…"}, TaskRetried("u", 1.5, exception="E()")),
        ({"type": "task-rejected", "requeue": True}, TaskRejected("u", 1.5, requeue=True)),
        ({"type": "task-cancelled", "clock": 4}, TaskCancelled("u", 1.5, clock=4)),
        ({"type": "task-started", "life": "a1"}, TaskStarted("u", 1.5, life="a1")),
        ({"type": "task-revoked", "signum": 15, "terminated": True}, TaskRevoked("u", 1.5, terminated=True, signum=15)),
        ({"type": "task-revoked", "signum": "SIGTERM"}, TaskRevoked("u", 1.5, signum="SIGTERM")),
        ({"type": "worker-online", "freq": 2.0}, WorkerOnline(1.5)),
        ({"type": "worker-offline", "active": 1}, WorkerOffline(1.5, active=1)),
        (
            {"type": "worker-online", "sw_ident": "py-celery", "life": "a1"},
            WorkerOnline(1.5, sw_ident="py-celery", life="a1"),
        ),
        ({"type": "worker-heartbeat", "processed": 3}, WorkerHeartbeat(1.5, processed=3)),
        ({"type": "task-sent"}, Other("task-sent")),
        ({"type": "anything-else", "uuid": 4}, Other("anything-else")),
    ],
)
def test_each_event_is_read_as_what_it_is(fields: dict[str, Any], event: Event) -> None:
    assert one(**fields) == event


def test_a_list_of_events_is_read_in_order() -> None:
    assert parse(body(STARTED, STARTED | {"type": "task-succeeded"})) == [
        TaskStarted("u", 1.5, "w@h", 4, 9),
        TaskSucceeded("u", 1.5, "w@h", 4, 9),
    ]
    assert parse(b"[]") == []


def test_one_bad_element_does_not_spoil_the_others() -> None:
    first, other, last, bad = parse(body(STARTED, {"type": "task-started"}, {"type": "task-sent"}, STARTED))

    assert first == last == TaskStarted("u", 1.5, "w@h", 4, 9)
    assert other == Other("task-sent")
    assert isinstance(bad, Unreadable)
    assert "uuid" in bad.reason


def test_the_bad_elements_of_a_message_make_one_row_with_its_bytes() -> None:
    sent = body(STARTED, 17, {"type": "task-started"}, [])

    started, bad = parse(sent)

    assert started == TaskStarted("u", 1.5, "w@h", 4, 9)
    assert bad == Unreadable("3 of 4 events, the first: an event is a JSON object, not int", sent, len(sent))


@pytest.mark.slow
def test_a_megabyte_of_rubbish_makes_one_row_in_seconds() -> None:
    begun = time.monotonic()
    for element in (b"0,", b"{},", b"[],", b'"",', b'{"type":"task-started"},'):
        sent = b"[" + element * (1_000_000 // len(element)) + b"0]"
        (bad,) = parse(sent)
        assert isinstance(bad, Unreadable)
        assert (bad.body, bad.size) == (sent, len(sent))
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"{'type': 'task-started'}", "not JSON"),
        (b'{"type": "task-started", "uuid": "u", "timestamp": 1.5', "not JSON"),
        (b"\x80\x04\x95pickle", "not JSON"),
        (b"17", "an event is a JSON object"),
        (b"null", "an event is a JSON object"),
        (b'"task-started"', "an event is a JSON object"),
        (b"{}", "it has no type"),
        (b'{"type": 4}', "it has no type"),
        (body({"type": "task-started", "timestamp": 1.5}), "uuid"),
        (body(STARTED | {"uuid": ""}), "uuid"),
        (body(STARTED | {"uuid": None}), "uuid"),
        (body(STARTED | {"uuid": "u" * 256}), "uuid"),
        (body(STARTED | {"uuid": ["u"]}), "uuid"),
        (body({"type": "task-started", "uuid": "u"}), "timestamp"),
        (body(STARTED | {"timestamp": "now"}), "timestamp"),
        (body(STARTED | {"timestamp": math.nan}), "timestamp"),
        (body(STARTED | {"timestamp": math.inf}), "timestamp"),
        (body(STARTED | {"timestamp": 1e300}), "timestamp"),
        (body(STARTED | {"timestamp": -1}), "timestamp"),
        (body(STARTED | {"timestamp": 10**30}), "timestamp"),
        (b'{"type": "task-started", "uuid": "u", "timestamp": 1e999}', "timestamp"),
        (body(STARTED | {"pid": "4"}), "pid"),
        (body(STARTED | {"hostname": {}}), "hostname"),
        (body({"type": "task-result", "uuid": "u", "timestamp": 1.5}), "result"),
        (b"[" * 1000 + b"]" * 1000, "nested more than 100 deep"),
        (b"[" * 100_000, "nested more than 100 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 100 deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested more than 100 deep"),
        (b'{"type": "task-result", "uuid": "u", "timestamp": 1, "result": ' + b"9" * 10_000 + b"}", "not JSON"),
    ],
)
def test_what_is_no_event_is_rejected_with_the_reason(sent: bytes, reason: str) -> None:
    (unreadable, *more) = parse(sent)

    assert isinstance(unreadable, Unreadable)
    assert not more
    assert reason in unreadable.reason
    assert len(unreadable.reason) <= 300
    assert (unreadable.body, unreadable.size) == (sent, len(sent))


def test_a_message_of_which_only_the_beginning_is_there_is_rejected() -> None:
    beginning = body(STARTED)

    assert parse(beginning, 15_000_000) == [
        Unreadable("15000000 bytes are more than an event may contain", beginning, 15_000_000),
    ]
    assert parse(beginning, len(beginning)) == [TaskStarted("u", 1.5, "w@h", 4, 9)]


def test_a_result_nested_too_deep_is_rejected_and_one_of_a_hundred_levels_is_not() -> None:
    deep: Any = "bottom"
    for _ in range(98):
        deep = [deep]
    assert one(type="task-result", result=deep) == TaskResult("u", 1.5, result=deep)

    for _ in range(400):
        deep = [deep]
    assert isinstance(one(type="task-result", result=deep), Unreadable)


def test_what_postgresql_can_not_store_is_removed_wherever_it_stands() -> None:
    hostile = {"k\0ey": ["v\0alue", {"\ud800": "\udfff x \ud83d\ude00"}], "n": math.nan, "i": [-math.inf]}

    event = one(type="task-result", uuid="u\0u", hostname="h\0", result=hostile)

    cleaned = {"key": ["value", {"": " x 😀"}], "n": None, "i": [None]}
    assert event == TaskResult("uu", 1.5, hostname="h", result=cleaned)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["uuid", "timestamp", "hostname", "pid", "result", "exception", "traceback", "retries", "signum", "requeue"]
TYPES = st.sampled_from([f"task-{kind}" for kind in ("received", "result", "failed", "revoked", "sent")]) | st.text()
HOSTILE = st.dictionaries(st.sampled_from(FIELDS), ANYTHING).flatmap(
    lambda fields: TYPES.map(lambda kind: {"uuid": "u", "timestamp": 1.5} | fields | {"type": kind})
)


@given(st.lists(HOSTILE | ANYTHING, max_size=3))
def test_whatever_json_comes_each_element_becomes_an_event_or_is_rejected(content: list[Any]) -> None:
    events = parse(json.dumps(content).encode())

    bad = [event for event in events if isinstance(event, Unreadable)]
    counted = re.match(r"(\d+) of \d+ events", bad[0].reason) if bad else None
    assert len(bad) <= 1
    assert len(events) - len(bad) + (int(counted[1]) if counted else len(bad)) == len(content)
    for event in events:
        check_storable(event)


@given(st.binary(max_size=200) | HOSTILE.map(lambda x: json.dumps(x).encode()[:-3] + b"\xed\xa0\x80]"))
def test_whatever_bytes_come_nothing_is_raised(sent: bytes) -> None:
    for event in parse(sent):
        check_storable(event)


def check_storable(event: Event | Unreadable) -> None:
    if isinstance(event, Unreadable):
        return
    text = msgspec.json.encode(event).decode()
    assert "\\u0000" not in text
    text.encode()
    if not isinstance(event, Other | WorkerOnline | WorkerOffline | WorkerHeartbeat):
        assert 0 <= event.timestamp < 253_402_300_800
        end = end_of(event)
        if end is not None:
            assert len(msgspec.json.encode(end.note)) < 150_000


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"status": "success", "eventful": True}, ("eventful", None)),
        ({"status": "success", "eventful": False}, ("uneventful", None)),
        ({"status": "success"}, ("uneventful", None)),
        ({"status": "eventful"}, ("eventful", None)),
        ({"status": "uneventful"}, ("uneventful", None)),
        ({"status": "failed", "error": "no such host"}, ("failed", "no such host")),
        ({"status": "permfailed", "error": 404}, ("permfailed", "404")),
        ({"status": "lost"}, ("lost", None)),
        ({"status": "scheduled"}, ("failed", "unknown status 'scheduled'")),
        ({"status": "started", "error": "x"}, ("failed", "unknown status 'started': x")),
        ({"status": 200}, ("failed", "unknown status 200")),
        ({"status": ["failed"]}, ("failed", "unknown status ['failed']")),
        ({"status": None, "found": 3}, ("eventful", None)),
        ({"found": 3}, ("eventful", None)),
        ({}, ("uneventful", None)),
        ([], ("uneventful", None)),
        (["x"], ("eventful", None)),
        (None, ("uneventful", None)),
        (0, ("uneventful", None)),
        ("done", ("eventful", None)),
        (True, ("eventful", None)),
    ],
)
def test_a_returned_value_says_how_the_run_ended(result: Any, expected: tuple[str, str | None]) -> None:
    assert outcome(result) == expected


TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: the last line\n'


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"type": "task-received"}, None),
        ({"type": "task-started"}, None),
        ({"type": "task-retried", "exception": "E()"}, None),
        ({"type": "task-rejected", "requeue": True}, None),
        (
            {"type": "task-rejected", "requeue": False},
            End("failed", Evidence.FAILED, {"error": "rejected by the worker"}),
        ),
        ({"type": "task-succeeded"}, End("eventful", Evidence.SUCCEEDED, {})),
        ({"type": "task-result", "result": 3}, End("eventful", Evidence.RESULT, {"result": 3})),
        (
            {"type": "task-result", "result": {"status": "failed", "error": "e"}},
            End("failed", Evidence.RESULT, {"error": "e", "result": {"status": "failed", "error": "e"}}),
        ),
        (
            {"type": "task-failed", "exception": "E()", "traceback": TRACEBACK},
            End("failed", Evidence.FAILED, {"error": "ValueError: the last line"}),
        ),
        (
            {"type": "task-failed", "exception": "NotRegistered('x')"},
            End("failed", Evidence.FAILED, {"error": "NotRegistered('x')"}),
        ),
        ({"type": "task-failed"}, End("failed", Evidence.FAILED, {"error": "failed without a reason"})),
        ({"type": "task-revoked"}, End("failed", Evidence.FAILED, {"error": "revoked"})),
        ({"type": "task-revoked", "expired": True}, End("failed", Evidence.FAILED, {"error": "revoked: expired"})),
        (
            {"type": "task-revoked", "terminated": True, "signum": 15},
            End("failed", Evidence.FAILED, {"error": "revoked: terminated by SIGTERM"}),
        ),
        (
            {"type": "task-revoked", "terminated": True, "signum": "9999"},
            End("failed", Evidence.FAILED, {"error": "revoked: terminated by signal 9999"}),
        ),
    ],
)
def test_an_event_tells_of_an_end_or_of_none(fields: dict[str, Any], end: End | None) -> None:
    event = one(**fields)
    assert not isinstance(event, Unreadable | Other | WorkerOnline | WorkerOffline | WorkerHeartbeat)
    assert end_of(event) == end


def test_what_is_noted_of_an_end_is_bounded() -> None:
    failed = TaskFailed("u", 1.5, exception="e" * 10_000_000, traceback=f"x\n{'t' * 10_000_000}")
    huge = TaskResult("u", 1.5, result={"status": "failed", "error": "e" * 100_000})
    cut_by_the_worker = TaskResult("u", 1.5, result=True, result_bytes=70_000)

    assert [end_of(event) for event in (failed, huge, cut_by_the_worker)] == [
        End("failed", Evidence.FAILED, {"error": "t" * 4096}),
        End("failed", Evidence.RESULT, {"error": "e" * 4096, "result_omitted": "100030 bytes of JSON"}),
        End("eventful", Evidence.RESULT, {"result_omitted": "70000 bytes of JSON"}),
    ]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=6_000))
def test_a_text_is_cut_to_4_kb_of_utf_8(text: str) -> None:
    assert text.encode().startswith(cut(text).encode())
    assert len(cut(text).encode()) <= 4_096
    assert cut(text) == text or len(cut(text).encode()) > 4_092
