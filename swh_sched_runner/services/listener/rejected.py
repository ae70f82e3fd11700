"""What could not be read or recorded stays within the bounds that the operator has set."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.events.rejected import Rejection
from swh_sched_runner.config import ListenerSettings
from swh_sched_runner.exc import SchedulerException
from swh_sched_runner.services.instruments import Instruments

log = structlog.get_logger(__name__)

# The table is looked through when a tenth of a bound has been added, and after so long, since rows grow old as well.
SHARE = 0.1
TRIM_SECONDS = 3_600.0


class RejectedEvents:
    """Counts what is added to the table, and drops the oldest of it in time."""

    def __init__(self, dispatch: Dispatch, settings: ListenerSettings, instruments: Instruments) -> None:
        self._dispatch = dispatch
        self._settings = settings
        self._instruments = instruments
        self._rows = 0
        self._bytes = 0
        self._next = 0.0

    def added(self, rejected: Sequence[Rejection]) -> None:
        """So much was put into the table, and is committed."""
        if not rejected:
            return
        self._rows += len(rejected)
        self._bytes += sum(len(one.body) for one in rejected)
        self._instruments.rejected(len(rejected))
        log.error("events rejected", rows=len(rejected), reason=rejected[0].reason)

    def trim(self) -> None:
        """Drop what is beyond the bounds, if it is time to look. A failure is told, and waits for the next time."""
        settings = self._settings
        much = self._rows > SHARE * settings.rejected_event_rows or self._bytes > SHARE * settings.rejected_event_bytes
        if not much and time.monotonic() < self._next:
            return
        self._rows = self._bytes = 0
        self._next = time.monotonic() + TRIM_SECONDS
        try:
            dropped = self._dispatch.trim_rejected_events(
                settings.rejected_event_rows, settings.rejected_event_bytes, settings.rejected_event_seconds
            )
        except SchedulerException as error:
            log.warning("rejected events were not trimmed", reason=str(error))
            return
        if dropped:
            self._instruments.rejected_dropped(dropped)
            log.warning("oldest rejected events dropped", rows=dropped)
