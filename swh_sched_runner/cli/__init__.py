"""The program ``swh-sched-runner``: its global options, its commands and its exit statuses."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import click
import structlog

from swh_sched_runner import __version__
from swh_sched_runner.cli import logs, stdout
from swh_sched_runner.cli.command import extend
from swh_sched_runner.cli.exit_status import CONFIGURATION, FAILED, INTERRUPTED, OK, READER_GONE, UNAVAILABLE, USAGE
from swh_sched_runner.cli.output import warn
from swh_sched_runner.config import log_format, mask
from swh_sched_runner.exc import (
    BrokerUnavailable,
    ConfigurationError,
    DatabaseUnavailable,
    DataDirectoryRefused,
    DataDirectoryVersion,
    FileNotRead,
    NotRunning,
    OptionRefused,
    SchedulerException,
    SchemaError,
)

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM = "swh-sched-runner"

LONGEST_SHOWN = 200

# In the order of --help: where each command is, and what it does. Its module is imported when it is used, so that help
# and completion need not wait for the libraries of all of them.
COMMANDS = {
    "up": ("swh_sched_runner.cli.up", "Run all services in one process."),
    "demo": ("swh_sched_runner.cli.demo", "Watch the services work on real git repositories."),
    "run": ("swh_sched_runner.cli.services", "Dispatch due tasks to their queues, within the limit of each queue."),
    "listen": ("swh_sched_runner.cli.services", "Record starts and ends of runs from the events of workers."),
    "visits": ("swh_sched_runner.cli.services", "Choose origins to visit and dispatch their visits."),
    "prune": ("swh_sched_runner.cli.services", "Delete ended runs that are older than their task type keeps them."),
    "rescue": ("swh_sched_runner.cli.rescue", "End the runs whose end nobody will report, by evidence."),
    "worker": ("swh_sched_runner.cli.worker", "Start, list and forget Celery workers."),
    "queue": ("swh_sched_runner.cli.queue", "List, pause, drain and limit queues."),
    "task-type": ("swh_sched_runner.cli.task_type", "Add, list, pause and limit task types."),
    "task": ("swh_sched_runner.cli.task", "Add, list, change, run, disable and delete tasks."),
    "runs": ("swh_sched_runner.cli.runs", "Delete old runs of tasks."),
    "events": ("swh_sched_runner.cli.events", "Deal with the events of workers."),
    "status": ("swh_sched_runner.cli.status", "Show services, queues, due tasks, runs in flight, last failures."),
    "explain": ("swh_sched_runner.cli.explain", "Explain why a task is not running."),
    "db": ("swh_sched_runner.cli.db", "Create, upgrade or check the schema; adopt a database."),
    "deploy": ("swh_sched_runner.cli.deploy", "Write the files that run it as a service."),
    "config": ("swh_sched_runner.cli.config", "Show the configuration."),
}

# Commands with nothing to tidy up: Ctrl-C ends them at once. Python's own handler would wait for PostgreSQL's answer.
ENDED_AT_ONCE = frozenset(
    {"queue", "task-type", "task", "runs", "events", "status", "explain", "db", "deploy", "config"}
)

EPILOG = """\b
Exit status: 0 success; 1 failure; 64 wrong usage; 69 database or broker can't
be reached, or `up` is not running; 78 wrong configuration or schema; 130
interrupted; 141 the reader of stdout has gone away.

\b
Configuration, in increasing precedence: --config FILE (or SWH_SCHED_RUNNER_CONFIG, else
/etc/swh-sched-runner/config.toml, else ~/.config/swh-sched-runner/config.toml),
variables such as SWH_SCHED_RUNNER_DATABASE__URL, options. If no database or no
broker is configured, commands use the private servers of a running `up`.
"""

log = structlog.get_logger(__name__)


class Commands(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of ``COMMANDS``."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        return extend(getattr(import_module(COMMANDS[cmd_name][0]), cmd_name.replace("-", "_")))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Which commands, or options, begin so; without importing any either."""
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=what) for name, (_, what) in COMMANDS.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "file", metavar="FILE", type=click.Path(path_type=Path), help="Configuration file, TOML.")
@click.option(
    "--log-format", type=click.Choice(logs.FORMATS), help="Format of logs; auto: console on a terminal, else logfmt."
)
@click.option("--log-level", type=click.Choice(logs.LEVELS), help="Lowest level to log.")
@click.option("--data-dir", metavar="DIRECTORY", help="Data directory of the private servers of `up`.")
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def cli(
    ctx: click.Context, file: Path | None, log_format: str | None, log_level: str | None, data_dir: str | None
) -> None:
    """Schedule Celery tasks that are stored in PostgreSQL."""
    from swh_sched_runner.cli.context import Context  # not above: --help and --version need no database driver

    logs.configure(log_format or logs.asked_format(), log_level or "info")  # until the settings are read
    flags = {"log.format": log_format, "log.level": log_level, "data_directory": data_dir}
    ctx.obj = Context(file, flags, command=ctx.invoked_subcommand or "")
    ctx.call_on_close(ctx.obj.close)
    if ctx.invoked_subcommand in ENDED_AT_ONCE:
        ctx.call_on_close(partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_DFL)))


def main() -> None:
    """Run the program and exit."""
    stdout.own_streams()
    logs.own_process()
    status = run(sys.argv[1:])
    stdout.drop_rest()
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run the program with these arguments and return its exit status; errors go to stderr, a line each.

    Where a format of the log is asked for, that line is one of the log.
    """
    logs.configure(_asked_format(arguments))
    try:
        _check_text(arguments)
        with stdout.told():
            result = cli.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        status = USAGE if isinstance(error, click.UsageError) else FAILED
        if logs.as_lines():
            _log_end(mask(error.format_message()), status)
        else:
            error.show()
        return status
    except click.Abort:
        warn(f"{PROGRAM}: interrupted")
        return INTERRUPTED
    except stdout.ReaderGone:
        return READER_GONE
    except SchedulerException as error:
        status = status_of(error)
        if logs.as_lines():
            _log_end(str(error), status)
        else:
            warn(f"{PROGRAM}: {error}")
        return status
    except Exception as error:
        # Of the highest level, as is the end above: none may leave out why the program ended.
        log.critical("unexpected error", exc_info=error)
        return FAILED
    return result if isinstance(result, int) else OK  # an int comes from ctx.exit(status)


def _check_text(arguments: Sequence[str]) -> None:
    """Raises ``UsageError`` for bytes that are not UTF-8, which nothing that gets them could store or print."""
    for word in arguments:
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise click.UsageError(f"arguments must be UTF-8, not {word[:LONGEST_SHOWN]!a}")


def _log_end(reason: str, status: int) -> None:
    log.critical("ended with an error", reason=" ".join(reason.split()), exit_status=status)


def _asked_format(arguments: Sequence[str]) -> str:
    """The format of the log, for what may go wrong before the settings are read; a look ahead that never fails."""
    options: dict[str, str] = {}
    for word, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        options[name] = value if equals else following
    file = Path(options["--config"]) if options.get("--config") else None
    format = options.get("--log-format")
    flags = {"log.format": format if format in logs.FORMATS else None}
    try:
        readable = file is None or file.is_file()  # a pipe can be read only once
    except (OSError, ValueError):
        readable = False
    return log_format(file if readable else Path(os.devnull), os.environ, flags)


def status_of(error: SchedulerException) -> int:
    """The exit status that an error of ours ends the program with."""
    match error:
        case OptionRefused():
            return USAGE
        case ConfigurationError() | FileNotRead() | SchemaError() | DataDirectoryVersion() | DataDirectoryRefused():
            return CONFIGURATION
        case DatabaseUnavailable() | BrokerUnavailable() | NotRunning():
            return UNAVAILABLE
        case _:
            return FAILED
