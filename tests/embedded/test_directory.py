"""The data directory: one owner, found by the others, private."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from swh_sched_runner.embedded import directory
from swh_sched_runner.exc import DataDirectoryInUse, DataDirectoryRefused
from tests.support.servers.owners import ROOT, owner
from tests.support.wait import until

pytestmark = pytest.mark.slow

WORKER = """
import os, sys
from pathlib import Path
from swh_sched_runner.embedded.directory import worker_lock
with worker_lock(Path(sys.argv[1])):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
    sys.stdin.read()
"""


def neither(path: Path):  # type: ignore[no-untyped-def]
    return directory.servers(path, database=False, broker=False)


def test_a_second_owner_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with owner(tmp_path / "d", database=False) as first:
        with pytest.raises(DataDirectoryInUse) as refused, neither(tmp_path / "d"):
            pass

        assert (
            str(refused.value)
            == f"{tmp_path}/d is in use by process {first.process.pid}: another `swh-sched-runner up` or `demo`"
        )


def test_others_find_the_servers_while_their_owner_lives(tmp_path: Path) -> None:
    before = directory.running(tmp_path / "d")
    with owner(tmp_path / "d", database=False) as first:
        found = directory.running(tmp_path / "d")
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        after = directory.running(tmp_path / "d")

    assert before is None
    assert found == directory.Running(first.database, first.broker, first.process.pid)
    assert (tmp_path / "d" / "running.json").exists()  # stale, and not believed
    assert after is None


def test_looking_for_the_servers_never_keeps_an_owner_out(tmp_path: Path) -> None:
    looking = "import sys; from pathlib import Path; from swh_sched_runner.embedded.directory import running\n"
    looking += "print(1, flush=True)\nwhile True: running(Path(sys.argv[1]))"
    with neither(tmp_path):
        pass
    lookers = [run(looking, tmp_path) for _ in range(2)]
    try:
        for looker in lookers:
            looker.stdout.readline()
        for _ in range(100):
            with neither(tmp_path):
                pass
    finally:
        for looker in lookers:
            looker.kill()
            looker.communicate()


def test_only_what_is_asked_for_is_started(tmp_path: Path) -> None:
    with neither(tmp_path) as servers, capture_logs() as logs:
        assert servers.running == directory.Running(None, None, os.getpid())
        assert directory.running(tmp_path) == servers.running
    with directory.servers(tmp_path, database=False, broker=True) as servers:
        assert servers.database_url is None
        assert servers.broker_url is not None
    assert not (tmp_path / "postgresql").exists()
    assert logs == []


def test_one_line_says_what_was_started_and_where(tmp_path: Path) -> None:
    with capture_logs() as logs, directory.servers(tmp_path, database=False, broker=True):
        pass

    (line,) = logs
    assert line.pop("seconds") > 0
    assert line == {
        "event": "private servers started",
        "log_level": "info",
        "servers": "Valkey",
        "directory": str(tmp_path),
    }


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)

    with pytest.raises(DataDirectoryRefused, match=f"others may write to it .chmod 700 {tmp_path}"), neither(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, pwd.getpwnam("nobody").pw_uid, -1)

    with pytest.raises(DataDirectoryRefused, match="it belongs to another user"), neither(tmp_path):
        pass


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("")

    with pytest.raises(DataDirectoryRefused, match="File exists"), neither(tmp_path / "d"):
        pass


def test_a_new_folder_and_what_is_in_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    with directory.servers(tmp_path / "d", database=False, broker=True):
        modes = {path.name: path.stat().st_mode & 0o077 for path in [tmp_path / "d", *(tmp_path / "d").iterdir()]}

    assert set(modes) == {"d", "lock", "running.json", "valkey"}
    assert set(modes.values()) == {0}


def test_workers_are_alive_until_the_last_child_is_dead(tmp_path: Path) -> None:
    before = directory.workers_alive(tmp_path)
    worker = run(WORKER, tmp_path)
    child = int(worker.stdout.readline())
    both = directory.workers_alive(tmp_path)
    worker.kill()
    worker.wait()
    child_alone = directory.workers_alive(tmp_path)
    os.kill(child, signal.SIGKILL)
    worker.communicate()

    assert (before, both, child_alone) == (False, True, True)
    until(lambda: not directory.workers_alive(tmp_path))


def test_several_workers_hold_the_lock_at_once(tmp_path: Path) -> None:
    with directory.worker_lock(tmp_path):
        with directory.worker_lock(tmp_path):
            pass
        assert directory.workers_alive(tmp_path)
    assert not directory.workers_alive(tmp_path)


def run(code: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
