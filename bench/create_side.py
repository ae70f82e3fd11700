"""One side of bench/create.py: prepares its data, then times each work. Prints rows per second as JSON."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from typing import Any

BATCH = 1_000
CALLERS = 8
SHIFT = 4  # each caller's tasks begin a quarter behind the one before: three quarters of them are somebody else's too
KIND = {"type": "bench", "description": "bench", "backend_name": "bench", "default_interval": timedelta(days=1)}


@dataclass
class Side:
    """What both packages offer, under one name each."""

    backend: Any
    task_type: Callable[..., Any]
    task: Callable[..., Any]  # of a URL, when it is due, and a type
    id_of: Callable[[Any], int]
    origin: Callable[..., Any]
    stats: Callable[..., Any]
    successful: Any  # a LastVisitStatus


def ours(url: str) -> Side:
    """This project."""
    from swh_sched_runner.backend import SchedulerBackend
    from swh_sched_runner.model import LastVisitStatus, ListedOrigin, OriginVisitStats

    def task(url: str, now: datetime, task_type: str = "bench") -> Any:
        return {
            "type": task_type,
            "arguments": {"args": [], "kwargs": {"url": url}},
            "next_run": now,
            "policy": "oneshot",
        }

    backend, successful = SchedulerBackend(url), LastVisitStatus.successful
    return Side(backend, dict, task, lambda task: int(task["id"]), ListedOrigin, OriginVisitStats, successful)


def baseline(url: str) -> Side:
    """The package swh.scheduler."""
    from swh.scheduler import get_scheduler  # type: ignore[import-not-found]
    from swh.scheduler.model import (  # type: ignore[import-not-found]
        LastVisitStatus,
        ListedOrigin,
        OriginVisitStats,
        Task,
        TaskArguments,
        TaskType,
    )

    def task(url: str, now: datetime, task_type: str = "bench") -> Any:
        return Task(
            type=task_type, arguments=TaskArguments(args=[], kwargs={"url": url}), next_run=now, policy="oneshot"
        )

    backend, successful = get_scheduler("postgresql", db=url), LastVisitStatus.successful
    return Side(backend, TaskType, task, lambda task: int(task.id), ListedOrigin, OriginVisitStats, successful)


SIDES = {"ours": ours, "baseline": baseline}


def timed(work: Callable[[], object], rows: int) -> float:
    """Rows per second."""
    began = time.perf_counter()
    work()
    return rows / (time.perf_counter() - began)


def in_batches(call: Callable[[list[Any]], object], values: list[Any]) -> float:
    """Rows per second, so many in a call."""
    batches = [values[at : at + BATCH] for at in range(0, len(values), BATCH)]
    return timed(lambda: [call(batch) for batch in batches], len(values))


def one_caller(name: str, url: str, urls: list[str], now: datetime, start: Barrier, answers: Any) -> None:
    """A process that creates its tasks when all are ready, and answers when it ended and with which ids."""
    side = SIDES[name](url)
    tasks = [side.task(url, now) for url in urls]
    side.backend.get_listers()
    start.wait()
    try:
        ids = [side.id_of(task) for task in side.backend.create_tasks(tasks, policy="oneshot")]
        answers.put((time.time(), dict(zip(urls, ids, strict=True)), None))
    except Exception as error:
        answers.put((time.time(), {}, repr(error)[:300]))


def at_once(name: str, url: str, rows: int, run: int, now: datetime) -> float:
    """Rows per second of several callers with overlapping tasks. Ours must answer everyone with the same ids."""
    step = rows // SHIFT
    urls = [f"https://forge.example/at-once/{run}/{n}" for n in range(rows + step * (CALLERS - 1))]
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(CALLERS + 1), context.Queue()
    callers = [
        context.Process(target=one_caller, args=(name, url, urls[at : at + rows], now, start, answers))
        for at in range(0, step * CALLERS, step)
    ]
    for caller in callers:
        caller.start()
    start.wait()
    began = time.time()
    results = [answers.get(timeout=600) for _ in callers]
    for caller in callers:
        caller.join()
    ids: dict[str, set[int]] = {}
    for _, found, _ in results:
        for each, task_id in found.items():
            ids.setdefault(each, set()).add(task_id)
    errors = [error for _, _, error in results if error]
    twice = sum(len(found) > 1 for found in ids.values())
    if errors or twice:
        sys.stderr.write(f"{name}: {twice} of {len(ids)} tasks exist more than once, errors: {errors}\n")
        if name == "ours":
            raise SystemExit(1)
    last: float = max(ended for ended, _, _ in results)
    return rows * CALLERS / (last - began)


def visited(side: Side, urls: list[str], number: int, now: datetime) -> list[Any]:
    """Statistics after so many successful visits, a day apart: each brings another timestamp, snapshot and place."""
    timestamp = now + number * timedelta(days=1)
    return [
        side.stats(
            url=url,
            visit_type="git",
            last_visit=timestamp,
            last_successful=timestamp,
            last_visit_status=side.successful,
            last_snapshot=bytes([number]) * 20,
            next_visit_queue_position=number * 86_400 + n,
        )
        for n, url in enumerate(urls)
    ]


def successful_visits(side: Side, lister_id: Any, urls: list[str], now: datetime) -> float:
    """Rows per second of later visits that succeed; every second origin has a last_update, all were visited before."""
    later = now + timedelta(days=9)
    origins = [
        side.origin(lister_id=lister_id, url=url, visit_type="git", last_update=later if n % 2 else None)
        for n, url in enumerate(urls)
    ]
    in_batches(side.backend.record_listed_origins, origins)
    in_batches(side.backend.origin_visit_stats_upsert, visited(side, urls, 1, now))
    return in_batches(side.backend.origin_visit_stats_upsert, visited(side, urls, 2, now))


def main(name: str, url: str, rows: int, run: int) -> dict[str, float]:
    """All works of one side."""
    now = datetime.now(UTC)
    side = SIDES[name](url)
    side.backend.create_task_type(side.task_type(**KIND))
    lister = side.backend.get_or_create_lister("bench", "bench")
    urls = [f"https://forge.example/{run}/{n}" for n in range(rows)]
    tasks = [side.task(url, now) for url in urls]
    origins = [side.origin(lister_id=lister.id, url=url, visit_type="git", last_update=now) for url in urls]
    before, after, unlisted = (
        [side.stats(url=prefix + url, visit_type="git", last_visit=now, last_snapshot=snapshot * 20) for url in urls]
        for prefix, snapshot in (("", b"a"), ("", b"b"), ("un", b"a"))
    )
    upsert, record = side.backend.origin_visit_stats_upsert, side.backend.record_listed_origins
    return {
        "create_tasks": timed(lambda: side.backend.create_tasks(tasks, policy="oneshot"), rows),
        "create_tasks again": timed(lambda: side.backend.create_tasks(tasks, policy="oneshot"), rows),
        "8 callers at once": at_once(name, url, max(rows // 10, BATCH), run, now),
        "origins insert": in_batches(record, origins),
        "origins upsert": in_batches(record, origins),
        "stats unlisted, insert": in_batches(upsert, unlisted),
        "stats unlisted, update": in_batches(upsert, unlisted),
        "stats listed, first": in_batches(upsert, before),
        "stats listed, update": in_batches(upsert, after),
        "stats listed, successful visits": successful_visits(side, lister.id, urls, now),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))) + "\n")
