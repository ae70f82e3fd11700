"""One task that can't be sent stops no other, whoever wrote it into the table and however."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import text
from structlog.testing import capture_logs

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import WITHDRAWN, Batch, Dispatch
from swh_sched_runner.backend.dispatch.ready import TaskGroup
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.celery.messages import SizeLimit
from swh_sched_runner.broker.factory import open_publisher
from swh_sched_runner.broker.interface import Message, Publisher
from swh_sched_runner.config import BrokerSettings, QueueSettings, RunnerSettings, VisitSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.embedded.valkey import Valkey
from swh_sched_runner.exc import BrokerUnavailable, InvalidArgument, SchedulerException
from swh_sched_runner.model import ListedOrigin, Task
from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.service import Heartbeat
from swh_sched_runner.services.visits.scheduler import VisitScheduler
from tests.broker.conftest import lock
from tests.conftest import skip_or_fail
from tests.support.queues import depth, ids_of, take
from tests.support.samples import a_task, a_type
from tests.support.servers import rabbitmq
from tests.support.servers.proxy import Proxy
from tests.support.servers.rabbitmq import RabbitMQ
from tests.support.wait import until

pytestmark = pytest.mark.slow

QUEUE, OTHER = "tests.load-git", "tests.other"
WRITE = {
    "arguments": "update task set arguments = cast(:value as jsonb) where id = :id",
    "next_run": "update task set next_run = cast(:value as timestamptz) where id = :id",
}
NEIGHBOURS = 5


class Line:
    """A runner as its supervisor keeps it: one that fails is closed and opened anew."""

    def __init__(self, dispatch: Dispatch, broker: BrokerSettings, limit: SizeLimit) -> None:
        self.app = create_app(broker)
        self.publishers: list[Publisher] = []
        self.errors: list[SchedulerException] = []
        self._dispatch = dispatch
        self._open_publisher = partial(open_publisher, self.app, broker, limit=limit)
        self._runner: Runner | None = None

    def _publisher(self, session_id: int) -> Publisher:
        self.publishers.append(self._open_publisher(session_id))
        return self.publishers[-1]

    def round(self) -> None:
        try:
            if self._runner is None:
                self._runner = Runner(self._dispatch, self._publisher, RunnerSettings(), "priority:{backend_name}")
            self._runner.run_once(Heartbeat())
        except SchedulerException as error:
            self.errors.append(error)
            self.close()

    def run_until(self, condition: Callable[[], object], seconds: float = 40) -> None:
        until(lambda: self.round() is None and condition(), seconds)

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
        self._runner = None


@pytest.fixture
def lines() -> Iterator[Callable[..., Line]]:
    with ExitStack() as stack:

        def open_one(dispatch: Dispatch, broker: BrokerSettings, limit: SizeLimit | None = None) -> Line:
            line = Line(dispatch, broker, limit or SizeLimit())
            stack.callback(line.app.close)
            stack.callback(line.close)
            return line

        yield open_one


@pytest.fixture(params=["rabbitmq_url", "valkey_url"])
def broker(request: pytest.FixtureRequest) -> BrokerSettings:
    return BrokerSettings(url=request.getfixturevalue(request.param), confirm_timeout_seconds=5)


@pytest.fixture(scope="module")
def narrow_rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A node that takes messages of 100 kB at most, in frames of 8 kB."""
    if reason := rabbitmq.missing():
        skip_or_fail(reason)
    server = RabbitMQ(tmp_path_factory.mktemp("narrow-rabbitmq"), "max_message_size = 100000\nframe_max = 8192\n")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def dispatch(database: Database) -> Dispatch:
    return Dispatch(database)


def two_types(backend: SchedulerBackend) -> list[Task]:
    """An odd one among its neighbours, to be written by SQL, and a type with a queue of its own."""
    backend.create_task_type(a_type(max_queue_length=1_000))
    backend.create_task_type(a_type("other", max_queue_length=1_000))
    tasks = backend.create_tasks(a_task(n) for n in range(NEIGHBOURS + 1))
    backend.create_tasks(a_task(n, "other") for n in range(NEIGHBOURS))
    return tasks


def write(database: Database, task: Task, **columns: str) -> None:
    """Write columns of a task, as others do: past every check."""
    with database.engine.begin() as conn:
        for column, value in columns.items():
            conn.execute(text(WRITE[column]), {"value": value, "id": task["id"]})


def runs_of(backend: SchedulerBackend, task: Task) -> list[tuple[str, str | None]]:
    return [(run["status"], run["metadata"].get("reason")) for run in backend.get_task_runs([task["id"]])]


def nested(depth: int) -> str:
    return '{"args": [' + "[" * depth + "]" * depth + '], "kwargs": {}}'


ODD = {
    "a list": "[1]",
    "a text": '"x"',
    "a number": "17",
    "null": "null",
    "args that are an object": '{"args": {"a": 1}, "kwargs": {}}',
    "args that are a number": '{"args": 5}',
    "kwargs that are a list": '{"kwargs": [1]}',
    "kwargs that are a text": '{"kwargs": "x"}',
    "nested 500 deep": nested(500),
    "nested 960 deep": nested(960),
    "nested 3,000 deep": nested(3_000),
    "a number of 5,000 digits": '{"args": [' + "9" * 5_000 + "]}",
    "larger than is allowed": json.dumps({"args": ["x" * 60_000], "kwargs": {}}),
}


@pytest.mark.parametrize("name", ODD)
def test_a_task_that_makes_no_message_fails_alone(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
    name: str,
) -> None:
    odd, *neighbours = two_types(backend)
    write(database, odd, arguments=ODD[name])
    line = lines(dispatch, broker, SizeLimit(50_000))

    line.run_until(lambda: depth(line.app, QUEUE) == depth(line.app, OTHER) == NEIGHBOURS)

    [(status, reason)] = runs_of(backend, odd)
    assert status == "failed"
    assert reason is not None
    assert reason.startswith("The message can't be sent: its")
    sent = ids_of(take(line.app, QUEUE))
    assert len(set(sent)) == len(sent) == NEIGHBOURS
    assert all(runs_of(backend, neighbour) == [("scheduled", None)] for neighbour in neighbours)
    assert line.errors == []
    with database.engine.connect() as conn:
        assert conn.execute(text("select count(*) from dispatch_batch")).scalar() == 0


@pytest.mark.parametrize(("when", "is_sent"), [("infinity", False), ("-infinity", True), ("294000-01-01", False)])
@pytest.mark.parametrize("priority", [None, "high"])
def test_a_task_that_is_due_at_infinity_keeps_no_other_waiting(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
    when: str,
    is_sent: bool,
    priority: str | None,
) -> None:
    two_types(backend)
    backend.create_task_type(a_type("never"))
    for task_type in ("load-git", "never"):
        [odd] = backend.create_tasks([a_task(99, task_type, priority=priority)])
        write(database, odd, next_run=when)
    line = lines(dispatch, broker)

    line.run_until(lambda: depth(line.app, OTHER) == NEIGHBOURS and depth(line.app, QUEUE) > NEIGHBOURS)

    name = "priority:tests.never" if priority else "tests.never"
    assert depth(line.app, name) == int(is_sent)
    assert line.errors == []


def test_a_batch_of_which_nothing_can_be_sent_lets_the_next_one_go(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
) -> None:
    two_types(backend)
    with database.engine.begin() as conn:
        conn.execute(
            text(
                "insert into task (type, arguments, next_run, policy, status, current_interval, retries_left) "
                "select 'load-git', '[]', '2020-01-01', 'oneshot', 'next_run_not_scheduled', null, 0 "
                "from generate_series(1, 2500)"
            )
        )
    line = lines(dispatch, broker)

    line.run_until(lambda: depth(line.app, QUEUE) == NEIGHBOURS + 1)

    with database.engine.connect() as conn:
        found = conn.execute(text("select status::text, count(*) from task where arguments = '[]' group by 1")).all()
    assert [tuple(row) for row in found] == [("disabled", 2_500)]


def test_a_message_that_the_broker_finds_too_large_fails_alone(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    narrow_rabbitmq: RabbitMQ,
) -> None:
    # given a broker with a limit below ours, and a message that meets it in the middle of a batch
    broker = BrokerSettings(url=narrow_rabbitmq.add_vhost("large"), confirm_timeout_seconds=5)
    tasks = two_types(backend)
    odd = tasks[3]
    write(database, odd, arguments=json.dumps({"args": ["x" * 200_000], "kwargs": {}}))
    line = lines(dispatch, broker)
    # when
    line.run_until(lambda: len(runs_of(backend, odd)) == 1 and runs_of(backend, odd)[0][0] == "failed")
    line.run_until(lambda: depth(line.app, OTHER) == NEIGHBOURS)
    # then its neighbours were sent, under one id each, at most twice
    [(_, reason)] = runs_of(backend, odd)
    assert reason is not None
    assert "larger than the 100000 allowed" in reason
    sent = ids_of(take(line.app, QUEUE))
    assert len(set(sent)) == NEIGHBOURS
    assert max(map(sent.count, sent)) <= 2
    assert len(line.errors) == 1  # the connection broke once, since the limit is known from then on
    # and from now on such a task costs no connection
    [another] = backend.create_tasks([a_task(99)])
    write(database, another, arguments=json.dumps({"args": ["y" * 200_000], "kwargs": {}}))
    line.run_until(lambda: [status for status, _ in runs_of(backend, another)] == ["failed"])
    assert len(line.errors) == 1


def test_arguments_that_are_shown_long_fit_into_a_frame(
    lines: Callable[..., Line], backend: SchedulerBackend, dispatch: Dispatch, narrow_rabbitmq: RabbitMQ
) -> None:
    broker = BrokerSettings(url=narrow_rabbitmq.add_vhost("frames"), confirm_timeout_seconds=5)
    backend.create_task_type(a_type())
    given = {"args": ["😀" * 5_000], "kwargs": {"é" * 900: "日本" * 5_000}}
    backend.create_tasks([a_task(arguments=given)])
    line = lines(dispatch, broker)

    line.run_until(lambda: depth(line.app, QUEUE) == 1)

    [message] = take(line.app, QUEUE)
    args, kwargs, _ = message.decode()
    assert {"args": args, "kwargs": kwargs} == given
    assert message.headers["argsrepr"].startswith("['😀")
    assert line.errors == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"args": ["x" * 8_000_000]}, "arguments: must not be larger than 8000000 bytes of JSON"),
        ({"kwargs": {"é" * 4_000_000: 1}}, "arguments: must not be larger than 8000000 bytes of JSON"),
        (json.loads(nested(99)), "arguments: must not be nested deeper than 100"),
        (json.loads(nested(400)), "arguments: must not be nested deeper than 100"),
    ],
)
def test_what_can_never_be_sent_is_refused_when_it_is_created(
    backend: SchedulerBackend, arguments: dict[str, Any], reason: str
) -> None:
    backend.create_task_type(a_type())
    with pytest.raises(InvalidArgument, match=reason):
        backend.create_tasks([a_task(1), a_task(2, arguments=arguments)])
    assert backend.search_tasks() == []


def test_the_limits_of_creation_are_the_caller_s(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    backend.max_arguments_bytes, backend.max_arguments_depth = 1_000, 5

    with pytest.raises(InvalidArgument, match="1000 bytes"):
        backend.create_tasks([a_task(arguments={"args": ["x" * 1_000]})])
    with pytest.raises(InvalidArgument, match="deeper than 5"):
        backend.create_tasks([a_task(arguments=json.loads(nested(4)))])
    assert len(backend.create_tasks([a_task(arguments=json.loads(nested(3)))])) == 1


class Cutting(Dispatch):
    """Loses the broker's connection while it grabs, and hears of it before it returns."""

    def __init__(self, database: Database, cut: Callable[[], None]) -> None:
        super().__init__(database)
        self._cut = cut

    def open_batch(
        self, session_id: int, queue: str, group: TaskGroup, num_tasks: int, now: datetime | None = None
    ) -> Batch | None:
        batch = super().open_batch(session_id, queue, group, num_tasks, now)
        self._cut()
        return batch


def test_a_connection_cut_during_a_grab_breaks_the_sending_off(
    lines: Callable[..., Line], backend: SchedulerBackend, database: Database, rabbitmq_url: str
) -> None:
    # given a connection that is cut while the only grab is under way, noticed before that comes back
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n) for n in range(NEIGHBOURS))
    proxy = Proxy(rabbitmq_url)
    cuts: list[float] = []

    def cut() -> None:
        if not cuts:
            cuts.append(time.monotonic())
            proxy.cut()
            link = line.publishers[0].link  # type: ignore[attr-defined]
            until(lambda: link.broken is not None, 30)

    line = lines(Cutting(database, cut), BrokerSettings(url=proxy.url, confirm_timeout_seconds=5))
    with capture_logs() as logs:
        line.run_until(lambda: depth(line.app, QUEUE) == NEIGHBOURS)

    # then it is the ordinary end of a connection, and every message went out once
    assert [type(error) for error in line.errors] == [BrokerUnavailable]
    assert "publishing interrupted" in {entry["event"] for entry in logs}
    sent = ids_of(take(line.app, QUEUE))
    assert len(set(sent)) == len(sent)
    line.close()
    proxy.stop()


def test_a_queue_that_rejects_everything_is_named_once_and_holds_nobody_up(
    lines: Callable[..., Line], backend: SchedulerBackend, database: Database, dispatch: Dispatch, rabbitmq_url: str
) -> None:
    # given a queue that takes one message and rejects the others
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    settings = BrokerSettings(url=rabbitmq_url, queues={QUEUE: QueueSettings(arguments)}, confirm_timeout_seconds=5)
    two_types(backend)
    line = lines(dispatch, settings)

    def attempts() -> int:
        with database.engine.connect() as conn:
            return int(conn.execute(text("select coalesce(max(attempts), 0) from dispatch_batch")).scalar_one())

    # when it is tried three times without success
    with capture_logs() as logs:
        line.run_until(lambda: attempts() >= 3)
    # then it was said once, the other queue got all of its messages, and the tries come ever later
    warned = [entry for entry in logs if entry["event"].startswith("messages not confirmed")]
    assert len(warned) == 1
    assert (warned[0]["queue"], warned[0]["refused"]) == (QUEUE, NEIGHBOURS)
    assert depth(line.app, OTHER) == NEIGHBOURS
    [batch] = dispatch.open_batches(_session(database))
    assert not batch.due
    # and when it has capacity again, all go out under their ids
    taken = ids_of(take(line.app, QUEUE))
    with database.engine.begin() as conn:
        conn.execute(text("update dispatch_batch set tried = tried - interval '1 minute'"))
    line.run_until(lambda: depth(line.app, QUEUE) == 1)
    assert not {*taken} & {*ids_of(take(line.app, QUEUE))}


def _session(database: Database) -> int:
    with database.engine.connect() as conn:
        return int(conn.execute(text("select session_id from dispatch_batch")).scalar_one())


def test_batches_that_can_t_be_sent_are_tried_one_after_the_other(
    backend: SchedulerBackend, dispatch: Dispatch
) -> None:
    two_types(backend)
    session = dispatch.open_session()
    first = dispatch.open_batch(session.id, QUEUE, TaskGroup("load-git", QUEUE, None, False), 2)
    second = dispatch.open_batch(session.id, QUEUE, TaskGroup("load-git", QUEUE, None, False), 2)
    assert first is not None
    assert second is not None

    dispatch.note_attempt(session.id, first.id)
    assert [(batch.id, batch.due) for batch in dispatch.open_batches(session.id)] == [
        (second.id, True),
        (first.id, False),
    ]

    some = [first.messages[1].backend_id]
    dispatch.close_batch(session.id, first.id, some, progress=True)
    assert [(batch.id, batch.due) for batch in dispatch.open_batches(session.id)] == [
        (first.id, True),
        (second.id, True),
    ]
    session.close()


def test_a_run_that_was_ended_as_unsendable_is_corrected_by_its_event(
    lines: Callable[..., Line], backend: SchedulerBackend, database: Database, dispatch: Dispatch, valkey_url: str
) -> None:
    """A message that was sent before may be in the broker, and a worker may run it."""
    odd, *_ = two_types(backend)
    write(database, odd, arguments="[1]")
    line = lines(dispatch, BrokerSettings(url=valkey_url))
    line.run_until(lambda: runs_of(backend, odd))
    [run] = backend.get_task_runs([odd["id"]])

    backend.end_task_run(run["backend_id"], "eventful")

    assert [status for status, _ in runs_of(backend, odd)] == ["eventful"]


def test_a_limit_that_arrives_with_another_answer_is_known_to_the_next_connection(
    narrow_rabbitmq: RabbitMQ,
) -> None:
    # given a message that is too large, and that nobody has asked about yet
    broker = BrokerSettings(url=narrow_rabbitmq.add_vhost("asked"), confirm_timeout_seconds=5)
    limit = SizeLimit()
    publisher = open_publisher(create_app(broker), broker, 1, limit=limit)
    with ExitStack() as queues:
        locked = queues.enter_context(lock(publisher, QUEUE, None))
        assert locked is not None
        locked.capacity()
        locked.publish([Message("1", "load", ["x" * 200_000], {})], lambda: None)
        # when another question gets the broker's answer to it
        with pytest.raises(BrokerUnavailable, match="larger than"), lock(publisher, OTHER, None) as other:
            until(lambda: other is not None and other.capacity() is not None and False)
    publisher.close()
    # then
    assert limit.bytes == 100_000


def test_a_batch_that_the_database_refuses_keeps_no_other_queue_waiting(
    lines: Callable[..., Line], backend: SchedulerBackend, database: Database, dispatch: Dispatch, rabbitmq_url: str
) -> None:
    # given an open batch with a run that was withdrawn, and a trigger of others that lets no run fail
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    settings = BrokerSettings(url=rabbitmq_url, queues={QUEUE: QueueSettings(arguments)}, confirm_timeout_seconds=5)
    tasks = two_types(backend)
    line = lines(dispatch, settings)
    line.run_until(lambda: depth(line.app, OTHER) == NEIGHBOURS)
    backend.disable_tasks([tasks[-1]["id"]])
    with database.engine.begin() as conn:
        conn.execute(
            text(
                "create function refuse() returns trigger language plpgsql as "
                "$$ begin raise exception 'not this one'; end $$"
            )
        )
        conn.execute(
            text(
                "create trigger refuse before update on task_run for each row when (new.status = 'failed') "
                "execute function refuse()"
            )
        )
    # when more is due for another queue
    backend.create_tasks(a_task(n, "other") for n in range(NEIGHBOURS, 2 * NEIGHBOURS))
    with capture_logs() as logs:
        line.run_until(lambda: depth(line.app, OTHER) == 2 * NEIGHBOURS)
        line.run_until(lambda: "batch stays open" in {entry["event"] for entry in logs})
    # then
    assert line.errors == []
    # and once it is gone, the batch goes on
    with database.engine.begin() as conn:
        conn.execute(text("drop trigger refuse on task_run"))
    line.run_until(lambda: runs_of(backend, tasks[-1]) == [("failed", WITHDRAWN)])


def test_tasks_that_the_database_refuses_keep_no_other_type_waiting(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
) -> None:
    # given a trigger of others that lets no run of a task begin
    odd, *_ = two_types(backend)
    with database.engine.begin() as conn:
        conn.execute(
            text(
                "create function refuse() returns trigger language plpgsql as "
                "$$ begin raise exception 'not this one'; end $$"
            )
        )
        conn.execute(
            text(
                f"create trigger refuse before insert on task_run for each row when (new.task = {odd['id']}) "
                "execute function refuse()"
            )
        )
    line = lines(dispatch, broker)
    # when
    with capture_logs() as logs:
        line.run_until(lambda: depth(line.app, OTHER) == NEIGHBOURS)
        line.run_until(lambda: "task type skipped" in {entry["event"] for entry in logs})
    # then
    assert line.errors == []
    with database.engine.begin() as conn:
        conn.execute(text("drop trigger refuse on task_run"))
    line.run_until(lambda: depth(line.app, QUEUE) == NEIGHBOURS + 1)


def test_an_end_that_the_database_refuses_keeps_only_its_own_message_open(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    broker: BrokerSettings,
) -> None:
    # given a task that is too large, and a trigger of others that lets no run fail
    odd, *_ = two_types(backend)
    write(database, odd, arguments=ODD["larger than is allowed"])
    with database.engine.begin() as conn:
        conn.execute(
            text(
                "create function refuse() returns trigger language plpgsql as "
                "$$ begin raise exception 'not this one'; end $$"
            )
        )
        conn.execute(
            text(
                "create trigger refuse before update on task_run for each row when (new.status = 'failed') "
                "execute function refuse()"
            )
        )
    line = lines(dispatch, broker, SizeLimit(50_000))
    # when
    with capture_logs() as logs:
        line.run_until(lambda: depth(line.app, OTHER) == NEIGHBOURS)
        line.run_until(lambda: "batch stays open" in {entry["event"] for entry in logs})
    # then
    assert line.errors == []
    with database.engine.begin() as conn:
        conn.execute(text("drop trigger refuse on task_run"))
    line.run_until(lambda: [status for status, _ in runs_of(backend, odd)] == ["failed"])
    sent = ids_of(take(line.app, QUEUE))
    assert len(set(sent)) == len(sent) == NEIGHBOURS


def test_a_queue_that_takes_half_of_each_batch_is_named_once(
    lines: Callable[..., Line], backend: SchedulerBackend, dispatch: Dispatch, rabbitmq_url: str
) -> None:
    """Its workers take messages, so that each batch is confirmed in the end, and the next one is not."""
    arguments = {"x-max-length": 3, "x-overflow": "reject-publish"}
    settings = BrokerSettings(url=rabbitmq_url, queues={QUEUE: QueueSettings(arguments)}, confirm_timeout_seconds=5)
    backend.create_task_type(a_type(max_queue_length=1_000))
    line = lines(dispatch, settings)
    taken: list[str] = []

    def all_taken() -> bool:
        taken.extend(ids_of(take(line.app, QUEUE)))
        return len(taken) == len(backend.search_tasks())

    with capture_logs() as logs:
        for first in (0, 5, 10):
            backend.create_tasks(a_task(first + n) for n in range(5))
            line.run_until(all_taken)

    events = [entry["event"] for entry in logs]
    assert len([event for event in events if event.startswith("messages not confirmed")]) == 1
    assert events.count("messages sent again") == 1


@pytest.fixture
def narrow_valkey(own_valkey: Valkey) -> Valkey:
    """A server that takes strings of 1 MB at most, and no longer commands either."""
    with redis_client(own_valkey) as client:
        client.config_set("proto-max-bulk-len", "1mb")
        client.config_set("client-query-buffer-limit", "2mb")
    return own_valkey


def redis_client(server: Valkey) -> Redis:
    return Redis(unix_socket_path=str(server.socket))


@pytest.mark.parametrize("told", [True, False], ids=["it says what it takes", "it doesn't say"])
def test_a_message_that_redis_finds_too_large_fails_alone(
    lines: Callable[..., Line],
    backend: SchedulerBackend,
    database: Database,
    dispatch: Dispatch,
    narrow_valkey: Valkey,
    told: bool,
) -> None:
    if not told:
        with redis_client(narrow_valkey) as client:
            client.execute_command("acl", "setuser", "default", "-config")
    tasks = two_types(backend)
    odd = tasks[3]
    write(database, odd, arguments=json.dumps({"args": ["x" * 2_000_000], "kwargs": {}}))
    line = lines(dispatch, BrokerSettings(url=narrow_valkey.url()))

    line.run_until(lambda: depth(line.app, QUEUE) == depth(line.app, OTHER) == NEIGHBOURS)
    line.run_until(lambda: [status for status, _ in runs_of(backend, odd)] == ["failed"])

    sent = ids_of(take(line.app, QUEUE))
    assert len(set(sent)) == len(sent) == NEIGHBOURS


def test_messages_that_redis_takes_one_by_one_are_not_sent_as_one_command(
    lines: Callable[..., Line], backend: SchedulerBackend, dispatch: Dispatch, narrow_valkey: Valkey
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n, arguments={"args": [n, "x" * 500_000]}) for n in range(10))
    line = lines(dispatch, BrokerSettings(url=narrow_valkey.url()))

    line.run_until(lambda: depth(line.app, QUEUE) == 10)

    assert line.errors == []


@pytest.mark.parametrize("more", ["[1]", '"x"', "17", "null", nested(3_000)])
def test_an_origin_that_makes_no_message_keeps_no_other_waiting(
    backend: SchedulerBackend, database: Database, dispatch: Dispatch, broker: BrokerSettings, more: str
) -> None:
    # given an origin whose extra arguments were written by SQL, and others
    backend.create_task_type(a_type("load-git"))
    lister = backend.get_or_create_lister("forge", "one")
    assert lister.id is not None
    backend.record_listed_origins(
        ListedOrigin(lister_id=lister.id, url=f"https://forge.example/{n}", visit_type="git") for n in range(3)
    )
    with database.engine.begin() as conn:
        conn.execute(
            text("update listed_origins set extra_loader_arguments = cast(:more as jsonb) where url like '%/1'"),
            {"more": more},
        )
    app = create_app(broker)
    settings = {"git": VisitSettings(policies={"oldest_scheduled_first": 1.0})}
    visits = VisitScheduler(dispatch, partial(open_publisher, app, broker), settings)
    # when
    visits.run_once(Heartbeat())
    # then
    urls = [message.payload[1]["url"] for message in take(app, QUEUE)]
    assert urls == ["https://forge.example/0", "https://forge.example/2"]
    visits.close()
    app.close()
