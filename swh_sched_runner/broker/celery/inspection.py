"""What workers answer over remote control: pool, heartbeat, queues, and which tasks they have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
from celery import Celery

from swh_sched_runner.broker.celery.app import connect, reason_of
from swh_sched_runner.exc import BrokerUnavailable

ANSWER_SECONDS = 2.0
# Pools whose tasks run beside what sends heartbeats and answers; of others a task may keep it from both.
CONCURRENT_POOLS = ("prefork", "threads")
LONGEST_NAME = 255
MOST_QUEUES = 1_000
# Ids in one question: a message of 20 kB.
CHUNK_IDS = 500
RATE_LIMIT = "rate_limit"


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
    with _asking(app) as connection:
        stats = _ask(app, connection, "stats", hostnames, seconds)
        queues = _ask(app, connection, "active_queues", list(stats), seconds)
    answers = {hostname: read(answer, queues.get(hostname)) for hostname, answer in stats.items()}
    return {hostname: answer for hostname, answer in answers.items() if answer is not None}


def query_tasks(
    app: Celery, hostnames: Sequence[str], backend_ids: Sequence[str], seconds: float = ANSWER_SECONDS
) -> dict[str, frozenset[str]]:
    """Which of these tasks each worker has: it executes them, or keeps them for later. Raises ``BrokerUnavailable``.

    Of workers that answered every question once, and with the right shape. One that limits the rate of any task is left
    out: it tells nobody what waits for that. Each question takes ``seconds``: four, and one for each 500 ids.
    """
    if not hostnames:
        return {}
    with _asking(app) as connection:
        limits = _ask(app, connection, "registered", hostnames, seconds, taskinfoitems=[RATE_LIMIT])
        asked = [hostname for hostname, answer in limits.items() if limits_no_rate(answer)]
        # Before the question for each id: what is due in between is found by that one.
        scheduled = _ask(app, connection, "scheduled", asked, seconds)
        wanted = frozenset(backend_ids)
        held = {
            hostname: ids & wanted for hostname, answer in scheduled.items() if (ids := listed_ids(answer)) is not None
        }
        for at in range(0, len(backend_ids), CHUNK_IDS):
            chunk = list(backend_ids[at : at + CHUNK_IDS])
            answers = _ask(app, connection, "query_task", list(held), seconds, ids=chunk)
            held = {
                hostname: held[hostname] | (ids & wanted)
                for hostname, answer in answers.items()
                if (ids := queried_ids(answer)) is not None
            }
        # A task that is retried at once keeps its id. When the try before is through, a worker forgets the id, and
        # answers that it doesn't know what it executes. In the order in which a task passes through it.
        for question in ("reserved", "active"):
            answers = _ask(app, connection, question, list(held), seconds)
            held = {
                hostname: held[hostname] | (ids & wanted)
                for hostname, answer in answers.items()
                if (ids := listed_ids(answer)) is not None
            }
    return held


def revoke(app: Celery, backend_ids: Sequence[str]) -> None:
    """Tell the workers that live now not to start these messages; one that executes goes on. Waits for no answer.

    Raises ``BrokerUnavailable``.
    """
    with _asking(app) as connection:
        for at in range(0, len(backend_ids), CHUNK_IDS):
            app.control.revoke(list(backend_ids[at : at + CHUNK_IDS]), connection=connection)


def limits_no_rate(answer: Any) -> bool:
    """Whether an answer to ``registered`` tells of no limited task; False for a wrong shape."""
    if not isinstance(answer, list):
        return False
    return all(isinstance(task, str) and f"[{RATE_LIMIT}=" not in task for task in answer)


def listed_ids(answer: Any) -> frozenset[str] | None:
    """The ids in an answer to ``scheduled``, ``reserved`` or ``active``, None for a wrong shape."""
    if not isinstance(answer, list):
        return None
    ids = set()
    for entry in answer:
        match entry:
            case {"id": str(identifier)} | {"request": {"id": str(identifier)}}:
                ids.add(identifier)
            case _:
                return None
    return frozenset(ids)


def queried_ids(answer: Any) -> frozenset[str] | None:
    """The ids in an answer to ``query_task``, None for a wrong shape."""
    if not isinstance(answer, Mapping):
        return None
    for identifier, found in answer.items():
        match identifier, found:
            case str(), [str(), dict()]:
                pass
            case _:  # an error that the worker met
                return None
    return frozenset(answer)


@contextmanager
def _asking(app: Celery) -> Iterator[Any]:
    """A connection to ask over. What breaks is raised as ``BrokerUnavailable``.

    Whatever it is: kombu and py-amqp end at an answer that they can't read with any of their errors, and Python's.
    """
    connection = connect(app)
    try:
        yield connection
    except Exception as error:
        raise BrokerUnavailable(reason=reason_of(error)) from error
    finally:
        connection.release()


def _ask(
    app: Celery, connection: Any, question: str, hostnames: Sequence[str], seconds: float, **arguments: Any
) -> dict[str, Any]:
    if not hostnames:
        return {}
    replies = app.control.broadcast(
        question,
        arguments=arguments,
        destination=list(hostnames),
        reply=True,
        timeout=seconds,
        limit=None,
        connection=connection,
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
