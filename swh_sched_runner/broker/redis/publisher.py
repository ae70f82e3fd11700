"""Publishing to Redis or Valkey: one script reads the length and pushes, so that no limit is ever exceeded."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import structlog
from celery import Celery
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from swh_sched_runner.broker.celery.app import reason_of
from swh_sched_runner.broker.celery.messages import (
    REFUSALS,
    Message,
    SizeLimit,
    Templates,
    largest_body,
    redis_payload,
    refused,
)
from swh_sched_runner.broker.interface import Publisher, PublishResult
from swh_sched_runner.broker.redis import connection as redis_connection
from swh_sched_runner.broker.redis import inventory
from swh_sched_runner.broker.redis.connection import RedisLink
from swh_sched_runner.exc import BrokerUnavailable, MessageUnsendable, SessionLost

FENCE_KEY = "swh-sched-runner.gone."
LOCK_KEY = "swh-sched-runner.lease."
# So many messages, or bytes, in one command; what is larger goes alone, so that it takes no other message with it.
CHUNK_MESSAGES = 200
CHUNK_BYTES = 262_144
# The longest string that a server takes. At a longer one it cuts the connection.
LONGEST_STRING = "proto-max-bulk-len"
# So often at the same message, by a server that answers otherwise, means that it takes this message never.
CUTS = 2
# The script keeps the limit, the lock only keeps two runners from grabbing for the same capacity: when a runner died,
# its queues wait for so long.
LOCK_MILLISECONDS = 10_000
# Ids of sessions never come again; a fence stays for as long as a paused machine may take to wake up.
FENCE_SECONDS = 30 * 86_400
CHECK_EVERY_SECONDS = 1.0

PUSH = """
-- Push what fits. KEYS: the session's fence, then the lists of the queue. ARGV: max_queue_length, -1 for no limit, then
-- messages. Returns how many were pushed, -1 if the session was taken for gone.
if redis.call('exists', KEYS[1]) == 1 then
  return -1
end
local capacity = #ARGV - 1
local max_queue_length = tonumber(ARGV[1])
if max_queue_length >= 0 then
  for i = 2, #KEYS do
    max_queue_length = max_queue_length - redis.call('llen', KEYS[i])
  end
  capacity = math.max(0, math.min(capacity, max_queue_length))
end
for i = 1, capacity do
  redis.call('lpush', KEYS[2], ARGV[i + 1])
end
return capacity
"""
UNLOCK = """
if redis.call('get', KEYS[1]) == ARGV[1] then
  redis.call('del', KEYS[1])
end
"""

log = structlog.get_logger(__name__)


class RedisPublisher(Publisher):
    """A session that is taken for gone is fenced: its scripts push nothing any more."""

    locks_last = False

    def __init__(self, app: Celery, session_id: int, limit: SizeLimit) -> None:
        self._limit = limit
        self._session_id = session_id
        self._link = RedisLink(app)
        self._push = self._link.client.register_script(PUSH)
        self._drop_lock = self._link.client.register_script(UNLOCK)
        self._templates = Templates(app, limit)
        self._cuts: Counter[str] = Counter()
        self._next_check = 0.0
        with self._link.guard():
            fenced = self._link.client.exists(self._fence(session_id))
        if fenced:
            self.close()
            raise SessionLost(session_id=session_id)
        self._learn_limit()

    def lock(self, queue: str) -> bool:
        with self._link.guard():
            key, mine = self._lock_key(queue), str(self._session_id)
            return bool(self._link.client.set(key, mine, nx=True, px=LOCK_MILLISECONDS))

    def unlock(self, queue: str) -> None:
        # A lock that can't be dropped now goes by itself.
        with contextlib.suppress(RedisError, OSError):
            self._drop_lock(keys=[self._lock_key(queue)], args=[str(self._session_id)])

    def depth(self, queue: str) -> int:
        return redis_connection.depth(self._link, queue)

    def publish(
        self,
        queue: str,
        messages: Sequence[Message],
        max_queue_length: int | None,
        check_session: Callable[[], None],
    ) -> PublishResult:
        result = PublishResult(len(messages))
        keys = [self._fence(self._session_id), *self._link.lists(queue)]
        limit = -1 if max_queue_length is None else max_queue_length
        for chunk in self._chunks(queue, messages, result):
            check_session()
            try:
                pushed = int(self._push(keys=keys, args=[limit, *chunk.values()]))
            except (RedisError, OSError) as error:
                confirmed = len(result.confirmed)
                log.warning("publishing interrupted", queue=queue, confirmed=confirmed, reason=reason_of(error))
                if self._was_cut(chunk, result, error):
                    continue
                break
            if pushed < 0:
                raise SessionLost(session_id=self._session_id)
            result.confirmed.update(list(chunk)[:pushed])
            if pushed < len(chunk):
                break
        return result

    def wait_for_confirms(self, result: PublishResult) -> None:
        """Nothing to wait for: the answers of the script are the confirms."""

    def ready_ids(self, queue: str, most: int) -> frozenset[str] | None:
        return inventory.ready_ids(self._link, queue, most)

    def session_is_gone(self, session_id: int) -> bool:
        if session_id == self._session_id:
            return False
        with self._link.guard():
            self._link.client.set(self._fence(session_id), str(self._session_id), ex=FENCE_SECONDS)
        return True

    def connection_is_gone(self, session_id: int) -> bool:
        return False  # it can't be seen

    def release(self, session_id: int) -> None:
        """Nothing to do: the fence goes by itself."""

    def check(self) -> None:
        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + CHECK_EVERY_SECONDS
            with self._link.guard():
                self._link.client.ping()

    def close(self) -> None:
        self._link.close()

    def _fence(self, session_id: int) -> str:
        """The key whose presence bars a session."""
        return self._link.key(f"{FENCE_KEY}{session_id}")

    def _lock_key(self, queue: str) -> str:
        return self._link.key(f"{LOCK_KEY}{queue}")

    def _learn_limit(self) -> None:
        with self._link.guard(), contextlib.suppress(ResponseError):  # some let nobody read it
            longest = self._link.client.config_get(LONGEST_STRING).get(LONGEST_STRING)
            if longest is not None:
                self._limit.lower(largest_body(int(longest)))

    def _chunks(self, queue: str, messages: Sequence[Message], result: PublishResult) -> Iterator[dict[str, bytes]]:
        """The messages as Redis takes them, by id, a command at a time; what can't be sent is noted."""
        chunk: dict[str, bytes] = {}
        size = 0
        for message in messages:
            try:
                payload = redis_payload(self._templates.of(message.name), message, queue)
            except REFUSALS as error:
                result.unsendable[message.id] = refused(error)
                continue
            if chunk and (len(chunk) >= CHUNK_MESSAGES or size + len(payload) > CHUNK_BYTES):
                yield chunk
                chunk, size = {}, 0
            chunk[message.id] = payload
            size += len(payload)
        if chunk:
            yield chunk

    def _was_cut(self, chunk: dict[str, bytes], result: PublishResult, error: Exception) -> bool:
        """Whether it was this one message, being large, that broke the connection; others may go on then."""
        (message, payload), *others = chunk.items()
        if others or len(payload) <= CHUNK_BYTES or not isinstance(error, RedisConnectionError | OSError):
            return False
        try:
            reason = self._cut_at(message, len(payload), error)
        except BrokerUnavailable:
            return False
        if reason is not None:
            result.unsendable[message] = reason
        return True

    def _cut_at(self, message: str, size: int, error: Exception) -> str | None:
        """The connection broke when a message was sent alone; why it never can be, None if that is not certain."""
        with self._link.guard():
            self._link.client.ping()
        self._cuts[message] += 1
        if self._cuts[message] < CUTS:
            return None
        del self._cuts[message]
        reason = f"its {size} bytes make the broker cut the connection ({reason_of(error)})"
        return str(MessageUnsendable(reason=reason))
