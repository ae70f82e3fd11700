"""Hostile bodies: from what is no JSON to values that fit nowhere."""

from __future__ import annotations

import gzip
import json
import pickle
from typing import Any

from faults.attack.classes import WORKER_EVENTS, Fate, Source, body, encoded

MEGABYTE = 1_000_000
NUMBERS = (
    *(2**31 - 1, 2**31, -(2**31) - 1, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30, 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), float("-inf"), -1, -0.0, 0.1, True),
)
TIMESTAMPS = (-1, -1e15, 253_402_300_799.5, 253_402_300_800, 1e12, 1e15, 1e18, 1e308, 2**63, float("nan"), float("inf"))
NO_TEXT = (None, 17, 1.5, True, [], ["a"], {}, {"a": "b"})
NO_TIMESTAMP = (None, "", "soon", "2026-03-01", True, [], [1.0], {}, {"seconds": 1})
ANYTHING = (*NO_TEXT, "", "text", [None], [[[]]], {"": None}, {"a": {"b": [1, 2, {"c": None}]}}, "\0", "\ud800", 2**70)
FIELDS = (
    *(
        "hostname",
        "pid",
        "name",
        "retries",
        "result",
        "result_bytes",
        "runtime",
        "exception",
        "traceback",
        "terminated",
    ),
    *("signum", "expired", "requeue", "processed", "clock", "utcoffset", "eventful", "args", "kwargs", "root_id"),
)
NO_END = ("scheduled", "started", "", "EVENTFUL", "done", "lost\0", "disabled", "e" * 5_000, "\ud83d", "näh")
TEXTS = ("exception", "traceback", "hostname", "name", "args")


class _Trap:
    """Leaves a trace where somebody unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('somebody unpickled a message')",))


@body("empty", Fate.REJECTED)
def _(_source: Source) -> bytes:
    return b""


@body("no-json", Fate.REJECTED)
def _(source: Source) -> bytes:
    return source.dice.choice(
        [b" ", b"{", b"]", b"<event/>", b"type=task-failed", b"{'type': 'task-failed'}", b"nul", b"{}{}", b"[,]", b"//"]
    )


@body("cut-off", Fate.REJECTED)
def _(source: Source) -> bytes:
    whole = encoded(source.event(traceback="x" * source.dice.randrange(2_000)))
    return whole[: source.dice.randrange(1, len(whole) - 1)]


@body("no-utf-8", Fate.REJECTED)
def _(source: Source) -> bytes:
    whole = encoded(source.event(exception="x" * 20))
    odd = source.dice.choice([b"\xff\xfe", b"\xc3", b"\xe2\x82", b"\xc0\x80", b"\xf8\x88\x80\x80\x80"])
    return whole.replace(b"xxxxx", odd, 1)


@body("other-encodings", Fate.HEARD)
def _(source: Source) -> bytes:
    return json.dumps(source.event()).encode(source.dice.choice(["utf-16", "utf-32", "utf-8-sig", "utf-16-be"]))


@body("compressed", Fate.REJECTED)
def _(source: Source) -> bytes:
    return gzip.compress(encoded(source.event()))


@body("binary", Fate.REJECTED)
def _(source: Source) -> bytes:
    return b"\x80" + source.rubbish(source.dice.randrange(4_000))


@body("pickle", Fate.REJECTED)
def _(source: Source) -> bytes:
    return pickle.dumps(_Trap(), protocol=source.dice.randrange(2, 6))


@body("no-object", Fate.REJECTED)
def _(source: Source) -> bytes:
    return encoded(source.dice.choice([None, True, 1, -1.5, "task-failed", [None], [[]], [1, "a"], ["x" * 5_000]]))


@body("nested", Fate.REJECTED)
def _(source: Source) -> bytes:
    depth = source.dice.choice([10, 99, 101, 500, 990, 5_000, 100_000])
    opening, closing = source.dice.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return opening * depth + b"1" + closing * (depth if source.dice.random() < 0.7 else 0)


@body("nested-result", Fate.HEARD)
def _(source: Source) -> bytes:
    depth = source.dice.choice([50, 99, 101, 500, 990, 5_000, 100_000])
    opening, closing = source.dice.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return encoded(source.event("task-result", result="?")).replace(b'"?"', opening * depth + b"1" + closing * depth)


@body("huge", Fate.REJECTED, heavy=True)
def _(source: Source) -> bytes:
    size = int(source.dice.uniform(1.1, 15) * MEGABYTE)
    return source.dice.choice([b'{"type": "' + b"x" * size, b" " * size, b"[" * size, b'"' + b"\\u0000" * (size // 6)])


@body("huge-event", Fate.HEARD, heavy=True)
def _(source: Source) -> bytes:
    size = int(source.dice.uniform(1.1, 15) * MEGABYTE)
    return encoded(source.event("task-failed", **{source.dice.choice(TEXTS): "x" * size}))


@body("megabytes-of-elements", Fate.REJECTED, heavy=True)
def _(source: Source) -> bytes:
    element = source.dice.choice([b"1", b"{}", b"[]", b'"x"', b'{"type":1}', b"null"])
    return b"[" + b",".join([element] * (source.dice.randrange(MEGABYTE, 6 * MEGABYTE) // (len(element) + 1))) + b"]"


@body("thousands-of-elements", Fate.REJECTED, heavy=True)
def _(source: Source) -> bytes:
    kinds = [{}, {"type": 1}, {"type": "task-failed"}, {"type": "task-failed", "uuid": 1, "timestamp": 1}, None, 5]
    return encoded([source.dice.choice(kinds) for _ in range(source.dice.randrange(1_000, 5_000))])


@body("mixed-list", Fate.REJECTED)
def _(source: Source) -> bytes:
    return encoded([source.event(), source.event("task-failed", uuid=5), None, source.event(uuid=source.foreign())])


@body("long-list", Fate.HEARD, heavy=True)
def _(source: Source) -> bytes:
    return encoded([source.event(uuid=source.foreign()) for _ in range(source.dice.randrange(1_000, 4_000))])


@body("empty-list", Fate.SILENT)
def _(source: Source) -> bytes:
    return source.dice.choice([b"[]", b" [ ] "])


@body("no-type", Fate.REJECTED)
def _(source: Source) -> bytes:
    event = source.event(type=source.dice.choice(NO_TEXT))
    return encoded(event if source.dice.random() < 0.7 else {key: event[key] for key in event if key != "type"})


@body("no-uuid", Fate.REJECTED)
def _(source: Source) -> bytes:
    event = source.event(uuid=source.dice.choice([*NO_TEXT, ""]))
    return encoded(event if source.dice.random() < 0.7 else {key: event[key] for key in event if key != "uuid"})


@body("no-timestamp", Fate.REJECTED)
def _(source: Source) -> bytes:
    event = source.event(timestamp=source.dice.choice(NO_TIMESTAMP))
    return encoded(event if source.dice.random() < 0.7 else {key: event[key] for key in event if key != "timestamp"})


@body("wrong-types", Fate.HEARD)
def _(source: Source) -> bytes:
    fields = {name: source.dice.choice(ANYTHING) for name in source.dice.sample(FIELDS, source.dice.randrange(1, 6))}
    return encoded(source.event(**fields))


@body("worker-events", Fate.HEARD)
def _(source: Source) -> bytes:
    fields = {name: source.dice.choice(ANYTHING) for name in source.dice.sample(FIELDS, 2)}
    return encoded(source.event(source.dice.choice(WORKER_EVENTS), **fields))


@body("numbers", Fate.HEARD)
def _(source: Source) -> bytes:
    fields = {name: source.dice.choice(NUMBERS) for name in ("pid", "retries", "runtime", "signum", "clock", "result")}
    return encoded(source.event(**fields))


@body("retries", Fate.HEARD)
def _(source: Source) -> bytes:
    kind = source.dice.choice(["task-retried", "task-received"])
    return encoded(source.event(kind, retries=source.dice.choice(NUMBERS)))


@body("digits", Fate.HEARD)
def _(source: Source) -> bytes:
    digits = b"1" * source.dice.choice([19, 400, 4_301, 10_000])
    number = source.dice.choice([digits, b"-" + digits, b"0." + digits, b"1e" + digits, digits + b"e-5"])
    field = source.dice.choice(["result", "pid", "retries", "runtime", "timestamp"])
    return encoded(source.event("task-result") | {field: "?"}).replace(b'"?"', number)


@body("timestamps", Fate.HEARD)
def _(source: Source) -> bytes:
    return encoded(source.event(timestamp=source.dice.choice(TIMESTAMPS)))


@body("characters", Fate.HEARD)
def _(source: Source) -> bytes:
    odd = source.dice.choice(["\0", "a\0b", "\ud800", "\udfff\ud800", "\u202e", "\x1b[31m", "\uffff", "\U0010ffff"])
    fields = dict.fromkeys(source.dice.sample(TEXTS, 2), odd)
    result = source.dice.choice([odd, {odd: odd}, [odd], {"status": odd}, {"status": "failed", "error": odd}])
    identifier = source.bait() if source.dice.random() < 0.8 else odd
    return encoded(source.event("task-result", uuid=identifier, result=result, **fields))


@body("texts", Fate.HEARD)
def _(source: Source) -> bytes:
    length = source.dice.choice([256, 4_001, 20_000, 70_000, 300_000])
    letter = source.dice.choice(["x", "ä", "\U0001f600", "\\", "\n"])
    kind = source.dice.choice(["task-failed", "task-retried", "task-received", "task-revoked"])
    return encoded(source.event(kind, **{source.dice.choice(TEXTS): letter * (length // 4)}))


@body("unknown-types", Fate.HEARD)
def _(source: Source) -> bytes:
    kind = source.dice.choice(["task-made-up", "task-", "custom", "", "t" * 10_000, "task-sent", "task-failed ", "\0"])
    return encoded(source.event(kind, uuid=source.bait()))


@body("foreign", Fate.HEARD)
def _(source: Source) -> bytes:
    identifier = source.dice.choice([source.foreign(), "no uuid", "x" * 255, "' or 1=1 --", "%s", "{}", "ü"])
    return encoded(source.event(uuid=identifier))


@body("long-uuid", Fate.HEARD)
def _(source: Source) -> bytes:
    return encoded(source.event(uuid="x" * source.dice.choice([256, 10_000, 500_000])))


@body("statuses", Fate.HEARD)
def _(source: Source) -> bytes:
    return encoded(source.event("task-result", result={"status": source.dice.choice(NO_END), "eventful": 5}))


@body("results", Fate.HEARD)
def _(source: Source) -> bytes:
    value = source.dice.choice(ANYTHING)
    key = source.dice.choice(["status", "eventful", "error", "next_run", "retried"])
    return encoded(
        source.event("task-result", result=source.dice.choice([value, {key: value}, {"status": "failed", key: value}]))
    )


@body("keys-twice", Fate.HEARD)
def _(source: Source) -> bytes:
    first, second = (encoded(source.event())[1:-1] for _ in range(2))
    return b"{" + first + b", " + second + b"}"


@body("many-keys", Fate.HEARD)
def _(source: Source) -> bytes:
    return encoded(source.event(**{f"key-{n}": source.dice.choice(ANYTHING) for n in range(2_000)}))
