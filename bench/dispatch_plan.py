"""How PostgreSQL grabs a batch for our runner."""

from __future__ import annotations

from dataclasses import dataclass

from bench.dispatch_side import BACKEND_NAME, Side, Work
from swh_sched_runner.backend.dispatch import outbox
from swh_sched_runner.backend.dispatch.ready import TaskGroup
from swh_sched_runner.db.engine import Database, create_engine
from tests.support.plans import explained

BATCH = 1_000


@dataclass(frozen=True)
class Grab:
    """The way to the tasks of a batch, and how many rows of their table were read for it."""

    plan: str
    rows_read: int

    def __str__(self) -> str:
        return f"{self.plan}; {self.rows_read:,} rows of task read for {BATCH:,}"


def grab(side: Side, work: Work) -> Grab:
    """Grab a batch, and look how it was done."""
    with side.prepared(work) as name:
        engine = create_engine(side.url(name))
        try:
            session = outbox.Dispatch(Database(engine)).open_session()
            group = TaskGroup("t1", BACKEND_NAME.format(1), work.bound, priority=False)
            plans = explained(
                engine, lambda conn: outbox._open_batch(conn, session.id, group.backend_name, group, BATCH, None)
            )
            session.close()
        finally:
            engine.dispose()
    nodes = [
        f"{node['Node Type']} using {node['Index Name']}" if "Index Name" in node else f"{node['Node Type']} of all"
        for plan in plans
        for node in plan.nodes
        if node.get("Relation Name") == "task" and "Scan" in node["Node Type"]
    ]
    return Grab(", ".join(nodes), sum(plan.rows_read("task") for plan in plans))
