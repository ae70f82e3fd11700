"""Servers that rounds of crash tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.servers import Servers
from tests.conftest import skip_or_fail
from tests.support.servers import rabbitmq


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    if reason := rabbitmq.missing():
        skip_or_fail(reason)
    with Servers(tmp_path_factory.mktemp("faults")) as servers:
        yield servers
