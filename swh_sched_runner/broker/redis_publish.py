"""Publishing to Redis or Valkey: one script reads the length and pushes, so that no bound is ever passed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import structlog
from celery import Celery
from redis.exceptions import RedisError

from swh_sched_runner.broker import redis_link
from swh_sched_runner.broker.app import reason_of
from swh_sched_runner.broker.messages import REFUSALS, Message, SizeLimit, Template, redis_payload, refused
from swh_sched_runner.broker.redis_link import RedisLink
from swh_sched_runner.broker.sent import Sent
from swh_sched_runner.exc import OwnershipLost

FENCE_KEY = "swh-sched-runner.gone."
FILL_KEY = "swh-sched-runner.fill."
CHUNK_MESSAGES = 200
# The script holds the bound, the lock only keeps two runners from grabbing for the same room: when a runner died,
# its queues wait for so long.
FILL_MILLISECONDS = 10_000
# Numbers of owners never come again; a fence stays for as long as a paused machine may take to wake up.
FENCE_SECONDS = 30 * 86_400
CHECK_EVERY_SECONDS = 1.0

PUSH = """
-- Push what there is room for. KEYS: the owner's fence, then the lists of the queue. ARGV: the bound, -1 for none;
-- then messages. Returns how many were pushed, -1 if the owner was taken for gone.
if redis.call('exists', KEYS[1]) == 1 then
  return -1
end
local room = #ARGV - 1
local bound = tonumber(ARGV[1])
if bound >= 0 then
  for i = 2, #KEYS do
    bound = bound - redis.call('llen', KEYS[i])
  end
  room = math.max(0, math.min(room, bound))
end
for i = 1, room do
  redis.call('lpush', KEYS[2], ARGV[i + 1])
end
return room
"""
UNLOCK = """
if redis.call('get', KEYS[1]) == ARGV[1] then
  redis.call('del', KEYS[1])
end
"""

log = structlog.get_logger(__name__)


class RedisPublisher:
    """See ``publish.Publisher``. An owner that is taken for gone is fenced: its scripts push nothing any more."""

    def __init__(self, app: Celery, owner: int, limit: SizeLimit) -> None:
        self.app = app
        self.limit = limit
        self.owner = owner
        self.link = RedisLink(app)
        self.push = self.link.client.register_script(PUSH)
        self._unlock = self.link.client.register_script(UNLOCK)
        self._templates: dict[str, Template] = {}
        self._next_check = 0.0
        with self.link.guard():
            fenced = self.link.client.exists(self.fence(owner))
        if fenced:
            self.close()
            raise OwnershipLost(owner=owner)

    def fence(self, owner: int) -> str:
        """The key whose presence bars an owner."""
        return self.link.key(f"{FENCE_KEY}{owner}")

    @contextlib.contextmanager
    def fill(self, queue: str, bound: int | None) -> Iterator[RedisFiller | None]:
        """See ``publish.Publisher.fill``."""
        lock = self.link.key(f"{FILL_KEY}{queue}")
        with self.link.guard():
            mine = self.link.client.set(lock, str(self.owner), nx=True, px=FILL_MILLISECONDS)
        if not mine:
            yield None
            return
        try:
            yield RedisFiller(self, queue, bound)
        finally:
            # A lock that can't be dropped now goes by itself.
            with contextlib.suppress(RedisError, OSError):
                self._unlock(keys=[lock], args=[str(self.owner)])

    def owner_is_gone(self, owner: int) -> bool:
        """See ``publish.Publisher.owner_is_gone``."""
        if owner == self.owner:
            return False
        with self.link.guard():
            self.link.client.set(self.fence(owner), str(self.owner), ex=FENCE_SECONDS)
        return True

    def connection_is_gone(self, owner: int) -> bool:
        """See ``publish.Publisher.connection_is_gone``: it can't be seen."""
        return False

    def release(self, owner: int) -> None:
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

    def __init__(self, publisher: RedisPublisher, queue: str, bound: int | None) -> None:
        self._publisher = publisher
        self._queue = queue
        self._bound = bound
        self.depth: int | None = None

    def room(self) -> int | None:
        """See ``publish.Filler.room``."""
        self.depth = ready = redis_link.depth(self._publisher.link, self._queue)
        return None if self._bound is None else max(0, self._bound - ready)

    def write(self, messages: Sequence[Message], still_owner: Callable[[], None]) -> Sent:
        """See ``publish.Filler.write``: the answers of the script are the confirms."""
        sent = Sent(len(messages))
        for at in range(0, len(messages), CHUNK_MESSAGES):
            still_owner()
            payloads = self._payloads(messages[at : at + CHUNK_MESSAGES], sent)
            try:
                pushed = self._push(list(payloads.values()))
            except (RedisError, OSError) as error:
                confirmed = len(sent.confirmed)
                log.warning("sending broke off", queue=self._queue, confirmed=confirmed, reason=reason_of(error))
                break
            if pushed < 0:
                raise OwnershipLost(owner=self._publisher.owner)
            sent.confirmed.update(list(payloads)[:pushed])
            if pushed < len(payloads):
                break
        return sent

    def settle(self, sent: Sent) -> None:
        """See ``publish.Filler.settle``: all was said when it was written."""

    def _payloads(self, chunk: Sequence[Message], sent: Sent) -> dict[str, bytes]:
        """The messages as Redis takes them, by id; what can't be sent is noted."""
        payloads = {}
        for message in chunk:
            try:
                payloads[message.id] = redis_payload(self._publisher.template(message.name), message, self._queue)
            except REFUSALS as error:
                sent.unsendable[message.id] = refused(error)
        return payloads

    def _push(self, payloads: Sequence[bytes]) -> int:
        publisher = self._publisher
        return int(
            publisher.push(
                keys=[publisher.fence(publisher.owner), *publisher.link.lists(self._queue)],
                args=[-1 if self._bound is None else self._bound, *payloads],
            )
        )
