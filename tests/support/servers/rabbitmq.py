"""A private RabbitMQ node: own ports, own epmd, own folders; nothing of the system's service is touched."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

from swh_sched_runner.embedded import process

BINARIES = Path("/usr/lib/rabbitmq/bin")
START_SECONDS = 60.0
EPMD = shutil.which("epmd")


def missing() -> str | None:
    """Why no private node can be started on this machine, or None."""
    if not (BINARIES / "rabbitmq-server").exists() or EPMD is None:
        return "RabbitMQ is not installed (apt install rabbitmq-server), and TEST_AMQP_URL is not set"
    return None


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that were free just before, below the range of outgoing connections.

    By chance, so that test runs that start together hardly ever look at the same ones.
    """
    ports: list[int] = []
    for candidate in random.sample(range(20_000, 32_000), 1_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
        ports.append(candidate)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free ports")


class RabbitMQ:
    """A node in ``directory``. ``url(vhost)`` is for Celery, ``api`` the management interface.

    ``kill`` ends it as a crash does; ``start`` brings it back on the same ports with the same data. ``settings`` are
    further lines of its rabbitmq.conf.
    """

    def __init__(self, directory: Path, settings: str = "") -> None:
        self.directory = directory
        self._settings = settings
        self.log = directory / "rabbitmq.log"
        self.port, self._dist, self._epmd_port, self._api_port = free_ports(4)
        self._epmd: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._node is not None
        return self._node.pid

    @property
    def api_url(self) -> str:
        return f"http://guest:guest@127.0.0.1:{self._api_port}"

    def url(self, vhost: str = "/") -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def start(self) -> str:
        """Start the node (6 to 8 s) and return the URL of its default vhost."""
        process.private(self.directory)
        (self.directory / "plugins").write_text("[rabbitmq_management].\n")
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self._api_port}\n"
            # Readings of the management API as fresh as the tests need them.
            "collect_statistics_interval = 500\nmanagement_agent.disable_metrics_collector = false\n"
            f"vm_memory_high_watermark.relative = 0.5\ndisk_free_limit.absolute = 500MB\n{self._settings}"
        )
        start = process.fresh_log(self.log)
        if self._epmd is None:
            assert EPMD is not None
            # Ours and in the foreground: the one that Erlang starts by itself outlives the node.
            self._epmd = self._launch([EPMD, "-port", str(self._epmd_port), "-address", "127.0.0.1"])
        process.wait_until(lambda: _listens(self._epmd_port), 10)
        self._node = self._launch([str(BINARIES / "rabbitmq-server")])
        process.wait_until(lambda: self._node.poll() is not None or self._ready(), START_SECONDS)
        if not self._ready():
            self.stop()
            raise RuntimeError(f"RabbitMQ does not start: {process.tail(self.log, start, 15)}")
        return self.url()

    def stop(self) -> None:
        """End the node and its epmd; nobody will need the data again."""
        self.kill()
        if self._epmd is not None:
            process.end(self._epmd, (signal.SIGTERM, 5.0))
            self._epmd = None

    def kill(self) -> None:
        """SIGKILL the node."""
        if self._node is not None:
            self._node.kill()
            self._node.wait()
            self._node = None

    def terminate(self) -> None:
        """SIGTERM: an orderly end (6 s)."""
        assert self._node is not None
        process.end(self._node, (signal.SIGTERM, 30.0))
        self._node = None

    def add_vhost(self, name: str) -> str:
        """Make a vhost and return its URL."""
        self.api("PUT", f"/api/vhosts/{quote(name, safe='')}", {})
        return self.url(name)

    def delete_vhost(self, name: str) -> None:
        self.api("DELETE", f"/api/vhosts/{quote(name, safe='')}")

    def api(self, method: str, path: str, body: object | None = None) -> object:
        """Call the management API and return what it answers."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._api_port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": "Basic " + base64.b64encode(b"guest:guest").decode(),
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def control(self, *command: str) -> None:
        """Run a command of rabbitmqctl (about a second)."""
        environment = os.environ | self._environment()
        subprocess.run([BINARIES / "rabbitmqctl", *command], env=environment, check=True, capture_output=True)

    def _launch(self, command: list[str]) -> subprocess.Popen[bytes]:
        return process.launch(
            command, log=self.log, death_signal=signal.SIGKILL, environment=os.environ | self._environment()
        )

    def _environment(self) -> dict[str, str]:
        folder = str(self.directory)
        return {
            "HOME": folder,  # the Erlang cookie
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._dist),
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_LOG_BASE": f"{folder}/logs",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "detached": "true",  # the script then becomes the node instead of waiting for it in a shell
        }

    def _ready(self) -> bool:
        try:
            self.api("GET", "/api/health/checks/local-alarms")
        except (OSError, urllib.error.URLError):
            return False
        return _listens(self.port)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0
