"""Task messages as Celery's own (protocol 2), from a template per task name, so that a message costs microseconds.

What a template holds was asked from Celery once: a header that a later Celery adds comes along by itself.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import uuid
from typing import Any

import msgspec
from amqp.basic_message import Message as AmqpMessage
from amqp.serialization import dumps
from celery import Celery

from swh_sched_runner.config.settings import MAX_ARGUMENTS_BYTES, MAX_ARGUMENTS_DEPTH
from swh_sched_runner.exc import MessageUnsendable

# Longer arguments are shown cut off, as Celery does; the body has them whole.
SHOWN_CHARACTERS = 1024
# What a body has around the arguments.
ENVELOPE_BYTES = 1_024
# What a payload of Redis has around its body, which is base64: headers with two shown texts, properties, names.
AROUND_BASE64_BYTES = 32_768
# How a broker says that a message is too large (RabbitMQ, when it closes the channel for it).
_TOO_LARGE = re.compile(r"message size \d+ .*?max size (\d+)")
# To count how deep JSON is nested: strings go, brackets stay, all of one kind.
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')
_ALIKE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# What building a message may raise: its arguments may have been written into the table by others.
REFUSALS = (MessageUnsendable, msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError, struct.error)
PERSISTENT = 2
FRAME_END = b"\xce"
FRAME_OVERHEAD = 8
# The ids of a message, its lengths, and what stands between them.
HEADER_BYTES = 1_024
METHOD, HEADER, BODY = 1, 2, 3
BASIC, PUBLISH = 60, 40
_OWN_HEADERS = ("id", "root_id", "argsrepr", "kwargsrepr")


class Message(msgspec.Struct, frozen=True, gc=False):
    """A task to be run: under which id, by which task of the workers, with which arguments (plain JSON)."""

    id: str
    name: str
    args: list[Any]
    kwargs: dict[str, Any]


class SizeLimit:
    """How large and how deep the body of a message may be: as configured, or less once a broker has said so."""

    def __init__(self, arguments_bytes: int = MAX_ARGUMENTS_BYTES, arguments_depth: int = MAX_ARGUMENTS_DEPTH) -> None:
        """What the arguments of a task may take, and how deep they may be nested."""
        self.bytes = arguments_bytes + ENVELOPE_BYTES
        self._depth = arguments_depth

    def learn(self, reason: str) -> None:
        """Take the limit from what a broker says when it refuses a message for its size."""
        if found := _TOO_LARGE.search(reason):
            self.lower(int(found[1]))

    def lower(self, size: int) -> None:
        """A broker takes no body of more than ``size`` bytes."""
        self.bytes = min(self.bytes, size)

    def check(self, body: bytes) -> bytes:
        """``body``; raises ``MessageUnsendable`` if it is too large, or nested deeper than workers are sure to read."""
        if len(body) > self.bytes:
            raise MessageUnsendable(reason=f"its body of {len(body)} bytes is larger than the {self.bytes} allowed")
        if body.count(b"[") + body.count(b"{") > self._depth and _is_deeper(body, self._depth):
            raise MessageUnsendable(reason=f"its arguments are nested deeper than the {self._depth} allowed")
        return body


def _is_deeper(json: bytes, depth: int) -> bool:
    brackets = _STRINGS.sub(b"", json).translate(_ALIKE, _NO_BRACKETS)
    for _ in range(depth):  # each pass takes the innermost level away
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def refused(error: Exception) -> str:
    """Why a message could not be built, for people."""
    if isinstance(error, MessageUnsendable):
        return str(error)
    what = "nested too deep" if isinstance(error, RecursionError) else str(error)
    return str(MessageUnsendable(reason=f"its arguments can't be encoded: {what}"))


def show(value: Any) -> str:
    """A value as people read it in a worker's log."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


class Template:
    """All messages of one task name; asks Celery for what they share."""

    def __init__(self, app: Celery, name: str, limit: SizeLimit | None = None) -> None:
        self._limit = limit or SizeLimit()
        # None: whether a result is kept is the task's own choice, to workers of every release. The False that Celery
        # before 5.7 sends means the same to theirs, but those of 5.6 and later take it for an order to keep it.
        made = app.amqp.as_task_v2("", name, [], {}, ignore_result=None)
        self.headers: dict[str, Any] = made.headers
        self._embed = b", " + json.dumps(made.body[2]).encode() + b"]"

    def headers_of(self, message: Message) -> dict[str, Any]:
        """The headers of a message."""
        return self.headers | {
            "id": message.id,
            "root_id": message.id,
            "argsrepr": show(message.args),
            "kwargsrepr": show(message.kwargs),
        }

    def body_of(self, message: Message) -> bytes:
        """The body of a message, JSON in UTF-8. Raises ``MessageUnsendable`` if it is too large."""
        encode = msgspec.json.encode
        return self._limit.check(b"[" + encode(message.args) + b", " + encode(message.kwargs) + self._embed)


class Templates:
    """The template of each task name."""

    def __init__(self, app: Celery, limit: SizeLimit) -> None:
        self._app = app
        self._limit = limit
        self._made: dict[str, Template] = {}

    def of(self, name: str) -> Template:
        """The template of a task name; Celery is asked once."""
        if name not in self._made:
            self._made[name] = Template(self._app, name, self._limit)
        return self._made[name]


class AmqpTemplate:
    """Messages as the frames that publish them through the default exchange, on one channel and to one queue."""

    def __init__(self, template: Template, channel_id: int, queue: str, frame_max: int) -> None:
        self._template = template
        self._channel_id = channel_id
        self._chunk = frame_max - FRAME_OVERHEAD
        arguments = dumps("Bssbb", (0, "", queue, True, False))  # mandatory: unroutable ones come back
        self._publish = self._frame(METHOD, struct.pack(">HH", BASIC, PUBLISH) + arguments)
        own = dict.fromkeys(_OWN_HEADERS, "")
        shared = {key: value for key, value in template.headers.items() if key not in own}
        self._shared = _table(shared)
        # What stands before each value of a header of our own; after it come a length and the text.
        self._keys = [_table({key: value})[:-4] for key, value in own.items()]
        properties = AmqpMessage(
            content_type="application/json",
            content_encoding="utf-8",
            application_headers={},
            delivery_mode=PERSISTENT,
            priority=0,
            correlation_id="",
            reply_to="",
        )._serialize_properties()
        # The empty table is four bytes of length; two octets and two empty short strings follow it.
        self._before_table, self._after_table = properties[:-8], properties[-4:-2]
        # A header is one frame, whatever its size.
        rest = len(self._shared) + len(properties) + sum(map(len, self._keys)) + HEADER_BYTES
        self._most_shown = max(0, (self._chunk - rest) // 2)

    def frames(self, message: Message) -> bytes:
        """The frames of a message: method, header, body. See ``REFUSALS`` for what it raises."""
        body = self._template.body_of(message)
        identifier = message.id.encode()
        args, kwargs = self._shown(message.args), self._shown(message.kwargs)
        table = b"".join(
            (
                self._shared,
                *(
                    part
                    for key, text in zip(self._keys, (identifier, identifier, args, kwargs), strict=True)
                    for part in (key, struct.pack(">I", len(text)), text)
                ),
            )
        )
        header = b"".join(
            (
                struct.pack(">HHQ", BASIC, 0, len(body)),
                self._before_table,
                struct.pack(">I", len(table)),
                table,
                self._after_table,
                struct.pack("B", len(identifier)),
                identifier,
                b"\0",  # reply_to
            )
        )
        bodies = (self._frame(BODY, body[at : at + self._chunk]) for at in range(0, len(body), self._chunk))
        return b"".join((self._publish, self._frame(HEADER, header), *bodies))

    def _shown(self, value: Any) -> bytes:
        shown = show(value).encode(errors="replace")
        if len(shown) <= self._most_shown:
            return shown
        return shown[: self._most_shown].decode(errors="ignore").encode()

    def _frame(self, kind: int, payload: bytes) -> bytes:
        return struct.pack(">BHI", kind, self._channel_id, len(payload)) + payload + FRAME_END


def _table(items: dict[str, Any]) -> bytes:
    """The inside of an AMQP table, without its length."""
    encoded: bytes = dumps("F", (items,))
    return encoded[4:]


def largest_body(longest_string: int) -> int:
    """How large a body may be whose ``redis_payload`` is no longer than that."""
    return max(0, longest_string - AROUND_BASE64_BYTES) * 3 // 4


def redis_payload(template: Template, message: Message, queue: str) -> bytes:
    """A message as kombu puts it into a list of Redis. Each call makes another delivery of it."""
    return msgspec.json.encode(
        {
            "body": base64.b64encode(template.body_of(message)).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": template.headers_of(message),
            "properties": {
                "correlation_id": message.id,
                "reply_to": "",
                "delivery_mode": PERSISTENT,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                # Workers keep what they hold under this tag: twice the same and one acknowledgement would drop both.
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )
