"""The demo's Celery tasks. Its workers import this module: ``worker start -I swh_sched_runner.demo.tasks``."""

from __future__ import annotations

import os
import signal
import sys
from functools import cache
from typing import Any

from billiard.util import set_pdeathsig
from celery import shared_task
from celery.signals import worker_process_init

from swh_sched_runner import config
from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.demo.lister import list_origins
from swh_sched_runner.demo.loader import visit
from swh_sched_runner.exc import ConfigurationError

LIST_GIT = "swh_sched_runner.demo.list_git"
LOAD_GIT = "swh_sched_runner.demo.load_git"
# Both give up by themselves long before; this ends what hangs in a dead file system.
TIME_LIMIT_SECONDS = 120


@shared_task(name=LIST_GIT, time_limit=TIME_LIMIT_SECONDS)
def list_git(source: str, tells_last_update: bool = True) -> dict[str, Any]:
    """List the git repositories of a directory, or of a URL."""
    return list_origins(_backend(), source, tells_last_update)


@shared_task(name=LOAD_GIT, time_limit=TIME_LIMIT_SECONDS)
def load_git(url: str, **_: Any) -> dict[str, Any]:
    """Visit one git repository."""
    return visit(_backend(), url)


@cache
def _backend() -> SchedulerBackend:
    """The backend of this process; first asked for in a child of the pool, so that no two share a connection."""
    database = config.load(None, os.environ, {}).database
    if database.url is None:
        raise ConfigurationError(reason="the demo's workers need SWH_SCHED_RUNNER_DATABASE__URL")
    return SchedulerBackend(database.url, min_pool_conns=1, max_pool_conns=1)


@worker_process_init.connect
def _end_with_the_worker(**_: Any) -> None:
    # A child whose worker was killed would finish its task first. The next start waits for the last child.
    if sys.platform == "linux":
        set_pdeathsig(signal.SIGKILL)
