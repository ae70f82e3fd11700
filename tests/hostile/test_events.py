"""Nothing that comes in through the event queue may stop the listener, fill it, or be lost by it."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from amqp import Connection as AmqpConnection
from sqlalchemy import text
from structlog.testing import capture_logs

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.events.rejected import Rejection
from swh_sched_runner.backend.tasks.runs import Recorded
from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.factory import event_queue_name, open_consumer
from swh_sched_runner.broker.interface import BATCH_BYTES, KEPT_BYTES, bytes_of
from swh_sched_runner.config import BrokerSettings, ListenerSettings
from swh_sched_runner.db import migrate
from swh_sched_runner.db.engine import Database, create_engine
from swh_sched_runner.embedded.postgres import Postgres
from swh_sched_runner.exc import SchedulerException, StatementRefused
from swh_sched_runner.services.listener.listener import Listener
from swh_sched_runner.services.service import Heartbeat
from tests.support.processes.programs import Programs, terminate
from tests.support.samples import NOW, a_task, a_type
from tests.support.servers.rabbitmq import free_ports
from tests.support.wait import until
from tests.web.test_programs import get, missing, shown

pytestmark = pytest.mark.slow

AT = NOW.timestamp()
SETTINGS = ListenerSettings(batch_size=100, flush_seconds=0.2, prefetch=200)


class Line:
    """A listener as its supervisor keeps it: one that fails is closed and opened anew."""

    def __init__(self, dispatch: Dispatch, broker: BrokerSettings, settings: ListenerSettings = SETTINGS) -> None:
        self._app = create_app(broker)
        self._consumer = partial(open_consumer, self._app, broker, settings.prefetch, settings.max_event_bytes)
        self._dispatch = dispatch
        self._settings = settings
        self.errors: list[SchedulerException] = []
        self.heartbeat = Heartbeat()
        self.listener = self._open()

    def _open(self) -> Listener:
        return Listener(self._dispatch, self._consumer, self._settings)

    def round(self) -> bool:
        try:
            return self.listener.run_once(self.heartbeat)
        except SchedulerException as error:
            self.errors.append(error)
            self.listener.close()
            self.listener = self._open()
            return True

    def listen_until(self, condition: Callable[[], object], seconds: float = 40) -> None:
        until(lambda: self.round() is not None and condition(), seconds)

    def close(self) -> None:
        self.listener.close()
        self._app.close()


@pytest.fixture
def lines() -> Iterator[Callable[..., Line]]:
    with ExitStack() as stack:

        def open_one(dispatch: Dispatch, broker: BrokerSettings, settings: ListenerSettings = SETTINGS) -> Line:
            line = Line(dispatch, broker, settings)
            stack.callback(line.close)
            return line

        yield open_one


@pytest.fixture
def broker(rabbitmq_url: str) -> BrokerSettings:
    return BrokerSettings(url=rabbitmq_url)


@pytest.fixture
def dispatch(database: Database) -> Dispatch:
    return Dispatch(database)


def runs_opened(backend: SchedulerBackend, count: int) -> list[str]:
    backend.create_task_type(a_type())
    tasks = backend.create_tasks([a_task(number) for number in range(count)])
    backend.mass_schedule_task_runs(
        [
            {"task": task["id"], "backend_id": f"run-{n}", "scheduled": NOW, "metadata": {}}  # type: ignore[typeddict-item]
            for n, task in enumerate(tasks)
        ]
    )
    return [f"run-{n}" for n in range(count)]


def ended(uuid: str, **more: Any) -> bytes:
    return event("task-result", uuid, **({"result": {"status": "success", "eventful": True}} | more))


def event(kind: str, uuid: str, **more: Any) -> bytes:
    return json.dumps({"type": kind, "uuid": uuid, "timestamp": AT + 60, "hostname": "w@h", "pid": 1} | more).encode()


@contextmanager
def raw_channel(broker: BrokerSettings) -> Iterator[Any]:
    app = create_app(broker)
    with connect(app) as connection:
        yield connection.default_channel
    app.close()


def queue_of(broker: BrokerSettings) -> str:
    """The event queue's name in the broker."""
    app = create_app(broker)
    app.close()
    return event_queue_name(app, broker)


def put(broker: BrokerSettings, bodies: Sequence[bytes]) -> None:
    """Messages with these bodies in the event queue, which a listener has declared."""
    with raw_channel(broker) as channel:
        # Without confirms a quorum queue may lose the last ones when the connection is closed at once.
        publish = getattr(channel, "basic_publish_confirm", channel.basic_publish)
        for body in bodies:
            message = channel.prepare_message(body, content_type="application/json", content_encoding="utf-8")
            publish(message, exchange="", routing_key=queue_of(broker))


def statuses(database: Database) -> dict[str, int]:
    with database.engine.connect() as conn:
        return dict(conn.execute(text("select status::text, count(*) from task_run group by 1")).all())  # type: ignore[arg-type]


def aside(database: Database) -> list[tuple[str, bytes]]:
    with database.engine.connect() as conn:
        rows = conn.execute(text("select reason, body from rejected_event order by id"))
        return [(reason, bytes(body)) for reason, body in rows]


def sql(database: Database, *statements: str) -> None:
    with database.engine.begin() as conn:
        for statement in statements:
            conn.execute(text(statement))


def refuse(database: Database, code: str, when: str = "true", table: str = "task_run") -> None:
    """From now on writing to the table raises an error of this code."""
    sql(
        database,
        f"create or replace function refuse() returns trigger language plpgsql as "
        f"$$ begin raise exception 'on purpose' using errcode = '{code}'; end $$",
        f"create trigger refuse before insert or update on {table} for each row when ({when}) "
        "execute function refuse()",
    )


def heal(database: Database, table: str = "task_run") -> None:
    sql(database, f"drop trigger refuse on {table}")


# Item 1: the database can't take events for a while.


@pytest.mark.parametrize("code", ["53100", "42501", "P0001", "58030", "XX001", "25006", "55000", "57000", "ZZ999"])
def test_events_wait_while_the_database_refuses_all(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
    code: str,
) -> None:
    # given 150 runs whose ends are told while each update is refused
    runs = runs_opened(backend, 150)
    line = lines(dispatch, broker)
    refuse(database, code)
    put(broker, [ended(run) for run in runs])
    # when it goes on for a while
    line.listen_until(lambda: line.errors)
    assert statuses(database) == {"scheduled": 150}
    heal(database)
    # then all of them are recorded, and none was rejected
    line.listen_until(lambda: statuses(database) == {"eventful": 150})
    assert aside(database) == []
    assert all("on purpose" in str(error) for error in line.errors)


def test_events_wait_while_the_tablespace_is_full(
    lines: Callable[..., Line], tmp_path: Path, rabbitmq_url: str
) -> None:
    # given a server whose runs lie on a disk of 8 MB; a trigger stands for it where none can be mounted
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=777", "tmpfs", disk], check=False).returncode == 0
    )
    with ExitStack() as stack:
        if mounted:
            stack.callback(subprocess.run, ["umount", "--lazy", disk], check=True)
        server = stack.enter_context(Postgres(tmp_path / "postgresql", fsync=False))
        database = Database(create_engine(server.url()))
        stack.callback(database.close)
        migrate.upgrade(database.engine)
        broker = BrokerSettings(url=rabbitmq_url)
        with SchedulerBackend(server.url()) as backend:
            runs = runs_opened(backend, 400)
        filled = disk / "filled"
        if mounted and _moved_to(database, disk):
            with filled.open("wb", buffering=0) as file, suppress(OSError):
                while file.write(b"x" * 4096):
                    pass
        else:
            refuse(database, "53100")
        # when all ends are reported, with results that need space
        line = lines(Dispatch(database), broker)
        put(broker, [ended(run, result={"status": "eventful", "text": "x" * 3000}) for run in runs])
        line.listen_until(lambda: line.errors)
        assert "scheduled" in statuses(database)
        if filled.exists():
            filled.unlink()
        else:
            heal(database)
        # then each is recorded once there is space
        line.listen_until(lambda: statuses(database) == {"eventful": 400})
        assert aside(database) == []
        line.close()


def _moved_to(database: Database, disk: Path) -> bool:
    """Whether the runs lie on that disk now."""
    place = disk / "space"
    place.mkdir(mode=0o777)
    subprocess.run(["chown", "nobody", place], check=False)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        try:
            conn.execute(text(f"create tablespace small location '{place}'"))
            conn.execute(text("alter table task_run set tablespace small"))
        except Exception:
            return False
    return True


def test_a_row_that_is_refused_waits_while_its_neighbours_go_on(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
) -> None:
    # given a trigger of somebody's that refuses two runs
    runs = runs_opened(backend, 60)
    line = lines(dispatch, broker)
    refuse(database, "P0001", when="new.backend_id in ('run-7', 'run-40')")
    # when
    put(broker, [ended(run) for run in runs])
    line.listen_until(lambda: statuses(database) == {"eventful": 58, "scheduled": 2})
    # then the service says why it keeps them, more events go through, and what is told of them waits with them
    assert line.heartbeat.trouble is not None
    assert "on purpose" in line.heartbeat.trouble
    [task] = backend.create_tasks([a_task(1_000)])
    backend.schedule_task_run(task["id"], "run-later", timestamp=NOW)
    put(broker, [ended("run-later"), event("task-received", "run-7", retries=3)])
    line.listen_until(lambda: statuses(database)["eventful"] == 59)
    # and they are recorded once they can be
    heal(database)
    line.listen_until(lambda: statuses(database) == {"eventful": 61})
    assert (line.errors, line.heartbeat.trouble, aside(database)) == ([], None, [])
    with database.engine.connect() as conn:
        attempts = conn.execute(text("select metadata -> 'attempts' from task_run where backend_id = 'run-7'"))
        assert attempts.scalar() == 4
    # and nothing comes again
    line.close()
    with raw_channel(broker) as channel:
        assert channel.queue_declare(queue_of(broker), passive=True).message_count == 0


def test_what_is_kept_in_hand_comes_again_when_the_listener_ends(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
) -> None:
    runs = runs_opened(backend, 10)
    first = lines(dispatch, broker)
    refuse(database, "XX001", when="new.backend_id = 'run-3'")
    put(broker, [ended(run) for run in runs])
    first.listen_until(lambda: statuses(database) == {"eventful": 9, "scheduled": 1})
    first.listener.close()
    heal(database)

    second = lines(dispatch, broker)
    second.listen_until(lambda: statuses(database) == {"eventful": 10})


def test_more_than_can_be_kept_in_hand_ends_the_service_and_nothing_is_lost(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
) -> None:
    runs = runs_opened(backend, 60)
    line = lines(dispatch, broker, ListenerSettings(batch_size=10, flush_seconds=0.2, prefetch=20))
    refuse(database, "P0001", when="new.backend_id like 'run-%5'")  # 6 of 60; and 25 messages of each
    put(broker, [ended(run) for run in runs] + [event("task-received", "run-5", retries=n) for n in range(25)])

    line.listen_until(lambda: line.errors)
    assert isinstance(line.errors[0], StatementRefused)
    heal(database)
    line.listen_until(lambda: statuses(database) == {"eventful": 60})
    assert aside(database) == []


def test_nothing_is_acknowledged_while_what_is_rejected_can_t_be_written(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
) -> None:
    [run] = runs_opened(backend, 1)
    line = lines(dispatch, broker)
    refuse(database, "53100", table="rejected_event")
    with capture_logs() as logs:
        put(broker, [b"rubbish", ended(run)])
        line.listen_until(lambda: len(line.errors) >= 2)
    assert not [entry for entry in logs if entry["event"] == "events rejected"]
    assert aside(database) == []

    heal(database, "rejected_event")
    line.listen_until(lambda: statuses(database) == {"eventful": 1} and len(aside(database)) == 1)


def test_readiness_says_that_the_database_refuses_events(
    tmp_path: Path, backend: SchedulerBackend, database: Database, database_url: str, broker: BrokerSettings
) -> None:
    # given a listener at work
    [run] = runs_opened(backend, 1)
    [port] = free_ports(1)
    assert broker.url is not None
    variables = {"SWH_SCHED_RUNNER_DATABASE__URL": database_url, "SWH_SCHED_RUNNER_BROKER__URL": broker.url}
    programs = Programs(tmp_path, variables)
    process = programs.start("listen", "--web-port", str(port))
    try:
        until(lambda: "metrics and health" in programs.log("listen"), 60)
        until(lambda: missing(port) == {}, 30)
        # when
        refuse(database, "53100")
        put(broker, [ended(run)])
        # then
        until(lambda: "on purpose" in missing(port).get("listener", ""), 30)
        assert shown(port)["events_awaiting_retry",] == 1
        assert get(port, "/healthz")[0] == 200
        assert "events await retry" in programs.log("listen")
        heal(database)
        until(lambda: missing(port) == {}, 60)
        assert statuses(database) == {"eventful": 1}
        assert terminate(process) == 0
    finally:
        programs.close()


# Item 2: whatever AMQP carries.

CONTENT_TYPE, ENCODING, HEADERS, DELIVERY, PRIORITY = 0x8000, 0x4000, 0x2000, 0x1000, 0x0800
CORRELATION, REPLY_TO, EXPIRATION, MESSAGE_ID, TIMESTAMP = 0x0400, 0x0200, 0x0100, 0x0080, 0x0040
TYPE, USER, APP = 0x0020, 0x0010, 0x0008


def short(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def long(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def nested(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = b"\x01kF" + long(table)
    return long(table)


ODD: dict[str, tuple[bytes, int, bytes]] = {
    # routing key, flags, properties
    "routing key that isn't UTF-8": (b"task.\xff\xfe", 0, b""),
    "content type that isn't UTF-8": (b"task.x", CONTENT_TYPE, short(b"\xff\xfe")),
    "content encoding that isn't UTF-8": (b"task.x", ENCODING, short(b"\xc3\x28")),
    "unknown content encoding": (b"task.x", CONTENT_TYPE | ENCODING, short(b"application/json") + short(b"rot13")),
    "correlation id that isn't UTF-8": (b"task.x", CORRELATION, short(b"\xff")),
    "reply to that isn't UTF-8": (b"task.x", REPLY_TO, short(b"\xff")),
    "message id that isn't UTF-8": (b"task.x", MESSAGE_ID, short(b"\xff")),
    "type that isn't UTF-8": (b"task.x", TYPE, short(b"\xff\xff")),
    "app id that isn't UTF-8": (b"task.x", APP, short(b"\x80")),
    "timestamp out of range": (b"task.x", TIMESTAMP, b"\xff" * 8),
    "timestamp in the year 300,000": (b"task.x", TIMESTAMP, struct.pack(">Q", 9_400_000_000_000)),
    "header timestamp out of range": (b"task.x", HEADERS, long(b"\x01tT" + b"\xff" * 8)),
    "header with a text that isn't UTF-8": (b"task.x", HEADERS, long(b"\x01tS" + long(b"\xff\xfe"))),
    "header key that isn't UTF-8": (b"task.x", HEADERS, long(b"\x01\xfft\x01")),
    "headers nested 2,000 deep": (b"task.x", HEADERS, nested(2_000)),
    "header decimal": (b"task.x", HEADERS, long(b"\x01dD\xff\x00\x00\x00\x01")),
    "header void": (b"task.x", HEADERS, long(b"\x01vV")),
    "header bytes": (b"task.x", HEADERS, long(b"\x01xx" + long(b"\x00\xff"))),
    "priority 255": (b"task.x", PRIORITY, b"\xff"),
    "nothing at all": (b"task.x", 0, b""),
}


def publish_raw(broker: BrokerSettings, routing_key: bytes, flags: int, properties: bytes, body: bytes) -> None:
    """A message in frames written by hand, since no library would."""
    with raw_channel(broker) as channel:
        connection: AmqpConnection = channel.connection
        channel.confirm_select()

        def frame(kind: int, payload: bytes) -> bytes:
            return struct.pack(">BHI", kind, channel.channel_id, len(payload)) + payload + b"\xce"

        exchange = broker.event_exchange.encode()
        method = struct.pack(">HHH", 60, 40, 0) + short(exchange) + short(routing_key) + b"\x00"
        header = struct.pack(">HHQH", 60, 0, len(body), flags) + properties
        chunks = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
        frames = [frame(1, method), frame(2, header), *(frame(3, chunk) for chunk in chunks)]
        confirmed: list[int] = []
        channel.events["basic_ack"].add(lambda number, _: confirmed.append(number))
        connection.transport.write(b"".join(frames))
        until(lambda: connection.drain_events(timeout=5) is None and confirmed)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_message_is_rejected_or_applied_and_the_next_one_is_applied(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
    name: str,
) -> None:
    routing_key, flags, properties = ODD[name]
    one, other, last = runs_opened(backend, 3)
    line = lines(dispatch, broker)

    for body in (ended(one), b"", b"rubbish"):  # what surrounds an event says nothing of it
        publish_raw(broker, routing_key, flags, properties, body)
    put(broker, [ended(other), ended(last)])
    line.listen_until(lambda: statuses(database) == {"eventful": 3})

    assert [body for _, body in aside(database)] == [b"", b"rubbish"]
    assert all(reason.startswith("not JSON") for reason, _ in aside(database))
    assert line.errors == []


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff\xfe",
        b"{}",
        b'{"body": ""}',
        b'{"body": "not base64", "properties": {"body_encoding": "base64"}}',
        '{"body": "ünbase64", "properties": {"body_encoding": "base64"}}'.encode(),
        b'{"body": 7}',
        b'{"body": "\\ud800"}',
        b'{"body": "x", "properties": []}',
        b"[" * 100_000,
    ],
)
def test_an_odd_message_on_redis_is_rejected_and_the_next_one_is_applied(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    valkey_url: str,
    message: bytes,
) -> None:
    broker = BrokerSettings(url=valkey_url)
    [run] = runs_opened(backend, 1)
    line = lines(dispatch, broker)
    with raw_channel(broker) as channel:
        channel.client.lpush(broker.event_queue, message)
    put(broker, [ended(run)])

    line.listen_until(lambda: statuses(database) == {"eventful": 1})

    assert len(aside(database)) == 1
    assert line.errors == []


# Item 3: memory and time are bounded by bytes.


@pytest.mark.parametrize("url", ["rabbitmq_url", "valkey_url"])
def test_a_message_that_is_too_long_is_never_held_whole(request: pytest.FixtureRequest, url: str) -> None:
    broker = BrokerSettings(url=request.getfixturevalue(url))
    app = create_app(broker)
    consumer = open_consumer(app, broker, 2_000)
    put(broker, [b"x" * 15_000_000, b"y" * 900_000, b"z"])

    taken: list[Any] = []
    until(lambda: taken.extend(consumer.receive(10, 0.2)) or len(taken) == 3, 30)

    # the envelope of Redis is a third longer than what is in it, and is measured in its place
    assert [delivery.size >= size for delivery, size in zip(taken, (15_000_000, 900_000, 1), strict=True)] == [True] * 3
    assert [len(delivery.body) for delivery in taken] == [KEPT_BYTES, 900_000, 1]
    consumer.close()
    app.close()


@pytest.mark.parametrize("url", ["rabbitmq_url", "valkey_url"])
def test_a_consumer_hands_out_so_many_bytes_at_a_time(request: pytest.FixtureRequest, url: str) -> None:
    broker = BrokerSettings(url=request.getfixturevalue(url))
    app = create_app(broker)
    consumer = open_consumer(app, broker, 2_000)
    put(broker, [b"%d" % n + b"x" * 900_000 for n in range(20)])

    batches = []
    while sum(map(len, batches)) < 20:
        batches.append(consumer.receive(100, 2))
        consumer.acknowledge(batches[-1])

    assert max(map(bytes_of, batches)) < BATCH_BYTES + 1_000_000
    assert [delivery.body[:2] for batch in batches for delivery in batch] == [(b"%dx" % n)[:2] for n in range(20)]
    consumer.close()
    app.close()


def test_a_list_of_rubbish_makes_one_row(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
) -> None:
    [run] = runs_opened(backend, 1)
    line = lines(dispatch, broker)
    rubbish = [b"[" + b'{"a":1},' * 100_000 + b"0]", b"[" + b'{"a":1},' * 700_000 + b"0]"]
    put(broker, [*rubbish, b"[1," + ended(run) + b"]"])

    line.listen_until(lambda: statuses(database) == {"eventful": 1})

    (first, _), (second, _), (third, body) = aside(database)
    assert first.startswith("100001 of 100001 events")
    assert second == "5600003 bytes are more than an event may contain"
    assert (third, body) == ("1 of 2 events, the first: an event is a JSON object, not int", b"[1," + ended(run) + b"]")


def test_texts_are_capped_when_they_are_stored(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
) -> None:
    [run] = runs_opened(backend, 1)
    line = lines(dispatch, broker)
    long_text = "é" * 80_000
    put(
        broker,
        [
            event("task-received", run, hostname=long_text),
            event("task-retried", run, exception=long_text, hostname=long_text),
            event("task-failed", run, exception=long_text, hostname=long_text),
        ],
    )
    line.listen_until(lambda: statuses(database) == {"failed": 1})

    with database.engine.connect() as conn:
        sizes = conn.execute(text("select key, octet_length(value) from task_run, jsonb_each_text(metadata)")).all()
    texts = {key: size for key, size in sizes if key not in ("attempts", "worker_pid")}
    assert texts == {"worker": 4096, "retried": 4096, "error": 4096}


@pytest.mark.parametrize(
    ("rows", "size", "left"),
    [(10, 10**9, [f"{n:02}" for n in range(30, 40)]), (10**6, 3_000, [f"{n:02}" for n in range(37, 40)])],
)
def test_what_is_rejected_stays_within_rows_and_bytes(
    lines: Callable[..., Line],
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
    rows: int,
    size: int,
    left: list[str],
) -> None:
    settings = ListenerSettings(batch_size=100, flush_seconds=0.2, rejected_event_rows=rows, rejected_event_bytes=size)
    line = lines(dispatch, broker, settings)
    put(broker, [b"%02d" % n + b"x" * 998 for n in range(40)])

    line.listen_until(lambda: [body[:2].decode() for _, body in aside(database)] == left)


def test_what_is_rejected_grows_old(database: Database, dispatch: Dispatch) -> None:
    dispatch.record_events([], [Rejection.of("old", b"1"), Rejection.of("new", b"2")])
    sql(database, "update rejected_event set received = now() - interval '31 days' where reason = 'old'")

    assert dispatch.trim_rejected_events(100, 10**6, 30 * 86_400) == 1
    assert aside(database) == [("new", b"2")]


# Item 4: values that parse but don't fit.


class Counting(Dispatch):
    calls = 0

    def record_events(self, *arguments: Any) -> Recorded:
        self.calls += 1
        return super().record_events(*arguments)


@pytest.mark.parametrize(
    "odd",
    [
        event("task-received", "run-1", retries=2**31),
        event("task-received", "run-1", retries=2**31 - 1),
        event("task-received", "run-1", retries=2**63),
        event("task-received", "run-1", retries=-1),
        event("task-started", "run-1", timestamp=253_402_300_799),
        event("task-started", "run-1", timestamp=253_402_300_799.9999999),
        event("task-started", "run-1", timestamp=253_402_300_800),
        event("task-started", "run-1", timestamp=10**30),
        event("task-started", "run-1", timestamp=0),
        event("task-started", "run-1", timestamp=-62_135_596_801),
        event("task-started", "run-1", pid=2**31),
        event("task-started", "run-1", pid=2**63),
        event("task-succeeded", "run-1", runtime=1e308),
        event("task-succeeded", "run-1", runtime=10**400),
        event("task-revoked", "run-1", terminated=True, signum=10**30),
        event("task-revoked", "run-1", terminated=True, signum="9" * 5_000),
        event("task-result", "run-1", result=10**400),
        event("task-result", "run-1", result={"status": 10**400}),
        event("task-result", "run-1", result={"status": "failed", "error": 10**4_000}),
        event("task-result", "run-1", result=1e308, result_bytes=2**70),
        event("task-result", "run-1", result={"x" * 60_000: 1}),
        event("task-result", "run-1", result={"a\0b": "c\0d", "\ud800": "\udfff"}),
        event("task-failed", "run-1\0", exception="\0", traceback="\ud800"),
        b'{"type": "task-result", "uuid": "run-1", "timestamp": 1, "result": ' + b"9" * 4_400 + b"}",
        b'{"type": "task-result", "uuid": "run-1", "timestamp": 1, "result": -1e-400}',
    ],
)
def test_a_value_that_does_not_fit_is_dealt_with_at_the_door(
    lines: Callable[..., Line], backend: SchedulerBackend, database: Database, broker: BrokerSettings, odd: bytes
) -> None:
    runs_opened(backend, 3)
    dispatch = Counting(database)
    line = lines(dispatch, broker)

    put(broker, [ended("run-0"), odd, ended("run-2")])
    line.listen_until(lambda: statuses(database).get("eventful", 0) >= 2)

    assert line.errors == []
    assert dispatch.calls <= 3  # one a batch: nothing was refused and halved


def test_many_values_that_are_refused_make_one_line_in_the_log(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
) -> None:
    # given a constraint that stands for whatever PostgreSQL may say of data one day
    runs = runs_opened(backend, 40)
    sql(database, "alter table task_run add check (metadata ->> 'error' is distinct from 'poison')")
    line = lines(dispatch, broker)
    with capture_logs() as logs:
        put(broker, [ended(run, result={"status": "failed", "error": "poison"}) for run in runs[:30]])
        put(broker, [ended(run) for run in runs[30:]])
        line.listen_until(
            lambda: statuses(database) == {"scheduled": 30, "eventful": 10} and len(aside(database)) == 30
        )

    assert 1 <= len([entry for entry in logs if entry["event"] == "events rejected"]) <= 3
    assert line.errors == []


# Item 5.

WORKER = {"worker": "w@h", "worker_pid": 1}


@pytest.mark.parametrize(
    ("sent", "status", "kept"),
    [
        (ended("run-0", result={"status": "success"}), "uneventful", {"result": {"status": "success"}}),
        (event("task-retried", "run-0", exception="None"), "scheduled", WORKER),
        (event("task-retried", "run-0", exception=None), "scheduled", WORKER),
        (event("task-retried", "run-0", exception="E()"), "scheduled", WORKER | {"retried": "E()"}),
    ],
)
def test_what_is_not_said_is_not_made_up(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
    sent: bytes,
    status: str,
    kept: dict[str, Any],
) -> None:
    runs_opened(backend, 2)
    line = lines(dispatch, broker)

    put(broker, [sent, ended("run-1")])
    line.listen_until(lambda: statuses(database).get("eventful") == 1)

    [run] = [run for run in backend.get_task_runs([1]) if run["backend_id"] == "run-0"]
    assert (run["status"], run["metadata"]) == (status, kept)
