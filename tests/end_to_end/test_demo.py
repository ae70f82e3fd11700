"""The demo as a new user meets it: real repositories, real servers, a real worker; and what SIGKILL leaves of it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.demo import plan
from swh_sched_runner.demo.picture import Observer, Picture
from swh_sched_runner.embedded import directory
from swh_sched_runner.model import TaskRun
from tests.support.repositories import repository
from tests.support.wait import until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
# The demo leaves what is configured alone; these would fail at once.
CONFIGURED = {
    "SWH_SCHED_RUNNER_DATABASE__URL": "postgresql://nobody@127.0.0.1:1/nothing",
    "SWH_SCHED_RUNNER_BROKER__URL": "amqp://nobody@127.0.0.1:1//",
}


class Demo:
    """The program `demo`, to be killed and started again; ``log`` has what it said."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "data" / "demo"
        self.log = folder / "log"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self, *arguments: str, output: int | None = None, variables: Mapping[str, str] | None = None
    ) -> SchedulerBackend:
        """Start it, and wait until it is ready; ``output`` is a terminal to run on."""
        before = self._ready()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "PYTHONPATH": str(ROOT),
            "LC_ALL": "C.UTF-8",
        }
        command = [
            sys.executable,
            "-m",
            "swh_sched_runner",
            "--data-dir",
            str(self._folder / "data"),
            "demo",
            *arguments,
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=environment | dict(variables or {}),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log if output is None else output,
                stderr=log if output is None else output,
                start_new_session=True,
            )
        until(lambda: self._ready() > before or self.ended(), 40, what="the demo is ready")
        running = directory.running(self.home)
        assert running is not None, self.log.read_text()
        assert running.database_url is not None
        return SchedulerBackend(running.database_url)

    def _ready(self) -> int:
        """How many of its lives became ready; on a terminal it logs to a file of its own."""
        logs = [file.read_text() for file in (self.log, self.home / "demo.log") if file.exists()]
        return sum(log.count("event=ready") for log in logs)

    def ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def freeze_tasks(self) -> None:
        """From now on the worker takes messages, but no task gets done."""
        assert self._process is not None
        for worker in psutil.Process(self._process.pid).children():
            if "worker" in worker.cmdline():
                for child in worker.children():
                    child.suspend()

    def kill(self) -> None:
        """SIGKILL the program and all that it started, as when the machine dies."""
        if self._process is None or self.ended():
            return
        try:
            victims = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for victim in victims:
            if victim.is_running():
                victim.kill()
        self._process.wait()

    def stop(self) -> int:
        """Ask it to stop; its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(40)


class Terminal:
    """A terminal to run on; ``text`` is all that was written on it."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        self._written = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        return self._written.decode(errors="replace")

    def close(self) -> None:
        os.close(self.theirs)
        self._reader.join(5)
        os.close(self._ours)

    def _read(self) -> None:
        try:
            while data := os.read(self._ours, 65_536):
                self._written += data
        except OSError:  # the other end was closed
            return


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path)
    yield demo
    demo.kill()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def runs(backend: SchedulerBackend) -> Sequence[TaskRun]:
    return backend.get_task_runs(task["id"] for task in backend.search_tasks(task_type=plan.LIST_TYPE))


def unended(backend: SchedulerBackend, seconds: float = 0.0) -> set[int]:
    """The runs without an end that were dispatched so long ago."""
    before = datetime.now(UTC) - timedelta(seconds=seconds)
    return {
        run["id"] for run in runs(backend) if run["ended"] is None and run["scheduled"] and run["scheduled"] <= before
    }


def visited(backend: SchedulerBackend) -> list[str]:
    urls = [origin.url for origin in backend.get_listed_origins(enabled=None).results]
    return [entry.url for entry in backend.origin_visit_stats_get((url, "git") for url in urls) if entry.last_visit]


def moved_both_ways(picture: Picture) -> bool:
    steps = [step for listing in picture.listings for step in pairwise(listing.intervals)]
    return any(after < before for before, after in steps) and any(after > before for before, after in steps)


def test_the_demo_shows_it_all_and_goes_on_after_sigkill_with_every_run_ended(demo: Demo, terminal: Terminal) -> None:
    with demo.start(variables=CONFIGURED) as backend:
        observer = Observer(backend, plan.samples(demo.home / "forges"), depth=lambda queue: 0)
        until(lambda: sum(observer.look().origins.values()) == 12, 40, what="a dozen repositories are listed")
        until(lambda: {"eventful", "uneventful", "failed"} <= {*observer.look().visits}, 40, what="all kinds of visits")
        until(lambda: moved_both_ways(observer.look()), 40, what="intervals move both ways")
        demo.freeze_tasks()
        killed_in_flight = until(lambda: unended(backend, 1.0), 40, what="a worker has a run in hand")
        demo.kill()

    with demo.start(output=terminal.theirs, variables={"TERM": "xterm"}) as backend:
        assert {run["id"] for run in runs(backend)} >= killed_in_flight
        until(lambda: not unended(backend) & killed_in_flight, 40, what="runs of the first life end")
        until(lambda: "origins by last visit" in terminal.text and "busy/" in terminal.text, 40, what="it is shown")

    assert demo.stop() == 0
    until(lambda: "Stopped. The same command continues from here" in terminal.text)
    assert f"--config {demo.home / 'config.toml'} status" in demo.log.read_text().replace(
        "~", str(demo.home.parents[1])
    )
    assert not directory.workers_alive(demo.home)
    assert directory.running(demo.home) is None


def test_the_demo_visits_only_what_is_named_and_stops_after_the_given_time(demo: Demo, tmp_path: Path) -> None:
    one = repository(tmp_path / "mine" / "one")

    with demo.start("mine") as backend:
        until(lambda: visited(backend) == [one.as_uri()], 40)
    assert demo.stop() == 0
    demo.start("mine", "--for", "1").close()
    until(demo.ended, 40)

    assert demo.stop() == 0
    assert not (demo.home / "forges").exists()
    assert demo.log.read_text().count('event="demo stopped"') == 2


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("no-such-directory", "is neither a directory nor a URL"),
        ("git@example.org:x", "is neither a directory nor a URL"),
        ("ext::x://y", "it must start with one of file://"),
        ("https://me:secret@example.org/x", "URLs must not contain passwords"),
    ],
)
def test_an_argument_that_is_no_source_is_wrong_usage(tmp_path: Path, argument: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "swh_sched_runner", "--data-dir", str(tmp_path / "data"), "demo", argument],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 64
    assert said in done.stderr
    assert not (tmp_path / "data").exists()
