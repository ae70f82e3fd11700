"""Events from Redis or Valkey: the list that workers fill, and a hash of what listeners have in hand."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Sequence
from typing import Annotated

import msgspec
from celery import Celery
from msgspec import Meta
from redis.exceptions import RedisError

from swh_sched_runner.broker.interface import BATCH_BYTES, KEPT_BYTES, Delivery, EventConsumer, bytes_of
from swh_sched_runner.broker.redis.connection import RedisLink
from swh_sched_runner.config.settings import BrokerSettings

# What a listener took and has not acknowledged for so long comes back: a dead one's events. A living one that is held
# up by the database may see its own again; an event that is told twice counts once.
VISIBILITY_SECONDS = 30
POLL_SECONDS = 0.02
KEEP_EVERY_SECONDS = 5.0
# What kombu's envelope takes around a body, which base64 makes longer by a third.
ENVELOPE_BYTES = 65_536

TAKE = """
-- Take the oldest messages, first those of dead listeners, until they are enough, or so many bytes. KEYS: list, hash
-- of messages in hand, their times, counter. ARGV: how many, seconds until what is in hand comes back, how many bytes;
-- bytes that a message may have, and how many of a longer one are handed out. Returns how many are in hand, with those
-- of other consumers, then tag, size, message, tag, …
local now = tonumber(redis.call('time')[1])
local limit = tonumber(ARGV[1])
local bytes_left = tonumber(ARGV[3])
local taken = {}
local function hand_out(tag, message)
  taken[#taken + 1] = tag
  taken[#taken + 1] = #message
  if #message > tonumber(ARGV[4]) then
    message = string.sub(message, 1, tonumber(ARGV[5]))
  end
  taken[#taken + 1] = message
  bytes_left = bytes_left - #message
end
local overdue = redis.call('zrangebyscore', KEYS[3], '-inf', now - tonumber(ARGV[2]), 'limit', 0, limit)
for _, tag in ipairs(overdue) do
  if bytes_left <= 0 then
    break
  end
  local message = redis.call('hget', KEYS[2], tag)
  if message then
    redis.call('zadd', KEYS[3], now, tag)
    hand_out(tag, message)
  else
    redis.call('zrem', KEYS[3], tag)
  end
end
while #taken / 3 < limit and bytes_left > 0 do
  local message = redis.call('rpop', KEYS[1])
  if not message then
    break
  end
  local tag = tostring(redis.call('incr', KEYS[4]))
  redis.call('hset', KEYS[2], tag, message)
  redis.call('zadd', KEYS[3], now, tag)
  hand_out(tag, message)
end
table.insert(taken, 1, redis.call('hlen', KEYS[2]))
return taken
"""

LOOK = """
-- Whether there is something to take. KEYS as above. ARGV: seconds until what is in hand comes back.
if redis.call('llen', KEYS[1]) > 0 then
  return 1
end
local now = tonumber(redis.call('time')[1])
return redis.call('zcount', KEYS[3], '-inf', now - tonumber(ARGV[1]))
"""

KEEP = """
-- What is in hand stays there from now on. KEYS as above. ARGV: tags.
local now = redis.call('time')[1]
for _, tag in ipairs(ARGV) do
  redis.call('zadd', KEYS[3], 'XX', now, tag)
end
"""

GIVE_BACK = """
-- Put what a listener has in hand back to where it came from, oldest last, since the oldest is taken first.
for i = #ARGV, 1, -1 do
  local message = redis.call('hget', KEYS[2], ARGV[i])
  if message then
    redis.call('rpush', KEYS[1], message)
    redis.call('hdel', KEYS[2], ARGV[i])
    redis.call('zrem', KEYS[3], ARGV[i])
  end
end
"""


PUT_BACK = """
-- Put all that anybody has in hand back to where it came from, oldest last, since the oldest is taken first.
local tags = redis.call('hkeys', KEYS[2])
table.sort(tags, function(a, b) return tonumber(a) > tonumber(b) end)
for _, tag in ipairs(tags) do
  redis.call('rpush', KEYS[1], redis.call('hget', KEYS[2], tag))
end
redis.call('del', KEYS[2], KEYS[3])
"""


class _Properties(msgspec.Struct):
    body_encoding: str | None = None


class _Envelope(msgspec.Struct):
    body: Annotated[str, Meta(min_length=1)]
    properties: _Properties = msgspec.field(default_factory=_Properties)


_envelope = msgspec.json.Decoder(_Envelope)


class RedisConsumer(EventConsumer):
    """Workers' own unacknowledged messages are kept elsewhere and never touched."""

    alone = False
    standing_by = False
    in_order = False

    def __init__(self, app: Celery, settings: BrokerSettings, max_bytes: int) -> None:
        self._link = RedisLink(app)
        self._max_bytes = max_bytes
        self.queue = settings.event_queue
        self._kept = time.monotonic()
        self._keys = keys(self._link, settings.event_queue)
        self._take = self._link.client.register_script(TAKE)
        self._keep = self._link.client.register_script(KEEP)
        self._look = self._link.client.register_script(LOOK)
        self._put_back = self._link.client.register_script(PUT_BACK)
        self._give_back = self._link.client.register_script(GIVE_BACK)
        self._in_hand: dict[bytes | str, None] = {}

    def recover(self) -> None:
        with self._link.guard():
            self._put_back(keys=self._keys)
        self._in_hand.clear()

    def wait(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        self.keep_alive()
        while not self._is_there():
            if (left := deadline - time.monotonic()) <= 0:
                return False
            time.sleep(min(left, POLL_SECONDS))
        return True

    def _is_there(self) -> bool:
        with self._link.guard():
            return bool(self._look(keys=self._keys, args=[VISIBILITY_SECONDS]))

    def receive(self, limit: int, timeout_seconds: float, limit_bytes: int = BATCH_BYTES) -> list[Delivery]:
        deadline = time.monotonic() + timeout_seconds
        taken: list[Delivery] = []
        self.keep_alive()
        self.in_order = True
        while True:
            taken += self._receive(limit - len(taken), limit_bytes - bytes_of(taken))
            left = deadline - time.monotonic()
            if len(taken) >= limit or bytes_of(taken) >= limit_bytes or left <= 0:
                return taken
            time.sleep(min(left, POLL_SECONDS))

    def _receive(self, limit: int, limit_bytes: int) -> list[Delivery]:
        longest = self._max_bytes * 4 // 3 + ENVELOPE_BYTES
        with self._link.guard():
            args = [limit, VISIBILITY_SECONDS, limit_bytes, longest, KEPT_BYTES]
            in_hand, *parts = self._take(keys=self._keys, args=args)
        self._in_hand |= dict.fromkeys(parts[::3])
        # A consumer that lost its lock while it was paused, and then took something, has what came before.
        self.in_order = self.in_order and int(in_hand) == len(self._in_hand)
        return [self._delivery(parts[at], parts[at + 1], parts[at + 2], longest) for at in range(0, len(parts), 3)]

    def _delivery(self, tag: bytes | str, size: int, message: bytes, longest: int) -> Delivery:
        if size > longest:
            return Delivery(message, tag, size)
        return Delivery.of(body_of(message), tag, self._max_bytes)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        tags = [delivery.tag for delivery in deliveries]
        if not tags:
            return
        with self._link.guard(), self._link.client.pipeline(transaction=True) as pipe:
            pipe.hdel(self._keys[1], *tags)
            pipe.zrem(self._keys[2], *tags)
            pipe.execute()
        for tag in tags:
            self._in_hand.pop(tag, None)

    def keep_alive(self) -> None:
        if self._in_hand and time.monotonic() - self._kept > KEEP_EVERY_SECONDS:
            self._kept = time.monotonic()
            with self._link.guard():
                self._keep(keys=self._keys, args=list(self._in_hand))

    def close(self) -> None:
        if self._in_hand:
            # What can't be given back now comes back by itself, later.
            with contextlib.suppress(RedisError, OSError):
                self._give_back(keys=self._keys, args=list(self._in_hand))
        self._link.close()


def keys(link: RedisLink, queue: str) -> list[str]:
    """The keys of an event queue: its list; messages in hand, since when, and the counter of their tags."""
    return [link.key(queue), *(link.key(f"{queue}.{part}") for part in ("unacked", "unacked_index", "tags"))]


def body_of(message: bytes) -> bytes:
    """The body in kombu's envelope; the message as it is where that can't be opened."""
    try:
        envelope = _envelope.decode(message)
        if envelope.properties.body_encoding == "base64":
            return base64.b64decode(envelope.body, validate=True)
        return envelope.body.encode()
    except (msgspec.MsgspecError, ValueError, RecursionError):  # of base64 and of UTF-8 as well
        return message
