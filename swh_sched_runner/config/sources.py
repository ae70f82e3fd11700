"""Reads the settings of a file, an environment and flags, and checks them once."""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from swh_sched_runner.config.checks import Source, checked
from swh_sched_runner.config.secrets import masked, with_password
from swh_sched_runner.config.settings import LogSettings, Settings
from swh_sched_runner.config.urls import libpq_fault
from swh_sched_runner.exc import ConfigurationError, OptionRefused

PREFIX = "SWH_SCHED_RUNNER_"
FILE_VARIABLE = f"{PREFIX}CONFIG"
MOST_PARTS = 20  # of the name of a variable
LARGEST_FILE = 1_000_000
LARGEST_PASSWORD = 65_536
COMMAND_LINE = Source("command line")
SYSTEM_FILE = Path("/etc/swh-sched-runner/config.toml")


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """The settings of a file, an environment and flags (dotted name to value; None is not given).

    Without ``path`` the file is that of SWH_SCHED_RUNNER_CONFIG, else /etc/swh-sched-runner/config.toml, else
    ~/.config/swh-sched-runner/config.toml, if there is one. Passwords of ``password_file`` are filled in. Raises
    ``ConfigurationError``, which names the option, its value unless that is secret, and where it came from.
    """
    settings, _ = read(path, environ, flags)
    return _with_passwords(settings)


def read(
    path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]
) -> tuple[Settings, list[tuple[dict[str, Any], str]]]:
    """The settings without the passwords of ``password_file``, and what each source gave, the one that wins last."""
    merged: dict[str, Any] = {}
    given: list[tuple[dict[str, Any], str]] = []
    for values, source in (*_in_file(path, environ), *_beside_file(environ, flags)):
        try:
            given.append((checked(values, Settings, (), source), source.name))
            _merge(merged, given[-1][0])
        except ConfigurationError as error:
            if source is COMMAND_LINE:
                raise OptionRefused(reason=error.facts["reason"]) from error
            raise
        except RecursionError as error:
            raise ConfigurationError(reason=f"the configuration is nested too deeply ({source.name})") from error
    settings = msgspec.convert(merged, Settings)
    if settings.database.min_pool_conns > settings.database.max_pool_conns:
        raise ConfigurationError(
            reason=f"database.min_pool_conns ({settings.database.min_pool_conns}) must not be greater than "
            f"database.max_pool_conns ({settings.database.max_pool_conns})"
        )
    if (fault := libpq_fault(settings.database.options)) is not None:
        raise ConfigurationError(reason=f"database.options {fault}")
    return settings, given


def log_format(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> str:
    """``log.format`` as far as it can be told where the rest of the configuration is wrong; never raises."""
    found = LogSettings().format
    try:
        sources = [*_in_file(path, environ), *_beside_file(environ, flags)]
    except ConfigurationError:  # the file can't be read
        sources = [*_beside_file(environ, flags)]
    for values, source in sources:
        with suppress(ConfigurationError, LookupError, TypeError, RecursionError):
            given = checked({"log": {"format": values["log"]["format"]}}, Settings, (), source)
            found = given["log"]["format"]
    return found


def shown(settings: Settings) -> dict[str, Any]:
    """The settings as plain values for people, with every password replaced by ``***``."""
    plain: dict[str, Any] = masked(msgspec.to_builtins(settings))
    return plain


def _in_file(path: Path | None, environ: Mapping[str, str]) -> Iterator[tuple[dict[str, Any], Source]]:
    file = _file(path, environ)
    if file is not None:
        yield _read_toml(file), Source(str(file))


def _beside_file(environ: Mapping[str, str], flags: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Source]]:
    for variable in sorted(environ):
        # An empty variable is how an environment file unsets one.
        if variable.startswith(PREFIX) and variable != FILE_VARIABLE and environ[variable]:
            parts = variable.removeprefix(PREFIX).lower().split("__")
            if len(parts) > MOST_PARTS:
                raise ConfigurationError(reason=f"unknown option {'.'.join(parts[:MOST_PARTS])}.… ({variable[:80]}…)")
            yield _nested(parts, environ[variable]), Source(variable, is_text=True)
    for name, value in flags.items():
        if value is not None:
            yield _nested(name.split("."), value), COMMAND_LINE


def _file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path
    if environ.get(FILE_VARIABLE):
        return Path(environ[FILE_VARIABLE])
    folder = environ.get("XDG_CONFIG_HOME") or f"{environ['HOME']}/.config" if environ.get("HOME") else None
    candidates = [SYSTEM_FILE] + ([Path(folder) / "swh-sched-runner" / "config.toml"] if folder else [])
    return next((file for file in candidates if _state(file) == "readable"), None)


def system_file_not_read(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The system's file, if it would be read and this user may not; None if it isn't there or another one is named."""
    asked = path is not None or environ.get(FILE_VARIABLE)
    return SYSTEM_FILE if not asked and _state(SYSTEM_FILE) == "denied" else None


def _state(file: Path) -> Literal["readable", "denied", "absent"]:
    """Whether there is such a file, tried rather than asked: the folder above may be closed as well."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return "absent"
        with file.open("rb"):
            return "readable"
    except PermissionError:
        return "denied"
    except OSError:
        return "absent"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_read(path, LARGEST_FILE))
    except OSError as error:
        raise ConfigurationError(reason=f"can't read the configuration {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigurationError(reason=f"{path} is not TOML: {reason}") from error


def _read(path: Path, most: int) -> str:
    with path.open("rb") as file:  # it may be a device without an end
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most} bytes")
    return content.decode("utf-8")


def _nested(name: list[str], value: Any) -> dict[str, Any]:
    for part in reversed(name):
        value = {part: value}
    return dict(value)


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            _merge(into[key], value)
        else:
            into[key] = value


def _with_passwords(settings: Settings) -> Settings:
    database, broker = settings.database, settings.broker
    if database.password_file is not None:
        password = _read_password("database.password_file", database.password_file)
        database = msgspec.structs.replace(database, options=database.options | {"password": password})
    if broker.password_file is not None:
        password = _read_password("broker.password_file", broker.password_file)
        broker = msgspec.structs.replace(broker, url=with_password(broker.url, password))
    return msgspec.structs.replace(settings, database=database, broker=broker)


def _read_password(option: str, file: str) -> str:
    try:
        password = _read(Path(file), LARGEST_PASSWORD).rstrip("\r\n")
    except (OSError, ValueError) as error:
        # What Python says of text that is not UTF-8 may quote it.
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8, or larger than {LARGEST_PASSWORD} bytes"
        raise ConfigurationError(reason=f"{option}: can't read {file}: {reason}") from error
    if "\0" in password:
        raise ConfigurationError(reason=f"{option}: {file} contains a NUL")
    if not password:
        raise ConfigurationError(reason=f"{option}: {file} is empty")
    return password
