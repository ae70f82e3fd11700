"""The smaller door of the backend, and an owner of batches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.dispatch.session import Owner
from swh_sched_runner.db.engine import Database


@pytest.fixture
def dispatch(database: Database) -> Dispatch:
    return Dispatch(database)


@pytest.fixture
def owner(dispatch: Dispatch) -> Iterator[Owner]:
    owner = dispatch.open_owner()
    yield owner
    owner.close()
