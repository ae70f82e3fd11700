"""Asking workers which of some runs they have."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

# So many runs are asked for in one message to a worker.
ASK_AT_ONCE = 1_000


class AskWorkers(Protocol):
    """Asks workers which of some runs they have: of each hostname that answered, those runs."""

    def __call__(self, hostnames: Sequence[str], backend_ids: Sequence[str]) -> Mapping[str, Collection[str]]:
        """Raises ``BrokerUnavailable``."""


def parts(runs: Sequence[str]) -> list[Sequence[str]]:
    """The runs, as many at a time as are asked for at once."""
    return [runs[at : at + ASK_AT_ONCE] for at in range(0, len(runs), ASK_AT_ONCE)]


def ask_in_parts(ask: AskWorkers, hostnames: Sequence[str], runs: Sequence[str]) -> dict[str, set[str]]:
    """Ask workers for any number of runs; who has not answered each question has not answered."""
    if not hostnames or not runs:
        return {}
    answers: dict[str, set[str]] = {hostname: set() for hostname in hostnames}
    for part in parts(runs):
        said = ask(hostnames, part)
        answers = {hostname: has | set(said[hostname]) for hostname, has in answers.items() if hostname in said}
    return answers
