"""``queue``: list, pause, drain and limit queues."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING

import click

from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.exit_status import INTERRUPTED
from swh_sched_runner.cli.output import UNLIMITED, document, printable, told_paused, told_resumed, warn
from swh_sched_runner.cli.parameters import limit, operator, seconds
from swh_sched_runner.cli.queue_list import WHOLE, print_queues, warn_of_depths
from swh_sched_runner.config import mask

if TYPE_CHECKING:  # imported where they are used: --help needs no drivers
    from swh_sched_runner.insight.drain import Drain, DrainStatus
    from swh_sched_runner.insight.queues import QueueStatus

# How often a drain prints what is left, unless on a terminal.
PROGRESS_SECONDS = 10.0


@click.group()
def queue() -> None:
    """List, pause, drain and limit queues."""


@queue.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def list_queues(context: Context, as_json: bool) -> None:
    """List the queues of all task types, including those for tasks with a priority.

    depth: ready messages in the broker. due: due tasks in the database. in flight: tasks that were taken and have not
    ended. unconfirmed: messages that the broker has not confirmed.
    """
    from swh_sched_runner.insight import queues

    found = queues.list_queues(context.migrated_database, context.open_queues, context.settings.broker)
    warn_of_depths(found)
    if as_json:
        document(found.queues)
    else:
        print_queues(None, found.queues, WHOLE)


@queue.command()
@click.argument("name")
@click.option("--reason", help="Reason, shown by `queue list` and `status`.")
@click.option("--by", help="Who pauses it; default: user@host.")
@click.pass_obj
def pause(context: Context, name: str, reason: str | None, by: str | None) -> None:
    """Stop publishing to the queue NAME; workers continue with the messages in it.

    The queue for tasks with a priority is a separate queue. To stop both, pause the task types.
    """
    _get(context, name)
    _pause(context, name, reason, by)


@queue.command()
@click.argument("name")
@click.pass_obj
def resume(context: Context, name: str) -> None:
    """Publish to the queue NAME again."""
    _get(context, name)
    told_resumed(f"queue {name}", context.backend.resume_queue(name))


@queue.command("drain")
@click.argument("name")
@click.option("--timeout", type=seconds, metavar="SECONDS", help="Give up after this time; the queue stays paused.")
@click.option("--reason", default="drain", show_default=True, help="Reason, shown by `queue list` and `status`.")
@click.option("--by", help="Who drains it; default: user@host.")
@click.pass_obj
def drain_queue(context: Context, name: str, timeout: float | None, reason: str, by: str | None) -> None:
    """Pause the queue NAME and wait until it has no ready messages and none of its tasks is in flight.

    The queue stays paused, also after Ctrl-C. Visits that a worker has taken are not waited for: they have no runs.
    """
    from swh_sched_runner.insight.drain import Drain

    signal.signal(signal.SIGINT, signal.default_int_handler)
    _get(context, name)
    with context.open_queues() as broker:
        drain = Drain(context.database, broker, context.settings.broker, name, timeout)
        drain.require_depth()  # before anything is paused
        _pause(context, name, reason, by)
        try:
            found = _wait(drain)
        except KeyboardInterrupt:
            warn(f"queue {name} stays paused; to resume: swh-sched-runner queue resume {name}")
            click.get_current_context().exit(INTERRUPTED)
    left = found.left
    if found.state == "timed_out":
        raise click.ClickException(
            f"queue {name} is not drained after {timeout:g} s and stays paused: {_describe(left)}"
        )
    waiting = (
        f"; unconfirmed messages that are sent after it is resumed: {left.unconfirmed}" if left.unconfirmed else ""
    )
    click.echo(f"drained queue {name}; it stays paused{waiting}")


@queue.command("limit", context_settings={"ignore_unknown_options": True})  # -1 is a wrong number, not an option
@click.argument("name")
@click.argument("length", metavar="N|none")
@click.pass_obj
def set_limit(context: Context, name: str, length: str) -> None:
    """Limit the queue NAME to N ready messages: sets max_queue_length of all its task types."""
    given = limit(length, "N|none")
    found = _get(context, name)
    if found.priority:
        from swh_sched_runner.insight import queues

        of = queues.ordinary_queues(context.database, found.types)
        raise click.ClickException(f"queue {name} is for tasks with a priority: it has the limit of {', '.join(of)}")
    context.backend.set_queue_limit(name, given)
    click.echo(f"queue {name}: {UNLIMITED if given is None else f'limit {given}'}")


def _get(context: Context, name: str) -> QueueStatus:
    from swh_sched_runner.insight import queues

    return queues.get_queue(context.migrated_database, context.settings.broker, name)


def _pause(context: Context, name: str, reason: str | None, by: str | None) -> None:
    before = context.backend.pause_queue(name, operator() if by is None else by, reason)
    told_paused(f"queue {name}", before)


def _wait(drain: Drain) -> DrainStatus:
    """Check repeatedly, and print what is left, until the drain has ended."""
    progress = _Progress()
    while (found := drain.check()).state == "draining":
        progress.say(_describe(found.left))
        time.sleep(found.wait_seconds)
    progress.end()
    return found


def _describe(left: QueueStatus) -> str:
    if left.unreadable:
        return f"what is left can't be read: {printable(mask(left.unreadable))}"
    return f"depth {left.depth}, in flight {left.in_flight}, unconfirmed {left.unconfirmed}"


class _Progress:
    """On a terminal one line that changes; elsewhere a new line every few seconds, if something changed."""

    def __init__(self) -> None:
        self._on_terminal = sys.stdout.isatty()
        self._last = ""
        self._next = 0.0

    def say(self, text: str) -> None:
        if self._on_terminal:
            click.echo(f"\r{text.ljust(len(self._last))}", nl=False)
        elif text == self._last or time.monotonic() < self._next:
            return
        else:
            click.echo(text)
            self._next = time.monotonic() + PROGRESS_SECONDS
        self._last = text

    def end(self) -> None:
        """End the line."""
        if self._on_terminal and self._last:
            click.echo()
