"""Our task messages are those that Celery would send."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from typing import Any

import amqp.basic_message
import kombu.transport.pyamqp
import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.celery.messages import AmqpTemplate, Message, Template, show
from swh_sched_runner.broker.factory import open_publisher
from swh_sched_runner.broker.interface import Publisher
from swh_sched_runner.config.settings import BrokerSettings
from tests.broker.conftest import check_session, lock, messages, send_all
from tests.support.processes.releases import Release
from tests.support.processes.workers import StartWorker
from tests.support.sources import CHECKOUT
from tests.support.wait import until

ARGUMENTS: list[tuple[list[Any], dict[str, Any]]] = [
    ([], {}),
    (["https://example.org/repo.git", 1, 2.5, None, True], {"visit": {"deep": [1, {"er": "ü 😀"}]}}),
    (["x" * 5_000], {"y": "z" * 300_000}),  # a shown text that is cut off, a body of several frames
]
# A queue to answer to is the sender's own and nobody waits at ours; a tag is new for each delivery.
PROPERTIES_APART = {"reply_to", "delivery_tag", "delivery_info", "application_headers"}


def receive(app: Celery, queue: str) -> Any:
    with connect(app) as connection:
        channel = connection.default_channel
        raw = channel.basic_get(queue, no_ack=True)
        return channel.message_to_python(raw)


@pytest.mark.parametrize(("args", "kwargs"), ARGUMENTS)
def test_a_message_equals_what_send_task_publishes(
    app: Celery, publisher: Publisher, queue: str, args: list[Any], kwargs: dict[str, Any]
) -> None:
    task_id = str(uuid.uuid4())
    app.send_task("load", args, kwargs, task_id=task_id, queue=f"{queue}-theirs")
    theirs = receive(app, f"{queue}-theirs")

    with lock(publisher, queue, None) as locked:
        assert locked is not None
        locked.capacity()
        assert send_all(locked, [Message(task_id, "load", args, kwargs)], check_session) == {task_id}
    ours = receive(app, queue)

    # What people read is cut at the same length, but not at the same depth.
    shown = {"argsrepr": show(args), "kwargsrepr": show(kwargs)}
    assert ours.headers == theirs.headers | shown | {"ignore_result": None}
    assert all(0 < len(text) <= 1024 for text in shown.values())
    assert ours.decode() == theirs.decode() == [args, kwargs, theirs.decode()[2]]
    assert (ours.content_type, ours.content_encoding) == (theirs.content_type, theirs.content_encoding)
    assert {k: v for k, v in ours.properties.items() if k not in PROPERTIES_APART} == {
        k: v for k, v in theirs.properties.items() if k not in PROPERTIES_APART
    }


@pytest.mark.parametrize("broker_url", ["rabbitmq_url", "valkey_url"], indirect=True)
def test_a_message_equals_what_send_task_of_each_release_publishes(
    release: Release, app: Celery, broker_url: str, publisher: Publisher, queue: str
) -> None:
    sent = [Message(str(uuid.uuid4()), "fleet.look", args, kwargs) for args, kwargs in ARGUMENTS]
    send_with(release, broker_url, sent, f"{queue}-theirs")
    with lock(publisher, queue, None) as locked:
        assert locked is not None
        locked.capacity()
        assert len(send_all(locked, sent, check_session)) == len(sent)

    for message in sent:
        theirs, ours = receive(app, f"{queue}-theirs"), receive(app, queue)

        # The one difference. None leaves it to the task whether its result is kept, for workers of every release; the
        # False of former releases means the same to their workers, but those of 5.6 and later take it for an order.
        assert ours.headers.pop("ignore_result") is None
        assert theirs.headers.pop("ignore_result") is (None if release.name == "5.7" else False)
        assert theirs.headers.pop("origin") != ours.headers.pop("origin") == Template(app, "any").headers["origin"]
        assert ours.headers == theirs.headers | {"argsrepr": show(message.args), "kwargsrepr": show(message.kwargs)}
        assert ours.decode() == theirs.decode() == [message.args, message.kwargs, theirs.decode()[2]]
        assert (ours.content_type, ours.content_encoding) == (theirs.content_type, theirs.content_encoding)
        assert properties(ours) == properties(theirs)
        assert ours.delivery_info["exchange"] == theirs.delivery_info["exchange"] == ""
        assert (ours.delivery_info["routing_key"], theirs.delivery_info["routing_key"]) == (queue, f"{queue}-theirs")


def send_with(release: Release, broker_url: str, sent: list[Message], queue: str) -> None:
    """Send with ``app.send_task`` of a release."""
    tasks = [{"name": m.name, "args": m.args, "kwargs": m.kwargs, "task_id": m.id, "queue": queue} for m in sent]
    environment = {"PYTHONPATH": str(CHECKOUT), "TASKS_BROKER_URL": broker_url, "TASKS_STOCK": "1"}
    subprocess.run(
        [release.python, "-m", "tests.support.processes.release_app"],
        input=json.dumps(tasks),
        env=os.environ | environment,
        text=True,
        check=True,
        timeout=30,
    )


def properties(message: Any) -> dict[str, Any]:
    """The properties of a message but for those that its sender, or its delivery, has alone."""
    kept = {key: value for key, value in message.properties.items() if key not in PROPERTIES_APART}
    return kept | {"keys": set(message.properties)}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@given(
    args=st.lists(JSON, max_size=3), kwargs=st.dictionaries(st.text(), JSON, max_size=3), task_id=st.text(max_size=60)
)
def test_frames_are_read_back_by_the_library_as_they_were_meant(
    args: list[Any], kwargs: dict[str, Any], task_id: str
) -> None:
    app = create_app(BrokerSettings(url="amqp://"))
    template = AmqpTemplate(Template(app, "load"), 3, "queue", 4096)

    frames = template.frames(Message(task_id, "load", args, kwargs))

    read = decode(frames, 3)
    assert read.properties["application_headers"]["id"] == task_id
    assert read.properties["application_headers"]["kwargsrepr"][:900] == repr(kwargs)[:900]
    assert read.properties["correlation_id"] == task_id
    assert read.decode()[:2] == [args, kwargs]


def decode(frames: bytes, channel_id: int) -> Any:
    """Read frames with py-amqp."""
    message = amqp.basic_message.Message()
    at, seen = 0, []
    while at < len(frames):
        kind, channel = frames[at], int.from_bytes(frames[at + 1 : at + 3], "big")
        size = int.from_bytes(frames[at + 3 : at + 7], "big")
        payload, end = frames[at + 7 : at + 7 + size], frames[at + 7 + size]
        assert (channel, end) == (channel_id, 0xCE)
        assert size + 8 <= 4096 or kind == 2
        seen.append(kind)
        if kind == 2:
            message.inbound_header(payload)
        elif kind == 3:
            message.inbound_body(payload)
        at += size + 8
    assert seen[:2] == [1, 2]
    assert message.ready
    message.delivery_info = {"delivery_tag": 1}
    return kombu.transport.pyamqp.Message(message, channel=None)


@pytest.mark.parametrize("broker", ["rabbitmq_url", "valkey_url"])
def test_a_stock_worker_runs_our_messages(
    request: pytest.FixtureRequest, broker: str, start_worker: StartWorker
) -> None:
    settings = BrokerSettings(url=request.getfixturevalue(broker))
    app = create_app(settings)
    publisher = open_publisher(app, settings, 1)
    sent = messages(20, name="echo")
    with lock(publisher, "echo", 100) as locked:
        assert locked is not None
        assert locked.capacity() == 100
        assert len(send_all(locked, sent, check_session)) == 20
    publisher.close()

    worker = start_worker(settings.url, ["echo"], stock=True)

    until(lambda: len(worker.executions()) >= 20, 30)
    assert {task_id for task_id, _ in worker.executions()} == {message.id for message in sent}
    assert "ERROR" not in worker.logs()
