"""Adoption: a database of Software Heritage's scheduler, version 33 to 38, becomes one of this program, with its data.

It happens in place, while others go on reading. Each step may be repeated and finds out in the catalogues what is left
of it, so an adoption that was killed is simply started again. The version of our schema is stamped last.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import attrs
import sqlalchemy.exc
import tenacity
from sqlalchemy import Connection, Engine

from swh_sched_runner.db import migrate
from swh_sched_runner.db.adopt import catalogue, preflight, steps
from swh_sched_runner.db.adopt.catalogue import Expected
from swh_sched_runner.db.adopt.preflight import Finding
from swh_sched_runner.db.adopt.steps import Step
from swh_sched_runner.db.connections import take_time, unhurried
from swh_sched_runner.db.engine import is_transient, translate
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import AdoptionRefused, AdoptionStopped

__all__ = ["Finding", "Plan", "Progress", "Step", "adopt", "examine", "under_way"]

# Whoever asks for an exclusive lock makes others wait behind it: better to give up soon and to come again.
LOCK_TIMEOUT = "2s"
ATTEMPTS = 20
REPORT_SECONDS = 5.0

T = TypeVar("T")

_sql = Queries("db/adopt")


@attrs.frozen
class Plan:
    """What is found in a database, and what is left to be done. ``refusal`` is why it can't be done as asked."""

    version: int
    begun: bool
    findings: list[Finding]
    steps: list[Step]
    refusal: AdoptionRefused | None


@attrs.frozen
class Progress:
    """Step ``number`` of ``of``: begun, still going on, or done after ``seconds``; ``rows`` were worked on so far."""

    number: int
    of: int
    title: str
    seconds: float
    rows: int | None
    done: bool


Tell = Callable[[Progress], None]


def under_way(conn: Connection) -> str | None:
    """What `db adopt` is needed for here, None where there is nothing of a scheduler to adopt."""
    if migrate.current(conn) is not None or not migrate.is_foreign(conn):
        return None
    if conn.execute(_sql.adoption_is_recorded).scalar_one():
        begun = conn.execute(_sql.adoption).mappings().one_or_none()
        if begun is not None:
            when = f"{begun['started']:%Y-%m-%d %H:%M:%S}"
            began = f"its adoption from version {begun['from_version']} began at {when}"
            return f"{began} and reached the step: {begun['step']}"
    return f"a scheduler's database at version {preflight.version(conn)}"


def examine(engine: Engine, *, rename_duplicates: bool = False) -> Plan:
    """What an adoption would find and do; nothing is written. Raises ``AdoptionRefused``.

    Reads the tables of tasks and runs from end to end.
    """
    try:
        with unhurried(engine) as conn:
            return _examine(conn, rename_duplicates)[0]
    except sqlalchemy.exc.DBAPIError as error:
        raise translate(error) from error.orig


def adopt(engine: Engine, *, rename_duplicates: bool = False, show: Callable[[Plan], None], tell: Tell) -> None:
    """Adopt the database: ``show`` gets the plan before anything is written, ``tell`` how it goes on.

    Raises ``AdoptionRefused``, and ``AdoptionStopped`` where a step can't be done, such as for a lock that is not to
    be had; both may be tried again, as after a kill. Several at once do it once: the others are refused then.
    """
    try:
        with migrate.only_one(engine) as conn:
            conn.execute(_sql.prepare_session)
            take_time(conn)
            session = _Session(conn)
            try:
                plan, expected = session.run(lambda conn: _examine(conn, rename_duplicates))
                show(plan)
                if plan.refusal is not None:
                    raise plan.refusal
                session.run(lambda conn: _begin(conn, plan.version))
                for number, step in enumerate(plan.steps, 1):
                    _take(session, step, number, len(plan.steps), tell)
                session.run(lambda conn: _finish(conn, expected))
            finally:
                if not conn.invalidated:
                    conn.detach()  # the session's settings are not for others
    except sqlalchemy.exc.DBAPIError as error:
        raise translate(error) from error.orig


def _examine(conn: Connection, rename_duplicates: bool) -> tuple[Plan, Expected]:
    preflight.refuse_pooler(conn)
    if (version := migrate.current(conn)) is not None:
        raise AdoptionRefused(reason=f"it belongs to this program already, at schema version {version}")
    found = preflight.version(conn)
    preflight.refuse_without_rights(conn)
    expected = catalogue.expect(conn)
    seen = catalogue.look(conn)
    preflight.refuse_misfits(seen, expected)
    begun = conn.execute(_sql.adoption_is_recorded).scalar_one()
    findings = preflight.findings(conn, seen, expected, rename_duplicates=rename_duplicates)
    before, after = steps.of_the_rows(seen, rename_duplicates=rename_duplicates)
    todo = [*steps.of_the_schema(conn, seen, expected), *before, *steps.of_the_indexes(seen, expected), *after]
    todo += [steps.for_the_rules(), steps.for_the_old_program()]
    return Plan(found, begun, findings, todo, preflight.refusal(findings)), expected


def _begin(conn: Connection, version: int) -> None:
    conn.execute(_sql.begin_adoption)
    conn.execute(_sql.describe_adoption)
    conn.execute(_sql.record_adoption, {"version": version})


def _take(session: _Session, step: Step, number: int, of: int, tell: Tell) -> None:
    try:
        session.take(step, number, of, tell)
    except sqlalchemy.exc.DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise AdoptionStopped(step=step.title, reason=reason) from error.orig


def _finish(conn: Connection, expected: Expected) -> None:
    seen = catalogue.look(conn)
    left = [*steps.of_the_schema(conn, seen, expected), *steps.of_the_indexes(seen, expected)]
    if left:
        raise AdoptionRefused(
            reason="somebody else changed its tables meanwhile, start it again; still to do: "
            + "; ".join(step.title for step in left)
        )
    conn.execute(_sql.end_adoption)
    migrate.stamp(conn)


class _Session:
    """The connection of an adoption. It holds the lock that keeps others out, also while a build outlives a kill."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def take(self, step: Step, number: int, of: int, tell: Tell) -> None:
        """Run one step to its end."""
        began, told, rows = time.monotonic(), time.monotonic(), 0
        tell(Progress(number, of, step.title, 0.0, None, False))
        self.run(lambda conn: conn.execute(_sql.record_step, {"step": step.title}))
        while worked := (self._run_concurrently if step.concurrently else self.run)(step.run):
            rows += worked
            if not step.batches:
                break
            if time.monotonic() - told > REPORT_SECONDS:
                told = time.monotonic()
                tell(Progress(number, of, step.title, told - began, rows, False))
        counted = None if worked is None else rows
        tell(Progress(number, of, step.title, time.monotonic() - began, counted, True))

    def run(self, work: Callable[[Connection], T]) -> T:
        """``work(connection)`` in a transaction, tried again where a lock was not to be had."""

        def once() -> T:
            self._conn.rollback()
            self._conn.execution_options(isolation_level="READ COMMITTED")
            try:
                self._conn.execute(_sql.limit_lock_wait, {"timeout": LOCK_TIMEOUT})
                result = work(self._conn)
                self._conn.commit()
                return result
            finally:
                self._conn.rollback()

        return _patiently(once)

    def _run_concurrently(self, work: Callable[[Connection], T]) -> T:
        """``work(connection)`` outside of a transaction; its locks may take their time, nobody waits behind them."""

        def once() -> T:
            self._conn.rollback()
            self._conn.execution_options(isolation_level="AUTOCOMMIT")
            try:
                return work(self._conn)
            finally:
                self._conn.rollback()

        return _patiently(once)


def _patiently(once: Callable[[], T]) -> T:
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_random(0.2, 2),
        reraise=True,
    )
    return retrying(once)


def _may_pass(error: BaseException) -> bool:
    # A connection that broke took the lock with it that keeps others out.
    return is_transient(error) and not (isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated)
