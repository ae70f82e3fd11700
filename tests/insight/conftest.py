"""What there is to know: services on a real database and broker, and a runner's session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from tests.services.conftest import app, broker, closing, dispatch, listener, make_runner

__all__ = ["app", "broker", "closing", "dispatch", "listener", "make_runner", "session"]


@pytest.fixture
def session(dispatch: Dispatch) -> Iterator[DispatcherSession]:
    """A runner that lives and does nothing."""
    session = dispatch.open_session()
    yield session
    session.close()
