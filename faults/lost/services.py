"""The services of a round of lost runs: as their users run them, but workers have to answer the rescuer sooner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from faults import processes
from faults.fleet import Fleet, Slot
from swh_sched_runner.broker.celery import app, inspection

# The program waits two seconds for the answers to each of three questions, several times for a verdict.
ANSWER_SECONDS = 0.4
# The broker has heartbeats for other rounds, shorter than the three questions. Who is killed here is gone at once.
HEARTBEAT_SECONDS = 0


class Services(Fleet):
    """Places for services."""

    def start(self, slot: Slot) -> None:
        """Start the service of this place."""
        slot.leaving = False
        slot.process = processes.start(slot.log, _serve, dict(slot.environment), list(slot.arguments))


def _serve(environment: Mapping[str, str], arguments: Sequence[str]) -> None:
    inspection.query_tasks.__defaults__ = (ANSWER_SECONDS,)
    inspection.inspect.__defaults__ = (ANSWER_SECONDS,)
    app.HEARTBEAT_SECONDS = HEARTBEAT_SECONDS
    processes.be_program(environment, arguments)
