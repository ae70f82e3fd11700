"""What the log and the metrics say of messages that did not go out as they should."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from swh_sched_runner.backend.dispatch.outbox import Batch
from swh_sched_runner.broker.interface import PublishResult
from swh_sched_runner.services.dispatch.reminders import Reminders
from swh_sched_runner.services.instruments import Instruments

log = structlog.get_logger(__name__)


class Account:
    """Counts each time, and says what stays wrong ever less often."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._reminders = Reminders()

    def sent(self, batch: Batch, result: PublishResult) -> None:
        """What became of messages of a batch."""
        self.unsendable(batch, result.unsendable)
        confirmed = len(result.confirmed)
        if confirmed >= result.sendable:
            return
        self._instruments.unconfirmed(batch.queue, result.sendable - confirmed)
        if self._reminders.due(f"not confirmed {batch.queue}"):
            log.warning(
                "messages not confirmed, they will be sent again under the same ids",
                queue=batch.queue,
                batch=batch.id,
                sent=result.sendable,
                confirmed=confirmed,
                refused=result.refused,
                returned=len(result.returned),
            )

    def sent_again(self, batch: Batch, messages: int) -> None:
        """So many messages were confirmed at last."""
        if messages:
            self._instruments.resent(batch.queue, messages)
            if self._reminders.due(f"again {batch.queue}"):
                log.warning("messages sent again", queue=batch.queue, batch=batch.id, messages=messages)

    def unsendable(self, batch: Batch, reasons: Mapping[str, str]) -> None:
        """Messages can never be sent; why, by id."""
        if not reasons:
            return
        self._instruments.unsendable(batch.queue, len(reasons))
        run, reason = next(iter(reasons.items()))
        log.error(
            "messages can't be sent, their runs end as failed",
            queue=batch.queue,
            messages=len(reasons),
            run=run,
            reason=reason,
        )

    def left_alone(self, queue: str, reason: str) -> None:
        """A queue can't be filled."""
        if self._reminders.due(f"left alone {queue}", reason):
            log.error("queue skipped", queue=queue, reason=reason)

    def can_be_filled(self, queue: str) -> None:
        """It can."""
        self._reminders.forget(f"left alone {queue}")

    def left_open(self, queue: str, reason: str) -> None:
        """The batches of a queue stay open, since the database refuses something."""
        if self._reminders.due(f"left open {queue}", reason):
            log.error("batch stays open", queue=queue, reason=reason)

    def left_out(self, task_type: str, reason: str) -> None:
        """Nothing of a task type is taken, since the database refuses it."""
        if self._reminders.due(f"left out {task_type}", reason):
            log.error("task type skipped", task_type=task_type, reason=reason)
