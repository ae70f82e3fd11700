"""``queue``: how queues stand; pause, drain and limit them while runners are at work."""

from __future__ import annotations

import math
import signal
import sys
import time

import attrs
import click

from swh_sched_runner.backend.dispatch.limits import unknown_queue
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import UNLIMITED, document, printable, told_paused, told_resumed, warn
from swh_sched_runner.cli.parameters import limit, operator, seconds
from swh_sched_runner.cli.queue_list import WHOLE, Queue, look, print_queues, read
from swh_sched_runner.config import mask
from swh_sched_runner.exc import BrokerUnavailable, DatabaseUnavailable, DepthUnreadable

# How often a drain looks, and how often it says so where that adds a line.
LOOK_SECONDS = 1.0
SAY_SECONDS = 10.0
# Runners obey within a second; what they had grabbed just before is in the queue by then.
SETTLE_SECONDS = 2.0


@click.group()
def queue() -> None:
    """List, pause, drain and limit queues."""


@queue.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def list_queues(context: Context, as_json: bool) -> None:
    """List the queues of all task types, those for tasks with a priority included.

    depth: messages ready in the broker. ready: due tasks in the database. in flight: tasks that were taken and have not
    ended. unconfirmed: messages that the broker has not confirmed.
    """
    found = read(context)
    if as_json:
        document([attrs.asdict(row) for row in found])
    else:
        print_queues(None, found, WHOLE)


@queue.command()
@click.argument("name")
@click.option("--reason", help="Why, for others who look.")
@click.option("--by", help="Who pauses it; user@host unless given.")
@click.pass_obj
def pause(context: Context, name: str, reason: str | None, by: str | None) -> None:
    """Let nothing more be sent to the queue NAME; workers go on with what is in it.

    The queue for tasks with a priority is a queue of its own. To stop both, pause the task types.
    """
    _find(context, name)
    _pause(context, name, reason, by)


@queue.command()
@click.argument("name")
@click.pass_obj
def resume(context: Context, name: str) -> None:
    """Send messages to the queue NAME again."""
    _find(context, name)
    told_resumed(f"queue {name}", context.backend.resume_queue(name))


@queue.command()
@click.argument("name")
@click.option("--timeout", type=seconds, metavar="SECONDS", help="Give up after so long; the queue stays paused.")
@click.option("--reason", default="drain", show_default=True, help="Why, for others who look.")
@click.option("--by", help="Who drains it; user@host unless given.")
@click.pass_obj
def drain(context: Context, name: str, timeout: float | None, reason: str, by: str | None) -> None:
    """Pause the queue NAME and wait until no message of it is left, in the broker or with a worker.

    It stays paused, also after Ctrl-C. Visits that workers hold are not seen: they have no runs.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _find(context, name)
    with Queues(create_app(context.broker)) as broker:
        broker.depth(name)  # a broker that is not there is told before anything is paused
        _pause(context, name, reason, by)
        try:
            left = _wait(context, broker, name, math.inf if timeout is None else timeout)
        except KeyboardInterrupt:
            warn(f"queue {name} stays paused: swh-sched-runner queue resume {name}")
            raise click.Abort from None
    waiting = f"; unconfirmed messages that wait for it to be resumed: {left.unconfirmed}" if left.unconfirmed else ""
    click.echo(f"drained queue {name}, it stays paused{waiting}")


@queue.command("limit", context_settings={"ignore_unknown_options": True})  # -1 is a wrong number, not an option
@click.argument("name")
@click.argument("length", metavar="N|none")
@click.pass_obj
def set_limit(context: Context, name: str, length: str) -> None:
    """Let at most N messages wait in the queue NAME: sets max_queue_length of all its task types."""
    given = limit(length, "N|none")
    found = _find(context, name)
    if found.priority:
        of = sorted({row.queue for row in context.backend.get_controls().task_types if row.type in found.types})
        raise click.ClickException(f"queue {name} is for tasks with a priority: it has the limit of {', '.join(of)}")
    context.backend.set_queue_limit(name, given)
    click.echo(f"queue {name}: {UNLIMITED if given is None else f'limit {given}'}")


def _find(context: Context, name: str) -> Queue:
    """The queue of that name, without its depth; a name that is none is an error, since it is a slip of the pen."""
    found = {row.queue: row for row in look(context, backlog=False)}
    if name not in found:
        raise unknown_queue(name, found)
    return found[name]


def _pause(context: Context, name: str, reason: str | None, by: str | None) -> None:
    before = context.backend.pause_queue(name, operator() if by is None else by, reason)
    told_paused(f"queue {name}", before)


def _wait(context: Context, broker: Queues, name: str, timeout: float) -> Queue:
    """Wait until the queue is drained; answers how it stands then. Raises ``ClickException`` when time is over."""
    progress = _Progress()
    started, clear_since = time.monotonic(), math.inf
    while True:
        left, now = _left(context, broker, name), time.monotonic()
        clear = not (left.unreadable or left.depth or left.in_flight > left.unconfirmed_runs)
        clear_since = min(clear_since, now) if clear else math.inf
        # What is unconfirmed may be on its way until the runner gives the connection up that does not confirm it.
        patience = context.broker.confirm_timeout_seconds if left.unconfirmed else SETTLE_SECONDS
        if now - clear_since >= patience:
            progress.end()
            return left
        if now - started >= timeout:
            progress.end()
            raise click.ClickException(
                f"queue {name} is not drained after {timeout:g} s, it stays paused: {_describe(left)}"
            )
        progress.say(_describe(left))
        time.sleep(min(LOOK_SECONDS, max(started + timeout - now, 0)))


def _left(context: Context, broker: Queues, name: str) -> Queue:
    """How the queue stands; ``unreadable`` while the servers don't tell."""
    nothing = Queue(name, False, [], None)
    try:
        found = next((row for row in look(context, backlog=False) if row.queue == name), nothing)
        found.depth = broker.depth(name)
    except (BrokerUnavailable, DatabaseUnavailable, DepthUnreadable) as error:
        nothing.unreadable = str(error)
        return nothing
    return found


def _describe(left: Queue) -> str:
    if left.unreadable:
        return f"what is left can't be read: {printable(mask(left.unreadable))}"
    return f"depth {left.depth}, in flight {left.in_flight}, unconfirmed {left.unconfirmed}"


class _Progress:
    """One line that changes, on a terminal; elsewhere another line now and then, if there is news."""

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
            self._next = time.monotonic() + SAY_SECONDS
        self._last = text

    def end(self) -> None:
        """Leave the line."""
        if self._on_terminal and self._last:
            click.echo()
