"""What every command shares: the settings, the database and the broker, each built when first asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from swh_sched_runner import config
from swh_sched_runner.cli import logs
from swh_sched_runner.config import BrokerSettings, Settings
from swh_sched_runner.exc import ConfigurationError, DataDirectoryRefused, FileNotRead, InvalidArgument, NotRunning

if TYPE_CHECKING:  # imported where they are used: drivers take longer than most commands, and no help needs one
    from swh_sched_runner.backend import SchedulerBackend
    from swh_sched_runner.broker.queues import Queues
    from swh_sched_runner.db.engine import Database

# Timeout for connecting to each address of the database: less than the time that a service has to stop.
CONNECT_SECONDS = 6
# The share of the statement timeout for waiting for a lock: the error then names the lock, not a slow statement.
LOCK_SHARE = 0.5


class Context:
    """The one place where a program is put together. ``flags`` are options by dotted name; None is not given.

    ``command`` is what its connections are called in pg_stat_activity.
    """

    def __init__(
        self,
        file: Path | None,
        flags: dict[str, Any],
        environ: Mapping[str, str] = os.environ,
        command: str = "client",
    ) -> None:
        self._file = file
        self._command = command
        self._environ = environ
        self.flags = flags
        self.takes_time = False  # a command sets it whose statements may take hours, before it asks for the database

    def set_option(self, name: str, value: Any) -> None:
        """Take a global option that was given after the command. ``config`` is the file."""
        if name == "config":
            self._file = value
        else:
            self.flags[name] = value

    @cached_property
    def settings(self) -> Settings:
        """The settings; from the first call on, logs follow them. Commands add their ``flags`` before."""
        settings = config.load(self._file, self._environ, self.flags)
        logs.configure(settings.log.format, settings.log.level)
        return settings

    def settings_and_sources(self) -> tuple[Settings, dict[str, list[str]]]:
        """The settings as they are written, and where each one comes from: a file, a variable or an option."""
        settings, given = config.read(self._file, self._environ, self.flags)
        return settings, config.where_from(given)

    @cached_property
    def data_directory(self) -> Path:
        """Where embedded servers keep their data. Raises ``DataDirectoryRefused`` for what is no path."""
        from swh_sched_runner.embedded import directory

        configured = self.settings.data_directory
        try:
            found = directory.resolve(configured)
            found.exists()  # a name may be too long
        except (OSError, RuntimeError, ValueError) as error:  # ~user, of nobody; no home
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise DataDirectoryRefused(directory=configured or "~", reason=reason) from error
        return found

    @cached_property
    def database(self) -> Database:
        """The configured database, else the one that runs in the data directory; whatever its schema.

        Raises ``NotRunning``, and ``ConfigurationError`` for what libpq does not take.
        """
        from swh_sched_runner.db.connections import dsn
        from swh_sched_runner.db.engine import Database, create_engine

        settings = self.settings.database
        if settings.url is not None:
            url, options = settings.url, settings.options
        else:
            url, options = self._running("database_url"), {}
        try:
            dsn(url, **options)
        except InvalidArgument as error:
            option = "database.options" if error.facts["argument"] == "options" else "database.url"
            raise ConfigurationError(reason=f"{option} {error.facts['reason']}") from error
        statement, lock = settings.statement_timeout_seconds, settings.lock_timeout_seconds
        if self.takes_time:
            statement = None
        if statement is not None and lock is not None:
            lock = min(lock, statement * LOCK_SHARE)
        engine = create_engine(
            url,
            settings.min_pool_conns,
            settings.max_pool_conns,
            lock_timeout_seconds=lock,
            statement_timeout_seconds=statement,
            **({"connect_timeout": CONNECT_SECONDS, "application_name": f"swh-sched-runner {self._command}"} | options),
        )
        return Database(engine)

    @cached_property
    def migrated_database(self) -> Database:
        """The same; raises ``SchemaError`` unless its schema is the one that this code needs."""
        from swh_sched_runner.db import version

        self.database.run(version.require)
        return self.database

    @cached_property
    def backend(self) -> SchedulerBackend:
        """The backend on that database; raises ``SchemaError`` as well."""
        from swh_sched_runner.backend import SchedulerBackend

        backend = SchedulerBackend.of(self.migrated_database)
        backend.max_arguments_bytes = self.settings.tasks.max_arguments_bytes
        backend.max_arguments_depth = self.settings.tasks.max_arguments_depth
        return backend

    @cached_property
    def broker(self) -> BrokerSettings:
        """The broker's settings, with the URL of the one that runs in the data directory where none is configured.

        Raises ``NotRunning``.
        """
        settings = self.settings.broker
        if settings.url is not None:
            return settings
        return msgspec.structs.replace(settings, url=self._running("broker_url"))

    def open_queues(self) -> Queues:
        """A look at the broker's queues; it connects when it is first asked. Raises ``NotRunning``."""
        from swh_sched_runner.broker.celery.app import create_app
        from swh_sched_runner.broker.queues import Queues

        return Queues(create_app(self.broker))

    def revoke(self, backend_ids: Sequence[str]) -> None:
        """Tell workers not to start these messages. Raises ``NotRunning``, ``BrokerUnavailable``."""
        from swh_sched_runner.broker.celery.app import create_app
        from swh_sched_runner.broker.celery.inspection import revoke

        revoke(create_app(self.broker), backend_ids)

    def close(self) -> None:
        """Close what was opened."""
        if "database" in self.__dict__:
            self.database.close()

    def _running(self, name: str) -> str:
        from swh_sched_runner.embedded import directory

        running = directory.running(self.data_directory)
        url: str | None = getattr(running, name) if running is not None else None
        if url is None:
            missing = name.replace("_", ".")
            not_read = config.system_file_not_read(self._file, self._environ)
            if not_read is not None:
                reason = "Permission denied; use sudo -u swh-sched-runner, or --config"
                raise FileNotRead(directory=self.data_directory, missing=missing, file=not_read, reason=reason)
            raise NotRunning(directory=self.data_directory, missing=missing)
        return url
