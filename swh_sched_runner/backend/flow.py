"""What is on its way, in numbers for monitoring: promised messages, tasks in flight, events set aside."""

from __future__ import annotations

from datetime import datetime, timedelta

import attrs
from sqlalchemy import Connection

from swh_sched_runner.db.queries import Queries

_sql = Queries("flow")


@attrs.define(slots=True, frozen=True)
class Flow:
    """Open ``batches`` with so many ``messages``, the ``oldest`` since when; ``in_flight`` tasks by type."""

    batches: int
    messages: int
    oldest: datetime | None
    set_aside: int
    in_flight: dict[str, int]


def flow(conn: Connection, limit: timedelta) -> Flow:
    """What is on its way. A statement that takes longer than ``limit`` is ended."""
    milliseconds = str(limit // timedelta(milliseconds=1))
    conn.execute(Queries("session").set_for_now, {"name": "statement_timeout", "value": milliseconds})
    ledger = conn.execute(_sql.ledger).one()
    in_flight = {row.type: row.tasks for row in conn.execute(_sql.in_flight)}
    return Flow(ledger.batches, int(ledger.messages), ledger.oldest, ledger.set_aside, in_flight)
