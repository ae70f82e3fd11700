"""The table of rejected events: what goes in, what an operator reads, and the way back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import attrs
from sqlalchemy import Connection, TextClause

from swh_sched_runner.backend.tasks import runs
from swh_sched_runner.backend.tasks.runs import Recorded, RunChange
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import UnknownRejectedEvent
from swh_sched_runner.model import Timestamp

# Rows of before the column ``size`` have no more of a body, so one of that length may have been cut.
KEPT_BYTES_BEFORE = 65_536
# Of bodies in a statement, which is four times as long in the driver.
STATEMENT_BYTES = 262_144

_sql = Queries("events/rejected")


@attrs.define(slots=True, frozen=True)
class Rejection:
    """An event message that is rejected: why, what is kept of its body, and how long the whole body was.

    ``properties`` is what the broker says of it, texts by name.
    """

    reason: str
    body: bytes
    size: int
    properties: Mapping[str, str] = attrs.field(factory=dict)

    @classmethod
    def of(cls, reason: str, body: bytes) -> Rejection:
        """One whose body is kept whole."""
        return cls(reason, body, len(body))


@attrs.define(slots=True, frozen=True)
class RejectedEvent:
    """A row of the table. ``size`` is the length of the whole body (None: unknown), ``kept`` is what there is of it.

    ``body`` is None in a list.
    """

    id: int
    received: Timestamp
    reason: str
    size: int | None
    kept: int
    properties: Mapping[str, str]
    body: bytes | None = None

    @property
    def whole(self) -> bool:
        """Whether the body is kept whole: only then it can be replayed."""
        return self.kept < KEPT_BYTES_BEFORE if self.size is None else self.kept == self.size


def insert(conn: Connection, rejected: Sequence[Rejection]) -> None:
    """Keep these."""
    for some in _in_parts(rejected):
        conn.execute(
            _sql.insert_rejected_events,
            {
                "reasons": [one.reason for one in some],
                "bodies": [one.body for one in some],
                "sizes": [one.size for one in some],
                "properties": [json.dumps(dict(one.properties)) for one in some],
            },
        )


def _in_parts(rejected: Sequence[Rejection]) -> Iterator[list[Rejection]]:
    """Parts of which each is small enough for a statement; or is one that isn't."""
    part: list[Rejection] = []
    size = 0
    for one in rejected:
        if part and size + len(one.body) > STATEMENT_BYTES:
            yield part
            part, size = [], 0
        part.append(one)
        size += len(one.body)
    if part:
        yield part


def trim(conn: Connection, rows: int, size: int, seconds: float) -> int:
    """Drop the oldest beyond so many rows, bytes of bodies and seconds; answers how many."""
    return len(conn.execute(_sql.trim_rejected_events, {"rows": rows, "size": size, "seconds": seconds}).all())


def newest(conn: Connection, limit: int) -> list[RejectedEvent]:
    """The newest so many, without their bodies."""
    return [RejectedEvent(**row) for row in conn.execute(_sql.list_rejected_events, {"limit": limit}).mappings()]


def get(conn: Connection, event: int) -> RejectedEvent:
    """One, with its body. Raises ``UnknownRejectedEvent``."""
    found = _one(conn, _sql.get_rejected_event, event)
    if found is None:
        raise UnknownRejectedEvent(value=event)
    return found


def ids(conn: Connection, wanted: Sequence[int] | None = None) -> list[int]:
    """These ids without repetitions, or all that there are, the oldest first. Raises ``UnknownRejectedEvent``."""
    given = None if wanted is None else list(wanted)
    found = list(conn.execute(_sql.rejected_event_ids, {"ids": given}).scalars())
    missing = set(given or ()).difference(found)
    if missing:
        raise UnknownRejectedEvent(value=min(missing))
    return found


def drop(conn: Connection, wanted: Sequence[int] | None = None, older_than: timedelta | None = None) -> int:
    """Drop these, or all, of them only what is older; answers how many. Raises ``UnknownRejectedEvent``."""
    if wanted is not None:
        ids(conn, wanted)
    binds = {
        "ids": None if wanted is None else list(wanted),
        "seconds": None if older_than is None else older_than.total_seconds(),
    }
    return len(conn.execute(_sql.drop_rejected_events, binds).all())


def lock(conn: Connection, event: int) -> RejectedEvent | None:
    """One, with its body, locked until the transaction ends; None where it is gone."""
    return _one(conn, _sql.lock_rejected_event, event)


def replay(conn: Connection, event: int, changes: Sequence[RunChange], *, remove: bool) -> Recorded | None:
    """Record what a rejected event says after all, as the events of workers are, and ``remove`` its row.

    None where the row is gone meanwhile: nothing is recorded then.
    """
    if lock(conn, event) is None:
        return None
    recorded = runs.record(conn, changes, from_events=True)
    if remove:
        drop(conn, [event])
    return recorded


def _one(conn: Connection, statement: TextClause, event: int) -> RejectedEvent | None:
    row = conn.execute(statement, {"id": event}).mappings().first()
    return None if row is None else RejectedEvent(**dict(row) | {"body": bytes(row["body"])})
