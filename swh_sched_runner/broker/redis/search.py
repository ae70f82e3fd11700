"""Where in a queue of Redis or Valkey a message lies."""

from __future__ import annotations

import attrs
import redis.exceptions

from swh_sched_runner.broker.celery.app import reason_of
from swh_sched_runner.broker.redis.connection import RedisLink
from swh_sched_runner.broker.redis.restore import identifier_of
from swh_sched_runner.exc import DepthUnreadable

PAGE = 100  # messages: with arguments of 300 KB each 30 MB
SEARCHED = 10_000  # of each of a queue's lists, those that are taken first


@attrs.define(slots=True, frozen=True)
class Found:
    """Whether a queue ``holds`` a message (None: not to be told), and how many messages are taken before it."""

    holds: bool | None
    ahead: int | None = None


def find(link: RedisLink, queue: str, message: str) -> Found:
    """Look for the message of this id among the first ``SEARCHED``. Raises ``DepthUnreadable``, ``BrokerUnavailable``.

    Looked through twice before it counts as absent: messages that are taken meanwhile move the others, and one may
    pass between two pages.
    """
    with link.guard():
        try:
            found = _search(link, queue, message)
            return _search(link, queue, message) if found.holds is False else found
        except redis.exceptions.ResponseError as error:
            raise DepthUnreadable(queue=queue, reason=reason_of(error)) from error


def _search(link: RedisLink, queue: str, message: str) -> Found:
    passed = 0
    whole = True
    for key in link.lists(queue):  # workers empty one list before they take from the next
        length = int(link.client.llen(key))
        for at in range(0, min(length, SEARCHED), PAGE):
            page = link.client.lrange(key, -at - PAGE, -at - 1)  # they take from the end
            for before, each in enumerate(reversed(page), at):
                if identifier_of(each) == message:
                    return Found(True, passed + before)
        passed += length
        whole = whole and length <= SEARCHED
    return Found(False if whole else None)
