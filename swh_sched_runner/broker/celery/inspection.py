"""What workers answer of themselves over remote control: pool, heartbeat, queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from celery import Celery
from kombu.exceptions import OperationalError

from swh_sched_runner.broker.celery.app import connect, reason_of
from swh_sched_runner.exc import BrokerUnavailable

ANSWER_SECONDS = 2.0
# Pools whose tasks run beside what sends heartbeats and answers; of others a task may keep it from both.
CONCURRENT_POOLS = ("prefork", "threads")
LONGEST_NAME = 255
MOST_QUEUES = 1_000


@attrs.frozen
class WorkerAnswer:
    """What a worker says: its process, its pool, whether a task blocks it, its heartbeat in seconds, its queues."""

    pid: int
    pool: str
    blocks: bool
    heartbeat: float | None
    queues: list[str] | None


def inspect(app: Celery, hostnames: Sequence[str], seconds: float = ANSWER_SECONDS) -> dict[str, WorkerAnswer]:
    """Ask these workers, wait so long for each of two questions, and answer what came. Raises ``BrokerUnavailable``.

    Answers of a wrong shape, and two from one name, are none.
    """
    if not hostnames:
        return {}
    connection = connect(app)
    errors = (OperationalError, OSError, *connection.connection_errors, *connection.channel_errors)
    try:
        stats = _ask(app, connection, "stats", hostnames, seconds)
        queues = _ask(app, connection, "active_queues", list(stats), seconds)
    except errors as error:
        raise BrokerUnavailable(reason=reason_of(error)) from error
    finally:
        connection.release()
    answers = {hostname: read(answer, queues.get(hostname)) for hostname, answer in stats.items()}
    return {hostname: answer for hostname, answer in answers.items() if answer is not None}


def _ask(app: Celery, connection: Any, question: str, hostnames: Sequence[str], seconds: float) -> dict[str, Any]:
    if not hostnames:
        return {}
    replies = app.control.broadcast(
        question, destination=list(hostnames), reply=True, timeout=seconds, limit=None, connection=connection
    )
    return single(replies, hostnames)


def single(replies: Any, hostnames: Sequence[str]) -> dict[str, Any]:
    """The answers of those that were asked and answered once."""
    found: dict[str, list[Any]] = {}
    for reply in replies if isinstance(replies, list) else []:
        for hostname, answer in reply.items() if isinstance(reply, dict) else []:
            found.setdefault(hostname, []).append(answer)
    return {hostname: found[hostname][0] for hostname in hostnames if len(found.get(hostname, ())) == 1}


def read(stats: Any, active_queues: Any) -> WorkerAnswer | None:
    """What two answers say, None if the first has not the shape that Celery gives it."""
    match stats:
        case {"pid": int(pid), "pool": {"implementation": str(implementation)}} if 0 <= pid < 2**31:
            name = implementation.partition(":")[0].rpartition(".")[2]
            pool = {"thread": "threads"}.get(name, name)[:LONGEST_NAME]
            return WorkerAnswer(pid, pool, pool not in CONCURRENT_POOLS, _heartbeat(stats), _queues(active_queues))
    return None


def _heartbeat(stats: dict[str, Any]) -> float | None:
    match stats.get("broker"):
        case {"heartbeat": bool()}:
            return None
        case {"heartbeat": (int() | float()) as seconds} if 0 <= seconds < 86_400:
            return float(seconds)
    return None


def _queues(answer: Any) -> list[str] | None:
    if not isinstance(answer, list) or len(answer) > MOST_QUEUES:
        return None
    names = set()
    for queue in answer:
        match queue:
            case {"name": str(name)} if len(name) <= LONGEST_NAME:
                names.add(name)
            case _:
                return None
    return sorted(names)
