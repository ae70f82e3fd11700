"""The loader: visits one git repository and records what it found."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import structlog

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.demo import git
from swh_sched_runner.demo.lister import VISIT_TYPE
from swh_sched_runner.model import VisitOutcome

log = structlog.get_logger(__name__)


def visit(backend: SchedulerBackend, url: str) -> dict[str, Any]:
    """Visit ``url`` and record the outcome; eventful if its refs are others than at the last successful visit."""
    began = datetime.now(UTC)  # what changes while git answers is newer than this visit
    before = next(iter(backend.origin_visit_stats_get([(url, VISIT_TYPE)])), None)
    seen = git.look(url)
    backend.record_visit_outcomes([VisitOutcome(url, VISIT_TYPE, began, seen.status, seen.snapshot)])
    log.debug("visited", url=url, status=seen.status, refs=seen.refs, reason=seen.reason)
    match seen.status:
        case "full":
            known = None if before is None else before.last_snapshot
            return {"status": "success", "eventful": seen.snapshot != known, "refs": seen.refs}
        case "not_found":  # the visit went well, nothing new came of it
            return {"status": "uneventful", "error": seen.reason}
        case "failed":
            return {"status": "failed", "error": seen.reason}
