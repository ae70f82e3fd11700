"""Programs of the benchmark leave nothing behind."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.sources import CHECKOUT
from tests.support.wait import until

pytestmark = pytest.mark.slow

BENCHMARK = """
import signal, sys
from pathlib import Path
from types import SimpleNamespace
from bench.dispatch_run import started

sleeper = [sys.executable, "-c", "import signal; signal.pause()"]
side = SimpleNamespace(
    name="ours", servers=SimpleNamespace(folder=Path(sys.argv[1])), url=str, runner=lambda url: (sleeper, {})
)
with started(side, "run") as runner:
    print(runner.pid, flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_benchmark_that_is_killed_ends_its_runner(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", BENCHMARK, str(tmp_path)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as benchmark:
        assert benchmark.stdout is not None
        runner = psutil.Process(int(benchmark.stdout.readline()))
        until(lambda: "signal.pause()" in " ".join(runner.cmdline()[-1:]), what="the runner runs")

        benchmark.send_signal(number)
        benchmark.wait()

    until(lambda: not runner.is_running() or runner.status() == psutil.STATUS_ZOMBIE, what="the runner ended")


@pytest.mark.parametrize("name", sorted(path.stem for path in (CHECKOUT / "bench").glob("*.py")))
def test_every_benchmark_can_be_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT / "bench"))  # some are started as scripts there
    importlib.import_module(f"bench.{name}")
