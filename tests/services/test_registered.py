"""A service that is registered is seen to live for as long as it works."""

from __future__ import annotations

from sqlalchemy import text

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.backend.inspection.status import living_services
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import ConfigurationError
from swh_sched_runner.services.registered import Registered
from swh_sched_runner.services.service import Heartbeat


class Idle:
    name = "listener"
    closed = False

    def run_once(self, heartbeat: Heartbeat) -> bool:
        return False

    def wait_for_work(self, heartbeat: Heartbeat) -> None: ...

    def close(self) -> None:
        self.closed = True


def living(database: Database) -> list[str]:
    return [row.service for row in database.run(living_services)]


def test_a_session_lives_while_the_service_does_and_is_opened_again_when_it_was_lost(database: Database) -> None:
    idle, heartbeat = Idle(), Heartbeat()
    service = Registered(lambda: idle, Dispatch(database).open_session)
    try:
        service.run_once(heartbeat)
        assert living(database) == ["listener"]

        with database.engine.begin() as conn:
            conn.execute(text("select pg_terminate_backend(backend_pid, 5000) from dispatcher_session"))
        assert living(database) == []

        service.run_once(heartbeat)
        assert living(database) == ["listener"]
    finally:
        service.close()
    assert idle.closed
    assert living(database) == []


def test_a_service_behind_a_pooler_works_though_nobody_can_see_that_it_lives() -> None:
    asked = []

    def refuse(name: str) -> DispatcherSession:
        asked.append(name)
        raise ConfigurationError(reason="a pooler")

    service = Registered(Idle, refuse)

    assert [service.run_once(Heartbeat()) for _ in range(2)] == [False, False]
    assert asked == ["listener"]
