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
    Template,
    largest_body,
    redis_payload,
    refused,
)
from swh_sched_runner.broker.redis import connection as redis_connection
from swh_sched_runner.broker.redis.connection import RedisLink
from swh_sched_runner.broker.sent import Sent
from swh_sched_runner.exc import BrokerUnavailable, MessageUnsendable, SessionLost

FENCE_KEY = "swh-sched-runner.gone."
FILL_KEY = "swh-sched-runner.fill."
# So many messages, or bytes, in one command; what is larger goes alone, so that it takes no other message with it.
CHUNK_MESSAGES = 200
CHUNK_BYTES = 262_144
# The longest string that a server takes. At a longer one it cuts the connection.
LONGEST_STRING = "proto-max-bulk-len"
# So often at the same message, by a server that answers otherwise, means that it takes this message never.
CUTS = 2
# The script keeps the limit, the lock only keeps two runners from grabbing for the same capacity: when a runner died,
# its queues wait for so long.
FILL_MILLISECONDS = 10_000
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


class RedisPublisher:
    """See ``publish.Publisher``. A session that is taken for gone is fenced: its scripts push nothing any more."""

    def __init__(self, app: Celery, session_id: int, limit: SizeLimit) -> None:
        self.app = app
        self.limit = limit
        self.session_id = session_id
        self.link = RedisLink(app)
        self.push = self.link.client.register_script(PUSH)
        self._unlock = self.link.client.register_script(UNLOCK)
        self._templates: dict[str, Template] = {}
        self._cuts: Counter[str] = Counter()
        self._next_check = 0.0
        with self.link.guard():
            fenced = self.link.client.exists(self.fence(session_id))
        if fenced:
            self.close()
            raise SessionLost(session_id=session_id)
        self._learn_limit()

    def _learn_limit(self) -> None:
        with self.link.guard(), contextlib.suppress(ResponseError):  # some let nobody read it
            longest = self.link.client.config_get(LONGEST_STRING).get(LONGEST_STRING)
            if longest is not None:
                self.limit.lower(largest_body(int(longest)))

    def cut_at(self, message: str, size: int, error: Exception) -> str | None:
        """The connection broke when a message was sent alone; why it never can be, None if that is not certain."""
        with self.link.guard():
            self.link.client.ping()
        self._cuts[message] += 1
        if self._cuts[message] < CUTS:
            return None
        del self._cuts[message]
        reason = f"its {size} bytes make the broker cut the connection ({reason_of(error)})"
        return str(MessageUnsendable(reason=reason))

    def fence(self, session_id: int) -> str:
        """The key whose presence bars a session."""
        return self.link.key(f"{FENCE_KEY}{session_id}")

    @contextlib.contextmanager
    def fill(self, queue: str, max_queue_length: int | None) -> Iterator[RedisFiller | None]:
        """See ``publish.Publisher.fill``."""
        lock = self.link.key(f"{FILL_KEY}{queue}")
        with self.link.guard():
            mine = self.link.client.set(lock, str(self.session_id), nx=True, px=FILL_MILLISECONDS)
        if not mine:
            yield None
            return
        try:
            yield RedisFiller(self, queue, max_queue_length)
        finally:
            # A lock that can't be dropped now goes by itself.
            with contextlib.suppress(RedisError, OSError):
                self._unlock(keys=[lock], args=[str(self.session_id)])

    def session_is_gone(self, session_id: int) -> bool:
        """See ``publish.Publisher.session_is_gone``."""
        if session_id == self.session_id:
            return False
        with self.link.guard():
            self.link.client.set(self.fence(session_id), str(self.session_id), ex=FENCE_SECONDS)
        return True

    def connection_is_gone(self, session_id: int) -> bool:
        """See ``publish.Publisher.connection_is_gone``: it can't be seen."""
        return False

    def release(self, session_id: int) -> None:
        """See ``publish.Publisher.release``: nothing to do, the fence goes by itself."""

    def check(self) -> None:
        """See ``publish.Publisher.check``."""
        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + CHECK_EVERY_SECONDS
            with self.link.guard():
                self.link.client.ping()

    def close(self) -> None:
        """See ``publish.Publisher.close``."""
        self.link.close()

    def template(self, name: str) -> Template:
        """The template of a task name."""
        if name not in self._templates:
            self._templates[name] = Template(self.app, name, self.limit)
        return self._templates[name]


class RedisFiller:
    """See ``publish.Filler``."""

    def __init__(self, publisher: RedisPublisher, queue: str, max_queue_length: int | None) -> None:
        self._publisher = publisher
        self._queue = queue
        self._max_queue_length = max_queue_length
        self.depth: int | None = None

    def room(self) -> int | None:
        """See ``publish.Filler.room``."""
        self.depth = ready = redis_connection.depth(self._publisher.link, self._queue)
        return None if self._max_queue_length is None else max(0, self._max_queue_length - ready)

    def write(self, messages: Sequence[Message], check_session: Callable[[], None]) -> Sent:
        """See ``publish.Filler.write``: the answers of the script are the confirms."""
        sent = Sent(len(messages))
        for chunk in self._chunks(messages, sent):
            check_session()
            try:
                pushed = self._push(list(chunk.values()))
            except (RedisError, OSError) as error:
                confirmed = len(sent.confirmed)
                log.warning("sending broke off", queue=self._queue, confirmed=confirmed, reason=reason_of(error))
                if self._was_cut(chunk, sent, error):
                    continue
                break
            if pushed < 0:
                raise SessionLost(session_id=self._publisher.session_id)
            sent.confirmed.update(list(chunk)[:pushed])
            if pushed < len(chunk):
                break
        return sent

    def settle(self, sent: Sent) -> None:
        """See ``publish.Filler.settle``: all was said when it was written."""

    def _chunks(self, messages: Sequence[Message], sent: Sent) -> Iterator[dict[str, bytes]]:
        """The messages as Redis takes them, by id, a command at a time; what can't be sent is noted."""
        chunk: dict[str, bytes] = {}
        size = 0
        for message in messages:
            try:
                payload = redis_payload(self._publisher.template(message.name), message, self._queue)
            except REFUSALS as error:
                sent.unsendable[message.id] = refused(error)
                continue
            if chunk and (len(chunk) >= CHUNK_MESSAGES or size + len(payload) > CHUNK_BYTES):
                yield chunk
                chunk, size = {}, 0
            chunk[message.id] = payload
            size += len(payload)
        if chunk:
            yield chunk

    def _was_cut(self, chunk: dict[str, bytes], sent: Sent, error: Exception) -> bool:
        """Whether it was this one message, being large, that broke the connection; others may go on then."""
        (message, payload), *others = chunk.items()
        if others or len(payload) <= CHUNK_BYTES or not isinstance(error, RedisConnectionError | OSError):
            return False
        try:
            reason = self._publisher.cut_at(message, len(payload), error)
        except BrokerUnavailable:
            return False
        if reason is not None:
            sent.unsendable[message] = reason
        return True

    def _push(self, payloads: Sequence[bytes]) -> int:
        publisher = self._publisher
        return int(
            publisher.push(
                keys=[publisher.fence(publisher.session_id), *publisher.link.lists(self._queue)],
                args=[-1 if self._max_queue_length is None else self._max_queue_length, *payloads],
            )
        )
