"""What ``demo`` does: all services at work on real git repositories, on private servers, in the terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import click
import structlog
from rich.console import Console

from swh_sched_runner.cli import logs, web
from swh_sched_runner.cli.assembly import factories
from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.private import recover_open_runs, servers
from swh_sched_runner.config import LogSettings
from swh_sched_runner.demo import forges, git, picture, plan, screen, tasks
from swh_sched_runner.demo.plan import Source
from swh_sched_runner.embedded import directory, process
from swh_sched_runner.embedded.directory import Servers
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.service import Service
from swh_sched_runner.services.supervisor import Supervisor

# The last demo's workers were told to end with it.
PATIENCE_SECONDS = 5.0
WARM_SHUTDOWN_SECONDS = 30.0
# A worker that can't start at all is not started again at once.
RESTART_SECONDS = 5.0
CONCURRENCY = 3

log = structlog.get_logger(__name__)


def start(context: Context, sources: Sequence[str], run_seconds: float | None, web_port: int | None) -> None:
    """See ``demo``."""
    if shutil.which("git") is None:
        raise click.ClickException("git is not installed: apt install git")
    given = list(dict.fromkeys(_source(text) for text in sources))
    home = context.data_directory / "demo"
    directory.prepare(home)
    with directory.usable(home):
        _write(home / "config.toml", plan.configuration(home, own=bool(given)))
    Demo(home, given, context.settings.log, web_port, _next_step(context, home)).run(run_seconds)


class Demo:
    """One run of the demo in ``home``; without ``given`` sources on samples of its own."""

    def __init__(
        self, home: Path, given: Sequence[Source], log_settings: LogSettings, web_port: int | None, next_step: str
    ) -> None:
        self._home = home
        self._given = given
        self._web_port = web_port
        self._next_step = next_step
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._samples = home / "forges"
        # Neither the environment nor another file has a say in the demo.
        flags = {"log.format": log_settings.format, "log.level": log_settings.level, "web.port": web_port}
        self._context = Context(home / "config.toml", flags, environ={})

    def run(self, run_seconds: float | None) -> None:
        """Run until told to stop, or for so long."""
        on_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        with ExitStack() as stack:
            stack.callback(self._context.close)
            settings = self._context.settings  # which sends logs to stderr, so it comes first
            if on_terminal:
                stack.enter_context(_logs_to(self._home / "demo.log", settings.log))
                click.echo(f"Starting PostgreSQL, a broker and a worker for the demo, in {_shown(self._home)}")
            private = stack.enter_context(servers(self._context, PATIENCE_SECONDS))
            assert private is not None
            self._attend(private, on_terminal, run_seconds)
            if on_terminal:
                click.echo("Stopping: the current tasks are finished first")
        if on_terminal:
            click.echo(f"Stopped. The same command continues from here; all data is in {_shown(self._home)}")
            click.echo("Next: your own repositories, demo DIRECTORY_OR_URL; your own tasks, README.md")
        else:
            log.info("demo stopped", directory=str(self._home), next="the same command continues from here")

    def _attend(self, private: Servers, on_terminal: bool, run_seconds: float | None) -> None:
        with ExitStack() as stack:
            sources = self._given or self._make_samples()
            plan.prepare(self._context.backend, sources)
            recover = partial(recover_open_runs, self._context, PATIENCE_SECONDS)
            worker = stack.enter_context(Worker(self._home, private, recover))
            queues = stack.enter_context(self._context.open_queues())
            observer = picture.Observer(self._context.backend, sources, queues.depth)
            instruments = Instruments()
            services = dict(factories(self._context, instruments))
            if not self._given:
                until = self._began + forges.COMMITTING_SECONDS
                services["commits"] = lambda: forges.Commits(self._samples, until)
            if on_terminal:
                services["screen"] = stack.enter_context(self._screen(observer))
            else:
                services["summary"] = lambda: screen.Summary(observer)
                log.info("demo runs", directory=str(self._home), sources=len(sources), next=self._next_step)
            if run_seconds is not None:
                timer = threading.Timer(run_seconds, self._stop.set)
                timer.daemon = True
                timer.start()
                stack.callback(timer.cancel)

            def maintain() -> None:
                private.revive()
                worker.revive()

            supervisor = Supervisor(services, self._stop, maintain)
            stack.enter_context(web.answering(self._context, "demo", supervisor, instruments))
            supervisor.run()

    def _make_samples(self) -> list[Source]:
        forges.make(self._samples)
        return plan.samples(self._samples)

    @contextmanager
    def _screen(self, observer: picture.Observer) -> Iterator[Callable[[], Service]]:
        """The terminal is the screen's; the last picture stays when it is left."""
        console = Console()
        footer = [
            "Ctrl-C stops, the same command continues. With your repositories: demo DIRECTORY",
            f"Next: README.md, and in another terminal {self._next_step}",
            f"Log: {_shown(self._home / 'demo.log')}",
        ]
        if self._web_port:
            footer.insert(2, f"Metrics: http://{self._context.settings.web.host}:{self._web_port}/metrics")
        with screen.live(console) as live:
            yield lambda: screen.Screen(observer, live, self._title, footer)
            last = live.renderable
        console.print(last)

    def _title(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        what = "your repositories: commit to one, and a visit will find it"
        if not self._given:
            left = self._began + forges.COMMITTING_SECONDS - time.monotonic()
            commits = f"commits are added for {left / 60:.0f} min" if left > 0 else "no more commits are added"
            what = f"12 repositories, 1 damaged on purpose, {commits}"
        return f"demo {minutes:02}:{seconds:02}   {what}"


class Worker:
    """A real Celery worker, in a process of its own that ends with this one; started again when it dies."""

    def __init__(self, home: Path, private: Servers, recover: Callable[[], None]) -> None:
        """``recover`` is called after a worker died, before the next one starts."""
        self._home = home
        self._log_file = home / "worker.log"
        self._private = private
        self._recover = recover
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    def start(self) -> None:
        """Start it. From the main thread only."""
        assert self._private.database_url is not None
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SWH_SCHED_RUNNER_")}
        package = str(Path(__file__).parents[2])
        environment = kept | {
            "SWH_SCHED_RUNNER_CONFIG": str(self._home / "config.toml"),
            "SWH_SCHED_RUNNER_DATABASE__URL": self._private.database_url,  # for the tasks
            "PYTHONPATH": os.pathsep.join(filter(None, [package, kept.get("PYTHONPATH")])),
        }
        command = [sys.executable, "-m", "swh_sched_runner", "worker", "start", "--include", tasks.__name__]
        command += ["--concurrency", str(CONCURRENCY), "--hostname", "demo@%h"]
        process.fresh_log(self._log_file)
        self._started = time.monotonic()
        # In a folder without modules: whatever lies in the user's would come before the installed ones.
        self._process = process.launch(
            command, log=self._log_file, death_signal=signal.SIGKILL, environment=environment, folder=self._home
        )

    def revive(self) -> None:
        """Start it again where it died, after its open runs were recovered."""
        if self._process is None or self._process.poll() is None or time.monotonic() < self._started + RESTART_SECONDS:
            return
        log.warning("worker died, restarting it", status=self._process.returncode, log=str(self._log_file))
        self._recover()
        self.start()

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            process.end(self._process, (signal.SIGTERM, WARM_SHUTDOWN_SECONDS))


def _source(text: str) -> Source:
    """What an argument names; a directory is told from a URL by its ``://``."""
    if "://" in text:
        why = git.problem(text)
        if why is not None:
            raise click.BadParameter(f"{text!r}: {why}", param_hint="DIRECTORY_OR_URL")
        path = git.local_path(text)
        if path is None:
            return Source(text, tells_last_update=False)
        text = str(path)
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise click.BadParameter(f"{text!r} is neither a directory nor a URL", param_hint="DIRECTORY_OR_URL")
    address = str(folder.resolve())
    if git.problem(address) is not None:
        raise click.BadParameter(
            f"{text!r} has a name with characters that can't be printed", param_hint="DIRECTORY_OR_URL"
        )
    return Source(address)


@contextmanager
def _logs_to(file: Path, settings: LogSettings) -> Iterator[None]:
    """Logs go to ``file`` while the terminal shows something else."""
    process.fresh_log(file)
    with file.open("a", encoding="utf-8") as stream:
        logs.configure(settings.format, settings.level, stream)
        try:
            yield
        finally:
            logs.configure(settings.format, settings.level)


def _write(file: Path, text: str) -> None:
    aside = file.with_name(file.name + ".new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(file)


def _next_step(context: Context, home: Path) -> str:
    """The command that looks at the demo from another terminal."""
    own = context.settings.database.url is None and context.settings.broker.url is None
    where = f"--data-dir {_shown(home)}" if own else f"--config {_shown(home / 'config.toml')}"
    return f"{_program()} {where} status"


def _program() -> str:
    """How this program was called, to be typed again."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m swh_sched_runner"
    found = shutil.which(called.name)
    if found is not None and Path(found).resolve() == called.resolve():
        return called.name
    called = called.absolute()
    return shlex.quote(str(called.relative_to(Path.cwd()) if called.is_relative_to(Path.cwd()) else called))


def _shown(path: Path) -> str:
    """A path to be read and typed by people."""
    try:
        return f"~/{shlex.quote(str(path.relative_to(Path.home())))}"
    except (ValueError, RuntimeError):
        return shlex.quote(str(path))
