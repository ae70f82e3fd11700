"""The interface for services, and a dispatcher session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.db.engine import Database


@pytest.fixture
def dispatch(database: Database) -> Dispatch:
    return Dispatch(database)


@pytest.fixture
def session(dispatch: Dispatch) -> Iterator[DispatcherSession]:
    session = dispatch.open_session()
    yield session
    session.close()
