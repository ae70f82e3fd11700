"""Which verdicts the record justifies: why the end of a run can't have been reported."""

from __future__ import annotations

from faults.lost.record import Execution, Record
from faults.lost.said import Said

DIED = "worker died"
NOBODY_HAS_IT = frozenset({"never delivered", "received, not started", "cancelled"})
EVENT_LOST = "event lost"
SKEW_SECONDS = 0.05


class Causes:
    """Asks a record."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def of(self, run: str, scheduled: float, judged: float, said: Said) -> frozenset[str] | str:
        """The verdicts that a run may have got at ``judged``; in words why it was not lost, if it wasn't."""
        executions = self._record.executions.get(run, ())
        if any(each.began > judged + SKEW_SECONDS for each in executions):
            return "it was executed afterwards"
        if said.status is not None and said.ended is not None and not self._record.is_uncertain(said.ended):
            return f"its worker said {said.status}"
        if not executions:
            return self._of_message(scheduled, judged, said)
        last = executions[-1]
        died = self._record.deaths.get(last.life)
        if died is not None and died <= judged:
            return self._of_death(last, said)
        return self._of_the_living(last, judged, said)

    def _of_message(self, since: float, judged: float, said: Said) -> frozenset[str] | str:
        """A message that was on its way to a worker, or in its hands."""
        died = any(since <= at <= judged for at in self._record.deaths.values())
        if not died and not self._record.broker_was_away(since, judged):
            return "nobody can have lost its message"
        return (NOBODY_HAS_IT | {DIED}) if said.started is not None else NOBODY_HAS_IT

    @staticmethod
    def _of_death(last: Execution, said: Said) -> frozenset[str]:
        """The worker that executed it last was killed. Its start may be unknown, or the next attempt not begun."""
        if said.started is None:
            return NOBODY_HAS_IT
        return (NOBODY_HAS_IT | {DIED}) if last.status == "retried" else frozenset({DIED})

    def _of_the_living(self, last: Execution, judged: float, said: Said) -> frozenset[str] | str:
        """The worker that executed it last lived. Events and messages are lost with the broker alone."""
        if last.ended is None or last.ended > judged:
            return "its worker was executing it"
        away = self._record.broker_was_away(last.ended, judged)
        if last.status == "retried":
            died = any(last.ended <= at <= judged for at in self._record.deaths.values())
            return (NOBODY_HAS_IT | {DIED}) if away or died else "nobody can have lost its next attempt"
        if not away:
            return f"its worker lived, and wrote {last.status}"
        return frozenset({EVENT_LOST}) if said.started is not None else NOBODY_HAS_IT
