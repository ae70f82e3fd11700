"""What an explanation consists of: reasons, and what the broker said."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

import attrs

from swh_sched_runner.broker.queues import QueueInfo

ReasonCode = Literal[
    # It will not run again.
    "completed",
    "disabled",
    # It is not due yet, or no runner has taken it.
    "not_due",
    "type_paused",
    "queue_paused",
    "no_runner",
    "in_flight_cap",
    "rate_limit",
    "queue_unreadable",
    "queue_full",
    "open_batch",
    "behind",
    "ready",
    # It is in flight.
    "no_run",
    "unconfirmed",
    "no_consumer",
    "queued",
    "not_in_queue",
    "sent",
    "received",
    "started",
    # These never answer alone.
    "worker_gone",
    "undecided",
    "no_listener",
    "events_waiting",
]


@attrs.define(slots=True, frozen=True)
class Reason:
    """One reason: a ``code`` for programs, a ``text`` and an ``advice`` for people.

    ``expected_wait`` is how long it is likely to hold, None where that is unknown.
    """

    code: ReasonCode
    text: str
    advice: str | None = None
    expected_wait: timedelta | None = None


@attrs.define(slots=True, frozen=True)
class BrokerFacts:
    """What the broker said: of the task's queue, of the queue of events, and whether the worker is connected.

    None where it was not asked, or can't tell. ``unreadable``: why the queue can't be read, ``missing``: why nothing
    is known of the broker.
    """

    queue: QueueInfo | None = None
    events: QueueInfo | None = None
    worker_lives: bool | None = None
    unreadable: str | None = None
    missing: str | None = None
