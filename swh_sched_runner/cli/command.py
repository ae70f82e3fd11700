"""What every command gets, wherever it is defined: the global options, and errors in the words of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from swh_sched_runner.cli import logs
from swh_sched_runner.cli.output import OUTPUT, cell
from swh_sched_runner.cli.parameters import cut
from swh_sched_runner.exc import InvalidArgument, UnknownTaskType

if TYPE_CHECKING:
    from swh_sched_runner.cli.context import Context

# By the name of the setting; what --help says of them stands at the program itself.
_GLOBAL_OPTIONS: dict[str, dict[str, Any]] = {
    "config": {"type": click.Path(path_type=Path)},
    "log.format": {"type": click.Choice(logs.FORMATS)},
    "log.level": {"type": click.Choice(logs.LEVELS)},
    "data_directory": {},
}
OUTPUTS = ("table", "wide", "json")
OPTION_NAMES = {
    "config": "--config",
    "log.format": "--log-format",
    "log.level": "--log-level",
    "data_directory": "--data-dir",
}


def extend(command: click.Command) -> click.Command:
    """Let ``command``, and those below it, take the global options as well, and refuse bad values as options.

    Done to a command once, after its module was imported.
    """
    if any(isinstance(parameter, _GlobalOption) for parameter in command.params):
        return command
    command.params += [_GlobalOption(setting) for setting in _GLOBAL_OPTIONS]
    if any(parameter.name == "as_json" for parameter in command.params):
        command.params.append(_Output())
    if command.callback is not None:
        command.callback = _in_words(command.callback)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            extend(inner)
    return command


class _GlobalOption(click.Option):
    """An option of the program, given after a command."""

    def __init__(self, setting: str) -> None:
        super().__init__(
            [OPTION_NAMES[setting], f"global_{setting.replace('.', '_')}"],
            expose_value=False,
            hidden=True,
            callback=self._set,
            **_GLOBAL_OPTIONS[setting],
        )
        self._setting = setting

    def _set(self, ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None and not ctx.resilient_parsing:
            context: Context = ctx.obj
            context.set_option(self._setting, value)


class _Output(click.Option):
    """How a command prints what it prints; ``--json`` is short for one of them."""

    def __init__(self) -> None:
        super().__init__(
            ["-o", "--output"],
            type=click.Choice(OUTPUTS),
            expose_value=False,
            callback=self._set,
            help="How to print it; wide: every column, and long texts.",
        )

    @staticmethod
    def _set(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.meta[OUTPUT] = value


def _in_words(callback: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(callback)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        if "as_json" in options and click.get_current_context().meta.get(OUTPUT) == "json":
            options["as_json"] = True
        try:
            return callback(*arguments, **options)
        except UnknownTaskType as error:
            raise _unknown_type(error) from error
        except InvalidArgument as error:
            if type(error) is not InvalidArgument:  # something that doesn't exist: the command was right
                raise
            _refuse(error)

    return wrapped


def _refuse(error: InvalidArgument) -> NoReturn:
    """The backend found a value that it can't use: it is that of the option of this name."""
    ctx, argument = click.get_current_context(), error.facts["argument"]
    for parameter in ctx.command.params:
        if argument in (parameter.name, f"{parameter.name}s"):
            given = ctx.params.get(str(parameter.name))
            raise click.BadParameter(f"{cut(cell(given))} {error.facts['reason']}", ctx, parameter) from error
    raise click.UsageError(cut(str(error), 300), ctx) from error


def _unknown_type(error: UnknownTaskType) -> UnknownTaskType:
    """The same error; the type that may be meant is looked up."""
    context: Context = click.get_current_context().obj
    name = error.facts["value"]
    known = [task_type["type"] for task_type in context.backend.get_task_types()]
    near = difflib.get_close_matches(name, known, n=1)
    advice = (
        f", did you mean {near[0]!r}?" if near else ": `swh-sched-runner task-type list` shows those that there are"
    )
    return UnknownTaskType(f"no task type {cut(repr(name))}{advice}", value=name)
