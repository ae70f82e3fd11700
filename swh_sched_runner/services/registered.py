"""A service that a session in the database shows alive, as a runner's own session shows the runner."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import structlog

from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.exc import ConfigurationError, SchedulerException, SessionLost
from swh_sched_runner.services.service import Heartbeat, Service

log = structlog.get_logger(__name__)


class Registered:
    """Wraps a service: the session is opened once that was made, which takes its broker, and ends with it."""

    def __init__(self, make: Callable[[], Service], open_session: Callable[[str], DispatcherSession]) -> None:
        self._service = make()
        self.name = self._service.name
        self._open_session = open_session
        self._session: DispatcherSession | None = None
        self._unseen = False  # behind a pooler, which hands locks to others: it works, and nobody can tell

    def run_once(self, heartbeat: Heartbeat) -> bool:
        """One round of the service; a session that was lost is opened again first."""
        try:
            if self._session is not None:
                self._session.check_soon()
        except SessionLost:
            self._end_session()
        if self._session is None and not self._unseen:
            self._session = self._register()
        return self._service.run_once(heartbeat)

    def wait_for_work(self, heartbeat: Heartbeat) -> None:
        """As the service does."""
        self._service.wait_for_work(heartbeat)

    def close(self) -> None:
        """Close the service, and end the session."""
        try:
            self._service.close()
        finally:
            self._end_session()

    def _register(self) -> DispatcherSession | None:
        try:
            return self._open_session(self.name)
        except ConfigurationError as error:
            self._unseen = True
            log.warning("status can't show that this service lives", service=self.name, reason=str(error))
            return None

    def _end_session(self) -> None:
        if self._session is not None:
            with suppress(SchedulerException):
                self._session.close()
            self._session = None
