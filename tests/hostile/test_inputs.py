"""What comes in by configuration and by URLs: no secret gets out, and every error is orderly."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.broker.celery.app import connect as connect_broker
from swh_sched_runner.broker.celery.app import create_app, kind_of
from swh_sched_runner.cli import logs
from swh_sched_runner.config import BrokerSettings, load, log_format, mask, shown
from swh_sched_runner.exc import ConfigurationError, InvalidArgument
from tests.support.processes.programs import Programs
from tests.support.servers.proxy import Proxy
from tests.support.sources import CHECKOUT

pytestmark = pytest.mark.slow

MEGABYTE = 1_000_000
PREFIX = "SWH_SCHED_RUNNER_"

# 16: secrets


@pytest.mark.parametrize(
    "piece",
    [
        "://", "@", ":", "a://", "a://u:", "://u:p ", "a://u:p@h ", "a://u:p@h;", "://[:x ", "a://@:@",
        "password=", "password= ", "password =", "password", "passwd='", "password=\\", "'password': ", "secret=x&",
        "a", "a=", "a ", "aA+.-", "_", " ", "\n", "\t \n", "=", "'", "\\", "\\'", '"', "%", "é", "\0", "\ud800",
    ],
)  # fmt: skip
def test_masking_takes_time_in_proportion_to_the_text_whatever_is_in_it(piece: str) -> None:
    texts = [piece * (MEGABYTE // len(piece))]
    texts += [f"amqp://u:{texts[0]}", f"password='{texts[0]}", f"{texts[0]}@", f"postgresql://u:p{texts[0]}@h"]
    for text in texts:
        spent = []
        for _ in range(3):  # the machine may have other work
            began = time.process_time()
            mask(text)
            spent.append(time.process_time() - began)
            if spent[-1] < 1:
                break
        assert min(spent) < 1


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("postgresql://u:hid/den@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:hid den@h/db", "postgresql://u:***@h/db"),
        ("amqp://a/b:hidden@h", "amqp://a/b:***@h"),
        ("can't reach amqp://u:hidden and", "can't reach amqp://u:*** and"),
        ("password=hid'den x", "password=*** x"),
        ("password=hid\\ den x", "password=*** x"),
        ("password=hid&den x", "password=*** x"),
        ("password='hid den", "password=***"),
        ("{'password': 'hid den', 'a': 1}", "{'password': *** 'a': 1}"),
        ("sslpassword = hidden", "sslpassword = ***"),
        ("http://127.0.0.1:9461/metrics, see there", "http://127.0.0.1:9461/metrics, see there"),
        ("[::1] is http://[::1]:9461/", "[::1] is http://[::1]:9461/"),
    ],
)
def test_what_may_be_a_password_is_hidden(text: str, hidden: str) -> None:
    assert mask(text) == hidden


# Long enough to be no part of another word by chance, and with all that means something in a URL.
PASSWORDS = st.text(
    st.sampled_from("/@:#?%&=;,[] '\\\"\n\t+!$*()é℀0123456789") | st.characters(exclude_categories=("Cs",)),
    min_size=0,
    max_size=6,
).map(lambda odd: f"Zq7{odd}Xj9")
WITH_PASSWORD: dict[str, tuple[str, ...]] = {
    "database.url": (
        "postgresql://u:{}@h/db",
        "postgresql://u:{}@h:x/db",
        "postgresql://u:{}@127.0.0.1:1/db",
        "postgres:/u:{}@h",
        "mysql://u:{}@h/db",
        "postgresql://u/b:{}@h",
        "postgresql:///db?password={}",
        "postgresql:///db?pasword={}",
        "host=h password={} port=x",
        "host=h password='{}'",
        "host=h pasword={}",
        "u:{}@h",
        "{}",
    ),
    "broker.url": (
        "amqp://u:{}@h//",
        "amqp://u:{}@h:x//",
        "amqp://u:{}@127.0.0.1:1//",
        "redis://:{}@h/x",
        "redis://h?password={}",
        "redis://:{}@h/0;redis://u:{}@h:x/0",
        "sentinel://:{}@h",
        "rediss://:{}@h/0?ssl_cert_reqs=x",
        "ampq://u:{}@h",
        "redis+socket://:{}@/x?virtual_host=x",
        "u:{}@h",
    ),
    "broker.result_backend": ("redis://:{}@h:x/0", "u:{}@h"),
}
URLS = [(key, url) for key, urls in WITH_PASSWORD.items() for url in urls]


def parts_of(password: str) -> set[str]:
    """What must not be read anywhere: the marks at its ends, and so whatever lies between them."""
    return {"Zq7", "Xj9", password}


@settings(max_examples=300)
@given(st.sampled_from(URLS), PASSWORDS, st.booleans())
def test_no_password_is_read_in_an_error_or_in_shown_settings(
    place: tuple[str, str], password: str, quoted: bool
) -> None:
    key, template = place
    section = f"{key.partition('.')[0]}."
    value = template.replace("{}", quote(password, safe="") if quoted else password)
    said = []
    for environ, flags in (({PREFIX + key.upper().replace(".", "__"): value}, {}), ({}, {key: value})):
        try:
            found = load(Path(os.devnull), environ, flags)
            said.append(json.dumps(shown(found)) + repr(shown(found)))
            create_app(found.broker)
        except ConfigurationError as error:
            said.append(str(error) if section in str(error) else f"{key} is not named: Zq7")
    for make in (lambda: SchedulerBackend(value), lambda: create_app(BrokerSettings(url=value))):
        try:
            made = make()
            if isinstance(made, SchedulerBackend):
                made.close()
        except (InvalidArgument, ConfigurationError) as error:
            said.append(str(error))
    assert [text for text in said if any(part in text for part in parts_of(password))] == []


@settings(max_examples=60)
@given(st.sampled_from([url for _, url in URLS]), PASSWORDS)
def test_no_password_is_read_in_the_log(template: str, password: str) -> None:
    url = template.replace("{}", password)
    stream = io.StringIO()
    logs.configure("json", "debug", stream)
    try:
        logs.log.warning("can't use it", url=url, error=ValueError(f"can't use {url!r}"))
    finally:
        logs.configure()

    # A bare value can't be told from any word, and what is broken off by a blank is known as far as that.
    if "://" in template and "pasword" not in template and not any(mark.isspace() for mark in url):
        assert "Zq7" not in stream.getvalue()


# 17: broker URLs, exit status, logs for programs

BAD_BROKERS: list[dict[str, Any]] = [
    {"url": "amqp://u:hidden@h:x//"},
    {"url": "amqp://u:hidden@h:99999//"},
    {"url": "amqp://u:hidden@h:0//"},
    {"url": "amqp://u:hidden@h:-1//"},
    {"url": "amqp://u:hidden@h//?nonsense=1"},
    {"url": "amqp://u:hidden@h//?heartbeat=x"},
    {"url": "amqp://u:hidden@h//?login_method=x"},
    {"url": "amqp://u:hidden@h//?&"},
    {"url": "amqp://u:hidden@"},
    {"url": "amqp://u:hidden@h/" + "v" * 300},
    {"url": "amqp://u:hid%zz@h//"},
    {"url": "amqp://u:hid%00den@h//"},
    {"url": "amqp://u:hidden@h,i//"},
    {"url": "amqp://u:hidden@[::1//"},
    {"url": "amqp://u:hidden@a..b//"},
    {"url": "amqp://u:hidden@h//;amqp://u:hidden@i:x//"},
    {"url": "amqp://u:hidden@h//;i"},
    {"url": "amqp://u:hidden@h//;"},
    {"url": "amqp://u:hidden@h//;redis://:hidden@h"},
    {"url": "ampq://u:hidden@h"},
    {"url": "sqs://"},
    {"url": "redis://h?password=hidden"},
    {"url": "redis://:hidden@h/x"},
    {"url": "redis://:hidden@h/0/1"},
    {"url": "redis://:hidden@h:x/0"},
    {"url": "redis://:hidden@h/0?socket_timeout=x"},
    {"url": "rediss://:hidden@h/0?ssl_cert_reqs=x"},
    {"url": "rediss://:hidden@h/0?ssl_ca_certs=/nonexistent"},
    {"url": "redis+socket://"},
    {"url": "redis+socket:///x?virtual_host=x"},
    {"url": "sentinel://:hidden@h:26379"},
    {"url": "sentinel://:hidden@h:26379;sentinel://:hidden@i:x", "transport_options": {"master_name": "m"}},
    {"url": "sentinel://h", "transport_options": {"master_name": "m", "sentinel_kwargs": 3}},
    {"url": "amqp://u:hidden@{amqp}", "transport_options": {"socket_settings": 1}},
    {"url": "amqp://u:hidden@{amqp}", "transport_options": {"login_method": "x"}},
    {"url": "amqp://u:hidden@{amqp}", "transport_options": {"read_timeout": "x"}},
    {"url": "amqp://u:hidden@{amqp}", "transport_options": {"client_properties": 3}},
    {"url": "{redis}", "transport_options": {"socket_timeout": "x"}},
    {"url": "{redis}", "transport_options": {"max_connections": "x"}},
    {"url": "{redis}", "transport_options": {"queue_order_strategy": "x"}},
    {"url": "{redis}", "transport_options": {"health_check_interval": "x"}},
    {"url": "amqps://u:hidden@{amqp}", "ssl": {"cert_reqs": "maybe"}},
    {"url": "amqps://u:hidden@{amqp}", "ssl": {"cert_reqs": 7}},
    {"url": "amqps://u:hidden@{amqp}", "ssl": {"ca_certs": "/nonexistent"}},
    {"url": "amqps://u:hidden@{amqp}", "ssl": {"ca_certs": "/etc/passwd"}},
    {"url": "amqps://u:hidden@{amqp}", "ssl": {"ca_certs": 3}},
    {"url": "amqps://u:hidden@{amqp}", "ssl": {"certfile": "/etc/passwd"}},
    {"url": "amqps://u:hidden@{amqp}", "ssl": {"ciphers": "x"}},
    {"url": "amqps://u:hidden@{amqp}", "ssl": {"nonsense": 1}},
    {"url": "rediss://:hidden@{amqp}", "ssl": {"nonsense": 1}},
]  # fmt: skip


@pytest.fixture(scope="module")
def answering_port() -> Iterator[int]:
    """Where connections are accepted: what is wrong with the options of one comes to light there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        stop = threading.Event()

        def accept() -> None:
            with ExitStack() as stack:
                while not stop.is_set():
                    with contextlib.suppress(OSError):
                        stack.enter_context(listener.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])
        stop.set()


def use_broker(values: dict[str, Any]) -> None:
    app = create_app(load(Path(os.devnull), {}, values).broker)
    kind_of(app)
    connect_broker(app).release()


@pytest.mark.parametrize("broker", BAD_BROKERS, ids=str)
def test_a_broker_that_is_wrongly_configured_is_named_and_its_password_is_not(
    broker: dict[str, Any], answering_port: int, valkey_url: str
) -> None:
    # given
    proxy = Proxy(valkey_url)
    url = broker["url"].replace("{amqp}", f"127.0.0.1:{answering_port}").replace("{redis}", proxy.url)
    values = {f"broker.{key}": value for key, value in broker.items() if key != "url"} | {"broker.url": url}
    # when
    with pytest.raises(ConfigurationError) as caught:
        use_broker(values)
    proxy.stop()
    # then
    assert any(f"broker.{key}" in str(caught.value) for key in ("url", "transport_options", "ssl"))
    assert "hid" not in str(caught.value)


BAD_DATABASES = [
    "postgresql://u:hidden@h:x/db",
    "postgresql://u:hid/den@h/db",
    "postgresql://u:hid@den@h/db",
    "postgresql://u:hid den@h/db",
    "postgresql://u:hid%zz@h/db",
    "postgresql://u:hid/12#den@h/db",
    "postgresql://u:hidden@h/db?sslmod=require",
    "postgresql://u:hidden@h/db?sslmode=hidden",
    "postgresql://u:hidden@h/db?connect_timeout=1s",
    "postgresql://u:hidden@h/db?hidden",
    "postgresql:///db?password=hid&den=x",
    "host=h password=hid den",
    "host=h password='hidden",
    "host=h port=hidden",
    "hidden",
    "mysql://u:hidden@h",
]


@pytest.mark.parametrize("url", BAD_DATABASES)
def test_a_database_that_is_wrongly_configured_is_named_and_its_password_is_not(url: str, tmp_path: Path) -> None:
    done = Programs(tmp_path, {f"{PREFIX}DATABASE__URL": url}).run("task", "list")

    assert done.returncode == 78
    assert done.stderr.startswith("swh-sched-runner: database.url ")
    assert done.stderr.count("\n") == 1
    assert "hid" not in done.stderr
    with pytest.raises(InvalidArgument) as caught:
        SchedulerBackend(url)
    assert "hid" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nonsense": "hidden"}, "database.options contains options unknown to libpq: nonsense"),
        ({"sslmode": "hidden"}, "database.options needs one of disable"),
        ({"port": "hidden"}, "database.options has a port that is not a number"),
        ({"connect_timeout": "hidden"}, "database.options needs a whole number for connect_timeout"),
        ({"user": "a\0b"}, "database.options.user must be UTF-8 without NUL"),
    ],
)
def test_an_option_that_libpq_does_not_take_is_named(options: dict[str, str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[database]\nurl = 'postgresql:///db'\noptions = " + toml(options))

    done = Programs(tmp_path, {}).run("--config", str(file), "task", "list")

    assert done.returncode == 78
    assert done.stderr.startswith(f"swh-sched-runner: {message}")
    assert "hidden" not in done.stderr


def toml(table: dict[str, str]) -> str:
    return "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + "}"


# What a program that ends says on stderr where the log is for programs: every line of it, whatever ends it.


def lines_of(stderr: str) -> list[dict[str, Any]]:
    """Each line as an object; fails the test for a line that is none."""
    found = [json.loads(line) for line in stderr.splitlines()]
    assert all(isinstance(line, dict) and {"timestamp", "level", "event"} <= line.keys() for line in found)
    return found


ENDS: list[tuple[int, list[str], dict[str, str], str]] = [
    (64, ["tsk"], {}, "No such command 'tsk'"),
    (64, ["task", "list", "--nonsense"], {}, "No such option"),
    (64, ["task", "list", "--limit", "x"], {}, "--limit"),
    (78, ["visits"], {}, "no visit types are configured"),
    (64, ["--nonsense", "task", "list"], {}, "No such option"),
    (1, ["task", "add", "nosuch"], {}, "no task type 'nosuch'"),
    (69, ["task", "list"], {"DATABASE__URL": "postgresql://u:hidden@127.0.0.1:{closed}/db"}, "can't be reached"),
    (69, ["run"], {"DATABASE__URL": "postgresql://u:hidden@127.0.0.1:{closed}/db"}, "can't be reached"),
    (69, ["task", "list"], {"DATABASE__URL": ""}, "nothing runs in"),
    (78, ["task", "list"], {"DATABASE__URL": "postgresql://u:hid/den@h/db"}, "database.url"),
    (78, ["run"], {"BROKER__URL": "amqp://u:hidden@h:x"}, "broker.url"),
    (78, ["listen"], {"BROKER__URL": "redis://h?password=hidden"}, "broker.url"),
    (78, ["run"], {"WEB__HOST": "192.0.2.1", "WEB__PORT": "9461"}, "web.host"),
    (78, ["run"], {"RUNNER__PERID": "1"}, "runner.perid"),
    (78, ["run"], {"DATABASE__PASSWORD_FILE": "/nonexistent"}, "database.password_file"),
]


@pytest.mark.parametrize(("status", "arguments", "variables", "said"), ENDS, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("place", ["option", "environment", "file"])
def test_the_end_of_a_program_is_a_line_of_the_log_where_that_is_for_programs(
    status: int,
    arguments: list[str],
    variables: dict[str, str],
    said: str,
    place: str,
    database_url: str,
    valkey_url: str,
    tmp_path: Path,
) -> None:
    # given
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    given = {"DATABASE__URL": database_url, "BROKER__URL": valkey_url} | variables
    programs = Programs(tmp_path, {PREFIX + name: value.format(closed=port) for name, value in given.items()})
    if place == "option":
        arguments = ["--log-format", "json", *arguments]
    elif place == "environment":
        programs.environment[f"{PREFIX}LOG__FORMAT"] = "json"
    else:
        (tmp_path / "config.toml").write_text('[log]\nformat = "json"\n')
        arguments = ["--config", str(tmp_path / "config.toml"), *arguments]
    # when
    done = programs.run(*arguments)
    # then
    assert (done.returncode, done.stdout) == (status, "")
    last = lines_of(done.stderr)[-1]
    assert (last["event"], last["level"], last["exit_status"]) == ("ended with an error", "critical", status)
    assert said in last["reason"]
    assert "hid" not in done.stderr


def test_a_file_that_can_not_be_read_is_told_in_the_format_of_the_environment(tmp_path: Path) -> None:
    done = Programs(tmp_path, {f"{PREFIX}LOG__FORMAT": "json"}).run("--config", "/nonexistent", "run")

    assert done.returncode == 78
    assert "/nonexistent" in lines_of(done.stderr)[-1]["reason"]


def test_a_level_does_not_hide_why_the_program_ended(tmp_path: Path) -> None:
    done = Programs(tmp_path, {}).run("--log-format", "json", "--log-level", "critical", "task", "list")

    assert done.returncode == 69
    assert [line["exit_status"] for line in lines_of(done.stderr)] == [69]


def message(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("!i", len(content) + 4) + content


def said_by_postgresql(kind: bytes, severity: bytes, text: bytes) -> bytes:
    fields = ((b"S", severity), (b"V", severity), (b"C", b"57P01"), (b"M", text))
    return message(kind, b"".join(key + value + b"\0" for key, value in fields) + b"\0")


@pytest.fixture
def ending_server() -> Iterator[int]:
    """The port of a server that lets a client in, tells it that its session is ended, and ends it."""
    parameters = {b"client_encoding": b"UTF8", b"server_version": b"16.0", b"DateStyle": b"ISO, MDY"}
    welcome = message(b"R", struct.pack("!i", 0)) + said_by_postgresql(b"N", b"WARNING", b"a notice, password=hidden")
    welcome += b"".join(message(b"S", key + b"\0" + value + b"\0") for key, value in parameters.items())
    welcome += message(b"K", struct.pack("!ii", 1, 2)) + message(b"Z", b"I")
    welcome += said_by_postgresql(b"E", b"FATAL", b"terminating connection due to administrator command")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        while client.recv(4)[:4] == struct.pack("!i", 8):  # asks for TLS or GSSAPI
                            client.recv(4)
                            client.sendall(b"N")
                        client.recv(65_536)
                        client.sendall(welcome)
                        client.shutdown(socket.SHUT_WR)
                        client.recv(65_536)

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def test_what_libpq_prints_by_itself_is_a_line_of_the_log(ending_server: int, tmp_path: Path) -> None:
    url = f"postgresql://u:hidden@127.0.0.1:{ending_server}/db"

    done = Programs(tmp_path, {f"{PREFIX}DATABASE__URL": url}).run("--log-format", "json", "task", "list")

    found = lines_of(done.stderr)
    printed = [line["text"] for line in found if line["event"] == "printed to stderr"]
    assert done.returncode == 69
    assert "FATAL:  terminating connection due to administrator command" in printed
    assert "WARNING:  a notice, password=***" in printed
    assert [line["exit_status"] for line in found if "exit_status" in line] == [69]  # the pipe is read beside it


def test_exceptions_that_nobody_catches_are_lines_of_the_log(tmp_path: Path) -> None:
    program = """
import os, sys, threading
from swh_sched_runner.cli import logs

logs.own_process()
logs.configure("json")

class Broken:
    def __del__(self):
        raise RuntimeError("in __del__")

Broken()
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
os.write(2, b"by a library\\n" * 3 + b"the last, without an end")
print("by Python", file=sys.stderr)
logs.log.info("odd", value={(1, 2): float("nan")}, other="\\ud800")
raise ValueError("at the end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=CHECKOUT, timeout=60)

    found = lines_of(done.stderr)
    assert done.returncode == 1
    assert [line["exception"].rsplit(maxsplit=3)[-1] for line in found if "exception" in line] == [
        "__del__", "zero", "end",
    ]  # fmt: skip
    printed = [line["text"] for line in found if line["event"] == "printed to stderr"]
    assert printed == ["by a library"] * 3 + ["the last, without an endby Python"]


def test_a_flood_on_stderr_neither_blocks_nor_ends_the_program(tmp_path: Path) -> None:
    program = """
import os
from swh_sched_runner.cli import logs

logs.own_process()
logs.configure("json")
for _ in range(200):
    os.write(2, b"x" * 100_000)
os.write(2, b"\\nlast\\n")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=CHECKOUT, timeout=60)

    assert done.returncode == 0
    assert lines_of(done.stderr)[-1]["text"] == "last"


# Rubbish in files, variables and arguments: never a traceback, a documented status, and the thing is named.

FILES: list[tuple[bytes, str]] = [
    (b"\xff\xfe", "is not TOML"),
    (b"a = '\0'", "is not TOML"),
    (b"[" * 100_000, "is not TOML"),
    (b"a = " + b"[" * 100_000, "is not TOML"),
    (b"a = " + b"{a=" * 100_000, "is not TOML"),
    (b"a." * 500 + b"a = 1", "unknown option a"),
    (b"[web]\nport = " + b"[" * 150 + b"]" * 150, "web.port must be a whole number"),
    (b"[web]\nport = " + b"9" * 5000, "is not TOML"),
    (b"[web]\nhost = 7", "web.host must be a string"),
    (b'[web]\nhost = "a\\u0000b"', "web.host must be UTF-8 without NUL"),
    (b"[[web]]", "web must be a table"),
    (b"[runner]\ntask_types = {a = 1}", "runner.task_types must be a list"),
    (b"[runner]\nperiod_seconds = nan", "runner.period_seconds must be a number"),
    (b"[runner]\nbatch_size = 1979-05-27", "runner.batch_size must be a whole number"),
    (b"[broker.transport_options]\na = " + b"[" * 100 + b"]" * 100, "broker.transport_options.a is nested deeper"),
    (b'[broker.transport_options]\na = ["\\u0000"]', "broker.transport_options.a must be UTF-8 without NUL"),
    (b'[broker.transport_options]\na = [{"\\u0000" = 1}]', "broker.transport_options.a must be UTF-8 without NUL"),
    (b'[broker]\npriority_queue = "{backend_name:999999999999}"', "broker.priority_queue must contain"),
    (b'[broker]\npriority_queue = "{backend_name.__class__}"', "broker.priority_queue must contain"),
    (b'[log]\nlevel = "' + b"x" * 900_000 + b'"', "log.level must be one of"),
    (b"#" * 1_000_001, "is not TOML: it is larger than"),
]


@pytest.mark.parametrize(("content", "said"), FILES, ids=lambda value: str(value)[:40])
def test_a_file_of_rubbish_is_refused_in_one_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)

    with pytest.raises(ConfigurationError) as caught:
        load(file, {}, {})

    assert said in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert log_format(file, {"SWH_SCHED_RUNNER_LOG__FORMAT": "json"}, {}) == "json"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("LOG__LEVEL", "\udcff", "log.level must be UTF-8"),
        ("DATABASE__URL", "postgresql:///\udcff", "database.url must be UTF-8"),
        ("BROKER__QUEUES", "[" * 100_000, "broker.queues must be a table"),
        ("BROKER__QUEUES", '{"a":' * 20_000, "broker.queues must be a table"),
        ("BROKER__TRANSPORT_OPTIONS", "{a=" * 2000 + "1" + "}" * 2000, "broker.transport_options must be a table"),
        ("BROKER__TRANSPORT_OPTIONS", '{"a":' * 100 + "1" + "}" * 100, "broker.transport_options.a is nested deeper"),
        ("BROKER__TRANSPORT_OPTIONS__A", '["\\u0000"]', "broker.transport_options.a must be UTF-8"),
        ("BROKER__TRANSPORT_OPTIONS" + "__A" * 2000, "1", "unknown option broker.transport_options.a"),
        ("RUNNER__BATCH_SIZE", "9" * 5000, "runner.batch_size must be a whole number"),
        ("RUNNER__TASK_TYPES", "9" * 5000, "runner.task_types must be a list"),
        ("", "1", "unknown option"),
        ("__", "1", "unknown option"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_variable_of_rubbish_is_refused_in_one_sentence(variable: str, value: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(Path(os.devnull), {PREFIX + variable: value}, {})

    assert said in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "said"),
    [
        (["task", "list", "--type", "\udcff"], {}, 64, "arguments must be UTF-8"),
        (["task", "add", "t", "a=\udcff"], {}, 64, "arguments must be UTF-8"),
        (["\udcff"], {}, 64, "arguments must be UTF-8"),
        (["--config", "/dev/zero", "task", "list"], {}, 78, "/dev/zero"),
        (["--config", "/", "task", "list"], {}, 78, "can't read the configuration /: Is a directory"),
        (["--config", "x" * 5000, "task", "list"], {}, 78, "File name too long"),
        (["--data-dir", "~nosuch/x", "task", "list"], {}, 78, "~nosuch/x can't be the data directory"),
        (["--data-dir", "x" * 5000, "task", "list"], {}, 78, "File name too long"),
        (["task", "list"], {"DATABASE__PASSWORD_FILE": "/dev/zero"}, 78, "database.password_file"),
        (["config", "show"], {"DATA_DIRECTORY": "\udcff"}, 78, "data_directory must be UTF-8"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_rubbish_in_arguments_ends_with_a_status_that_is_documented(
    arguments: list[str], variables: dict[str, str], status: int, said: str, tmp_path: Path
) -> None:
    done = Programs(tmp_path, {PREFIX + name: value for name, value in variables.items()}).run(*arguments)

    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
