"""The lister: records the git repositories of a source as origins to visit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import structlog

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.demo import finding
from swh_sched_runner.exc import StaleData
from swh_sched_runner.model import ListedOrigin, Lister

LISTER = "demo-git"
VISIT_TYPE = "git"
PAGE = 1_000

log = structlog.get_logger(__name__)


def list_origins(backend: SchedulerBackend, source: str, tells_last_update: bool = True) -> dict[str, Any]:
    """Record the repositories below the directory ``source``, or the one at the URL ``source``; answer what changed.

    Eventful is a repository that was not known, or that changed since the last listing where the source tells
    ``last_update``. One that vanished stays listed until its visits say so; one that visits gave up is tried again.
    """
    found: dict[str, datetime | None] = {source: None}
    cut_short = None
    if "://" not in source:
        try:
            below = finding.find(Path(source))
        except OSError as error:
            return {"status": "failed", "error": f"{source} can't be listed: {error.strerror}"}
        cut_short = below.cut_short
        found = {path.as_uri(): _last_update(path, tells_last_update) for path in below.repositories}
    lister = backend.get_or_create_lister(LISTER, source)
    assert lister.id is not None
    known = {origin.url: origin.last_update for origin in origins_of(backend, lister)}
    origins = [ListedOrigin(lister.id, url, VISIT_TYPE, last_update=timestamp) for url, timestamp in found.items()]
    for first in range(0, len(origins), PAGE):
        backend.record_listed_origins(origins[first : first + PAGE])
    new = len(found.keys() - known.keys())
    changed = sum(url in known and known[url] != timestamp for url, timestamp in found.items())
    _note(backend, lister, {"repositories": len(found), "cut_short": cut_short})
    counts = {"listed": len(found), "new": new, "changed": changed}
    log.debug("listed", source=source, cut_short=cut_short, **counts)
    return {"status": "success", "eventful": bool(new or changed), **counts}


def retire(backend: SchedulerBackend, lister: Lister) -> None:
    """Have the origins of a lister visited no more; its next listing brings them back."""
    origins = [attrs.evolve(origin, enabled=False) for origin in origins_of(backend, lister) if origin.enabled]
    for first in range(0, len(origins), PAGE):
        backend.record_listed_origins(origins[first : first + PAGE])


def origins_of(backend: SchedulerBackend, lister: Lister) -> Iterator[ListedOrigin]:
    """All origins of a lister, enabled or not, in order of their addresses."""
    token: tuple[str, str] | None = None
    while True:
        page = backend.get_listed_origins(lister.id, enabled=None, limit=PAGE, page_token=token)
        yield from page.results
        token = page.next_page_token
        if token is None:
            return


def _last_update(repository: Path, tells: bool) -> datetime | None:
    return finding.last_update(repository) if tells else None


def _note(backend: SchedulerBackend, lister: Lister, state: dict[str, Any]) -> None:
    try:
        backend.update_lister(attrs.evolve(lister, current_state=state, last_listing_finished_at=datetime.now(UTC)))
    except StaleData:
        # The same message was delivered twice, and the other listing finished first. It found the same.
        log.debug("listed concurrently", lister=lister.instance_name)
