"""Which messages are ready in a queue of Redis or Valkey, or in the hands of workers; nothing is taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from swh_sched_runner.broker.redis.connection import RedisLink

PAGE = 100  # messages: with arguments of 300 KB each 30 MB


class _Headers(msgspec.Struct):
    id: Any = None


class _Properties(msgspec.Struct):
    correlation_id: Any = None


class _Envelope(msgspec.Struct):
    headers: _Headers = msgspec.field(default_factory=_Headers)
    properties: _Properties = msgspec.field(default_factory=_Properties)


_envelope = msgspec.json.Decoder(_Envelope)
# What a worker holds: the envelope, its exchange, its routing key.
_held = msgspec.json.Decoder(tuple[_Envelope, Any, Any])


def ready_ids(link: RedisLink, queue: str, most: int) -> frozenset[str] | None:
    """See ``Publisher.ready_ids``. A message that moves between a list and a worker meanwhile is seen."""
    found: set[str] = set()
    with link.guard():
        # The lists twice: one that a worker gave back after the first time was in its hands before, or is seen now.
        for messages in (_ready(link, queue), _in_hand(link), _ready(link, queue)):
            for read, identifier in enumerate(messages, 1):
                if read > most:
                    return None
                if identifier is not None:
                    found.add(identifier)
    return frozenset(found)


def _ready(link: RedisLink, queue: str) -> Iterator[str | None]:
    """The ids in the lists of a queue, from the end where messages are put: what is taken meanwhile moves no other.

    What is put there meanwhile moves the others on, so that some are seen twice.
    """
    for key in link.lists(queue):
        at = 0
        while page := link.client.lrange(key, at, at + PAGE - 1):
            yield from map(_id_of_ready, page)
            at += len(page)


def _in_hand(link: RedisLink) -> Iterator[str | None]:
    for _, message in link.client.hscan_iter(link.key(link.channel.unacked_key), count=PAGE):
        yield _id_of_held(message)


def _id_of_ready(message: bytes | str) -> str | None:
    try:
        return _id(_envelope.decode(message))
    except msgspec.MsgspecError:
        return None


def _id_of_held(message: bytes | str) -> str | None:
    try:
        return _id(_held.decode(message)[0])
    except msgspec.MsgspecError:
        return None


def _id(envelope: _Envelope) -> str | None:
    for said in (envelope.headers.id, envelope.properties.correlation_id):
        if isinstance(said, str) and said:
            return said
    return None
