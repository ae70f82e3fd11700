"""The pruner: deletes ended runs that are older than their task type keeps them."""

from __future__ import annotations

import time
from collections import Counter

import structlog

from swh_sched_runner.backend.tasks.retention import PruneRule, Retention
from swh_sched_runner.config import PrunerSettings
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.service import Heartbeat, Periodic

log = structlog.get_logger(__name__)

# Runs that a transaction looks at; fewer, down to the least, where they take longer than a page should.
PAGE_RUNS = 1000
LEAST_PAGE_RUNS = 50
PAGE_SECONDS = 0.25


class Pruner(Periodic):
    """Walks all runs in order of id, a page a round, then rests until the next period.

    It keeps its place in memory: after a restart it begins anew, and finds what is left.
    """

    name = "pruner"

    def __init__(
        self,
        retention: Retention,
        settings: PrunerSettings,
        instruments: Instruments | None = None,
        rule: PruneRule | None = None,
    ) -> None:
        """``rule``: by default each type is pruned by what it keeps."""
        self.period_seconds = settings.period_seconds
        self.pruned: Counter[str] = Counter()  # in the pass that is under way, or was last
        self._retention = retention
        self._instruments = instruments or Instruments()
        self._rule = rule or PruneRule()
        self._after = 0
        self._rows = PAGE_RUNS

    def run_once(self, heartbeat: Heartbeat) -> bool:
        """Prune one page; True unless it was the last one of this pass."""
        if self._after == 0:
            self.pruned = Counter()
        began = time.monotonic()
        page = self._retention.prune_page(self._rule, self._after, self._rows)
        seconds = time.monotonic() - began
        self.pruned.update(page.pruned)
        if not self._rule.dry_run:
            for task_type, runs in page.pruned.items():
                self._instruments.runs_pruned(task_type, runs)
        if page.last is None:
            self._end_pass(heartbeat)
            return False
        self._after = page.last
        self._rows = max(LEAST_PAGE_RUNS, self._rows // 2) if seconds > PAGE_SECONDS else min(PAGE_RUNS, 2 * self._rows)
        # As long as it worked: the others get at least half of what the disk and a core can do.
        heartbeat.beat(f"pruning, {self.pruned.total()} runs so far")
        heartbeat.wait(seconds)
        return True

    def close(self) -> None:
        """Nothing is kept open."""

    def _end_pass(self, heartbeat: Heartbeat) -> None:
        self._after = 0
        heartbeat.beat(f"pruned {self.pruned.total()} runs")
        if self.pruned and not self._rule.dry_run:
            log.info("pruned", runs=self.pruned.total(), **{f"of {name}": n for name, n in self.pruned.items()})
