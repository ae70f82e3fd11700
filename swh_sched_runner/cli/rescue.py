"""``rescue``: the rescuer, as a service or for one round."""

from __future__ import annotations

from typing import Any

import click

from swh_sched_runner.backend.tasks.lost import Lost
from swh_sched_runner.cli import web
from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import document, table
from swh_sched_runner.cli.services import make_rescuer, supervise
from swh_sched_runner.exc import RunEnded, UnknownRun, VerdictsWithheld
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.rescuer.evidence import Findings
from swh_sched_runner.services.rescuer.selection import Request
from swh_sched_runner.services.service import Heartbeat


@click.command()
@click.option("--once", is_flag=True, help="Look once, for as long as it takes, then exit.")
@click.option("--dry-run", is_flag=True, help="Look once and say which runs would be ended; end none.")
@click.option("--force", is_flag=True, help="Look once, and end runs even if they are most of all open ones.")
@click.option("--run", "run", metavar="ID", help="Look once, at this run alone, given by its id or backend_id.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document; for one look.")
@web.port_option
@click.pass_obj
def rescue(
    context: Context, once: bool, dry_run: bool, force: bool, run: str | None, as_json: bool, web_port: int | None
) -> None:
    """End the runs whose end nobody will report, by evidence."""
    context.flags |= {"web.port": web_port}
    if not (once or dry_run or force or run is not None):
        if as_json:
            raise click.UsageError("--json needs --once, --dry-run, --force or --run")
        supervise(context, "rescue", "rescuer")
        return
    database = context.migrated_database
    run_id = None if run is None else _open_run(Lost(database), run)
    request = Request(run_id, at_once=True, dry_run=dry_run, force=force)
    rescuer, heartbeat = make_rescuer(context, Instruments(), request), Heartbeat()
    try:
        rescuer.observe(heartbeat)
        findings = rescuer.find(heartbeat)
    finally:
        rescuer.close()
    if as_json:
        document(_as_document(findings, dry_run=dry_run))
    else:
        _show(findings, run_id)
    if findings.withheld is not None:
        raise VerdictsWithheld(reason=findings.withheld)


def _open_run(lost: Lost, given: str) -> int:
    found = lost.find(given)
    if found is None:
        raise UnknownRun(value=given)
    run_id, ended = found
    if ended:
        raise RunEnded(run=given)
    return run_id


def _as_document(findings: Findings, *, dry_run: bool) -> dict[str, Any]:
    void = {verdict.suspect.id for verdict in findings.void}
    return {
        "dry_run": dry_run,
        "withheld": findings.withheld,
        "verdicts": [
            {
                "run": verdict.suspect.id,
                "backend_id": verdict.suspect.backend_id,
                "task_type": verdict.suspect.task_type,
                "rule": verdict.rule,
                "verdict": verdict.verdict,
                "void": verdict.suspect.id in void,
                "evidence": verdict.evidence,
            }
            for verdict in findings.verdicts
        ],
        "undecided": [
            {"run": run, "rule": rule, "reason": reason} for run, (rule, reason) in sorted(findings.undecided.items())
        ],
        "held": [{"run": run, "where": where} for run, where in sorted(findings.held.items())],
    }


def _show(findings: Findings, run_id: int | None) -> None:
    void = {verdict.suspect.id for verdict in findings.void}
    rows = [
        (verdict.suspect.id, verdict.rule, "void: it moved" if verdict.suspect.id in void else verdict.verdict)
        for verdict in findings.verdicts
    ]
    rows += [(run, rule, f"undecided: {reason}") for run, (rule, reason) in sorted(findings.undecided.items())]
    if run_id is not None:
        rows += [(run, "", f"not lost: {where}") for run, where in findings.held.items()]
    table(None, ("run", "rule", "verdict"), rows, empty="no run is lost, as far as can be told")
