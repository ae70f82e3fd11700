"""A process that grabs visits; for tests of several at once."""

from __future__ import annotations

from datetime import datetime

from swh_sched_runner.backend import SchedulerBackend


def grab_until_empty(database_url: str, policy: str, lister: str, count: int, now: datetime) -> list[str]:
    """Grab ``count`` at a time until nothing is left; the urls that this process got."""
    got: list[str] = []
    with SchedulerBackend(database_url) as backend:
        while taken := backend.grab_next_visits("git", count, policy, lister_uuid=lister, timestamp=now):
            got += [origin.url for origin in taken]
    return got
