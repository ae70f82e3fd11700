"""The tests' own servers: each test meets an empty one."""

from __future__ import annotations

from contextlib import closing

import kombu
import psycopg2
import pytest

from swh_sched_runner.backend import SchedulerBackend


@pytest.mark.parametrize("again", ["first", "second"])
def test_a_test_meets_a_migrated_database_without_rows(backend: SchedulerBackend, again: str) -> None:
    before = backend.get_task_types()

    backend.create_task_type({"type": "t", "description": "d", "backend_name": "t"})

    assert before == []


@pytest.mark.parametrize("again", ["first", "second"])
@pytest.mark.parametrize("broker", ["rabbitmq_url", "valkey_url"])
def test_a_test_meets_an_empty_broker(request: pytest.FixtureRequest, broker: str, again: str) -> None:
    url = request.getfixturevalue(broker)
    with kombu.Connection(url) as connection, closing(connection.SimpleQueue("q")) as queue:
        before = queue.qsize() if broker == "rabbitmq_url" else connection.default_channel._size("q")
        queue.put({"a": 1})

    assert before == 0


def test_a_database_is_dropped_though_a_connection_is_open(postgresql_url: str, database_url: str) -> None:
    psycopg2.connect(database_url)

    assert database_url != postgresql_url
