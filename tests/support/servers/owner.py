"""A process of its own that runs the private servers of a directory: what tests start, kill and look at.

``python owner.py DIRECTORY [broker]`` (only the broker) prints one line of JSON when they are up, and ends by SIGTERM.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path

import structlog

from swh_sched_runner.embedded import directory

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the one line
with directory.servers(Path(sys.argv[1]), database="broker" not in sys.argv, broker=True) as servers:
    named = {"PostgreSQL": servers.postgres, "Valkey": servers.valkey}
    pids = {name: server.pid for name, server in named.items() if server is not None}
    told = {"database": servers.database_url, "broker": servers.broker_url, "pids": pids}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    stop.wait()
