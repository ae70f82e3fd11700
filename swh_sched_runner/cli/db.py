"""``db``: the schema of the database."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs
import click

from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import document, printable
from swh_sched_runner.exc import AdoptionStopped

if TYPE_CHECKING:  # imported where they are used: --help needs neither drivers nor Alembic
    from swh_sched_runner.backend.inspection import check
    from swh_sched_runner.db import adopt

GRACE_SECONDS = 30.0  # as check.GRACE_PERIOD


@click.group()
@click.pass_obj
def db(context: Context) -> None:
    """Create, upgrade or check the schema; adopt a database."""
    context.takes_time = True


@db.command()
@click.pass_obj
def init(context: Context) -> None:
    """Create the schema in an empty database, or upgrade an existing one."""
    _upgrade(context)


@db.command()
@click.pass_obj
def upgrade(context: Context) -> None:
    """Apply missing migrations. Concurrent calls apply each migration once."""
    _upgrade(context)


@db.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Print the version of the schema; exit status 1 if migrations are missing.

    Also checks a sample for rows written by others that are misread, see `db check`.
    """
    from swh_sched_runner.backend.inspection import check
    from swh_sched_runner.db import adopt, migrate

    version = ctx.obj.database.run(migrate.current)
    head, pending = migrate.head(), migrate.pending(version)
    foreign = ctx.obj.database.run(adopt.under_way)
    found = ctx.obj.database.read(check.sample) if version == head else {}
    if as_json:
        document({"version": version, "head": head, "pending": pending, "adoptable": foreign, "found": found})
    elif foreign is not None:
        click.echo(f"{foreign}: run `swh-sched-runner db adopt --dry-run`, then `swh-sched-runner db adopt`")
    else:
        click.echo(f"version {version or 'none: the database is not initialised'}, this program needs {head}")
        click.echo(f"pending: {', '.join(pending) or 'nothing'}")
        if found:
            click.echo("rows written by others that are misread, in a sample:")
            for kind, rows in found.items():
                click.echo(f"  {check.KINDS[kind].what}: {rows:,}")
            click.echo("run `swh-sched-runner db check`, then `swh-sched-runner db check --repair`")
    if pending:
        ctx.exit(1)


@db.command(name="adopt")
@click.option("--dry-run", is_flag=True, help="Print what would be done; write nothing.")
@click.option(
    "--rename-duplicates",
    is_flag=True,
    help="If several runs have one backend_id, the newest keeps it; append the run's number to the others.",
)
@click.pass_obj
def adopt_command(context: Context, dry_run: bool, rename_duplicates: bool) -> None:
    """Adopt a database of Software Heritage's scheduler, version 33 to 38, in place and with its data.

    First stop the programs that write to it; others may continue reading. If interrupted, run it again.
    """
    from swh_sched_runner.db import adopt, migrate

    engine = context.database.engine
    if dry_run:
        plan = adopt.examine(engine, rename_duplicates=rename_duplicates)
        _show(plan)
        if plan.refusal is not None:
            raise plan.refusal
        click.echo("nothing was written (--dry-run)")
    else:
        try:
            adopt.adopt(engine, rename_duplicates=rename_duplicates, show=_show, tell=_tell)
        except AdoptionStopped:
            click.echo()  # in the middle of the step's line
            raise
        click.echo(f"adopted: the schema is at version {migrate.head()}")


def _show(plan: adopt.Plan) -> None:
    begun = ", partly adopted" if plan.begun else ""
    click.echo(f"a scheduler's database at version {plan.version}{begun}")
    for finding in plan.findings:
        click.echo(printable(f"  {finding}"))
    click.echo(f"{len(plan.steps)} steps:")
    for number, step in enumerate(plan.steps, 1):
        guess = f", about {step.seconds:,.0f} s" if step.seconds is not None and step.seconds >= 1 else ""
        click.echo(printable(f"  {number:2}. {step.title}: {step.lock}{guess}"))


def _tell(progress: adopt.Progress) -> None:
    """One line per step: its title when it begins, its duration and rows when it ends."""
    rows = "" if progress.rows is None else f", {progress.rows:,} rows"
    if progress.done:
        click.echo(f"{progress.seconds:.1f} s{rows}")
    elif progress.rows is not None:
        click.echo(f"{progress.seconds:.0f} s{rows} … ", nl=False)
    else:
        click.echo(printable(f"[{progress.number}/{progress.of}] {progress.title} … "), nl=False)


@db.command(name="compat")
@click.option("--drop", is_flag=True, help="Drop the views instead.")
@click.pass_obj
def compat_command(context: Context, drop: bool) -> None:
    """Create the views through which the old program uses an adopted database; `db adopt` does it too.

    They are in the schema swh_scheduler_compat, which the old program's search_path must name first.
    """
    from swh_sched_runner.db import migrate
    from swh_sched_runner.db.adopt import compat

    if drop:
        stood = context.database.run(compat.drop)
        click.echo(f"dropped the schema {compat.SCHEMA}" if stood else f"there is no schema {compat.SCHEMA}")
        return
    context.database.run(migrate.require)
    version = context.database.run(compat.make)
    click.echo(f"the schema {compat.SCHEMA} has the views of version {version}")


@db.command(name="check")
@click.option(
    "--repair", is_flag=True, help="Repair what is found, in small transactions; other programs may work meanwhile."
)
@click.option(
    "--grace-period",
    "grace_seconds",
    type=click.FloatRange(min=0),
    default=GRACE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Release a task in flight without a run only if its row has not changed for this time.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def check_command(ctx: click.Context, repair: bool, grace_seconds: float, as_json: bool) -> None:
    """Find rows written by SQL or the old program that are misread; exit status 1 if any are left.

    Reads all origins, statistics and runs, a megabyte at a time.
    """
    from swh_sched_runner.backend.inspection import check
    from swh_sched_runner.db import migrate

    ctx.obj.database.run(migrate.require)
    found = check.check(ctx.obj.database, repair=repair, grace_period=timedelta(seconds=grace_seconds), pause=_wait)
    if as_json:
        document([attrs.asdict(kind) for kind in found])
    elif not found:
        click.echo("nothing found")
    else:
        for kind in found:
            _show_found(kind)
        if not repair:
            click.echo("nothing was changed: --repair repairs them")
    if any(kind.rows > (kind.mended or 0) for kind in found):
        ctx.exit(1)


def _wait(seconds: float) -> None:
    if seconds >= 1:
        click.echo(f"waiting {seconds:.0f} s, to see which tasks in flight do not change", err=True)
    time.sleep(seconds)


def _show_found(kind: check.Found) -> None:
    more = ", …" if len(kind.examples) < kind.rows else ""
    click.echo(printable(f"{kind.what}: {kind.rows:,} ({', '.join(kind.examples)}{more})"))
    if kind.mended is not None:
        click.echo(f"  repaired {kind.mended:,}: {kind.then}")


@db.command()
@click.option("--from", "version", metavar="VERSION", help="Start from this version instead of an empty database.")
def sql(version: str | None) -> None:
    """Print the migrations as a script, for a DBA to run."""
    from swh_sched_runner.db import migrate

    click.echo(migrate.as_sql(version))


def _upgrade(context: Context) -> None:
    from swh_sched_runner.db import migrate

    applied = migrate.upgrade(context.database.engine)
    for version in applied:
        click.echo(f"applied {version}")
    if not applied:
        click.echo(f"nothing to apply: the schema is at version {migrate.head()}")
