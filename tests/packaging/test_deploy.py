"""The units, and what lies beside them, are understood by systemd and by the installed program."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from configparser import RawConfigParser
from pathlib import Path

import msgspec
import pytest

from swh_sched_runner import config
from tests.support.sources import CHECKOUT, run

pytestmark = pytest.mark.slow

DEPLOY = CHECKOUT / "deploy"
EXAMPLE = DEPLOY / "config.example.toml"
UNITS = sorted(DEPLOY.glob("*.service"))
PROGRAM = Path(sys.executable).with_name("swh-sched-runner")

if not shutil.which("systemd-analyze") and not os.environ.get("CI"):
    pytest.skip("systemd-analyze is not installed", allow_module_level=True)

each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)


def service(unit: Path) -> RawConfigParser:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    return parser


def complaints(unit: Path, folder: Path, changed: tuple[str, str] = ("", "")) -> list[str]:
    """What `systemd-analyze verify` has to say about a copy of the unit that starts the program of this environment."""
    copy = folder / unit.name
    copy.write_text(unit.read_text().replace("/usr/bin/swh-sched-runner", str(PROGRAM)).replace(*changed))
    verify = ("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", copy)
    done = subprocess.run(verify, capture_output=True, text=True, timeout=60)
    # It exits 0 for an unknown key. Units of the system, which ours name, may have faults of their own.
    said = [line for line in done.stderr.splitlines() if unit.name in line]
    return said or ([done.stderr] if done.returncode else [])


def test_there_is_a_unit_for_each_way_to_run() -> None:
    commands = [unit.stem.removeprefix("swh-sched-runner-") for unit in UNITS]

    assert commands == ["listen", "prune", "rescue", "run", "up", "visits"]
    assert commands == [service(unit)["Service"]["ExecStart"].split()[-1] for unit in UNITS]


@each_unit
def test_systemd_understands_the_unit(unit: Path, tmp_path: Path) -> None:
    assert complaints(unit, tmp_path) == []


@pytest.mark.parametrize(
    "changed",
    [
        ("WatchdogSec=", "WatchDogSeconds="),
        ("WatchdogSec=60", "WatchdogSec=soon"),
        (str(PROGRAM), "/nowhere/swh-sched-runner"),
    ],
    ids=["unknown key", "bad value", "no program"],
)
def test_a_fault_in_a_unit_is_noticed(changed: tuple[str, str], tmp_path: Path) -> None:
    assert complaints(UNITS[0], tmp_path, changed) != []


@each_unit
def test_the_unit_starts_a_command_of_the_program(unit: Path, tmp_path: Path) -> None:
    program, *arguments = service(unit)["Service"]["ExecStart"].split()

    assert (program, arguments[:2]) == ("/usr/bin/swh-sched-runner", ["--config", "/etc/swh-sched-runner/config.toml"])
    assert "Usage" in run(PROGRAM, "--config", EXAMPLE, *arguments[2:], "--help", cwd=tmp_path)


@each_unit
def test_the_unit_leaves_time_to_finish_a_batch_and_stays_down_on_lasting_faults(unit: Path) -> None:
    settings = service(unit)["Service"]

    assert int(settings["TimeoutStopSec"]) > 2 * config.BrokerSettings().confirm_timeout_seconds
    assert settings["KillMode"] == "mixed"  # PostgreSQL must not be told to stop before what uses it
    assert settings["RestartPreventExitStatus"].split() == ["64", "78"]


@each_unit
def test_the_unit_is_confined(unit: Path, tmp_path: Path) -> None:
    run("systemd-analyze", "security", "--offline=true", "--threshold=20", unit, cwd=tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_user_and_the_folder_of_the_configuration_are_made(tmp_path: Path) -> None:
    secret = tmp_path / "etc/swh-sched-runner/config.toml"
    secret.parent.mkdir(parents=True)
    secret.touch(0o666)

    run("systemd-sysusers", f"--root={tmp_path}", DEPLOY / "sysusers.d/swh-sched-runner.conf", cwd=tmp_path)
    run("systemd-tmpfiles", f"--root={tmp_path}", "--create", DEPLOY / "tmpfiles.d/swh-sched-runner.conf", cwd=tmp_path)

    user = re.search(r"^swh-sched-runner:x:(\d+):(\d+):", (tmp_path / "etc/passwd").read_text(), re.MULTILINE)
    assert user is not None
    assert stat.filemode(secret.stat().st_mode) == "-rw-r-----"
    assert stat.filemode(secret.parent.stat().st_mode) == "drwxr-x---"
    assert (secret.stat().st_uid, secret.stat().st_gid) == (0, int(user[2]))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_commands_of_the_page_work_below_a_root_without_anything(tmp_path: Path) -> None:
    """All but those that need the network, another root or a running systemd."""
    root = tmp_path / "root"
    (root / "usr/local").mkdir(parents=True)
    page = (DEPLOY / "README.md").read_text()
    commands = re.search(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert commands is not None
    script = re.sub(r"^(apt-get|python3|/opt/\S+|ln|systemctl) .*\n", "", commands[1], flags=re.MULTILINE)
    script = re.sub(r"(?<=\s)/(?=etc/|usr/)", f"{root}/", script)
    script = re.sub(r"^(systemd-\w+)", rf"\1 --root={root}", script, flags=re.MULTILINE)
    script = re.sub(r"^swh-sched-runner", str(PROGRAM), script, flags=re.MULTILINE)

    for _ in range(2):  # the second time they find what they have made
        run("sh", "-e", "-c", script, cwd=tmp_path)

    assert {unit.name for unit in (root / "etc/systemd/system").iterdir()} == {unit.name for unit in UNITS}
    assert "swh-sched-runner:x:" in (root / "etc/passwd").read_text()
    config_file = (root / "etc/swh-sched-runner/config.toml").stat()
    assert (stat.filemode(config_file.st_mode), config_file.st_uid) == ("-rw-r-----", 0)
    assert config_file.st_gid == (root / "etc/swh-sched-runner").stat().st_gid != 0


def test_the_example_configuration_changes_nothing() -> None:
    assert config.load(EXAMPLE, {}, {}) == config.Settings()


def test_the_example_configuration_shows_every_option_with_its_default(tmp_path: Path) -> None:
    """An option is a line without a space after its "#"."""
    (tmp_path / "password").write_text("secret")
    text = re.sub(r"^#(?! |$)", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^password_file = .*", f'password_file = "{tmp_path}/password"', text, flags=re.MULTILINE)
    (tmp_path / "config.toml").write_text(text)

    loaded = config.load(tmp_path / "config.toml", {}, {})

    assert loaded.database.options["password"] == "secret"
    given = tomllib.loads(text)
    defaults = msgspec.to_builtins(config.Settings())
    defaults["visits"] = {"git": msgspec.to_builtins(config.VisitSettings())}
    defaults["broker"]["queues"] = {"load-git": msgspec.to_builtins(config.QueueSettings())}
    assert_shows(given, defaults)


def assert_shows(given: dict[str, object], defaults: dict[str, object], table: str = "") -> None:
    """The same options in both, and the same values where the default is one."""
    assert given.keys() == defaults.keys(), table
    for option, default in defaults.items():
        value = given[option]
        if isinstance(value, dict) and isinstance(default, dict) and default:
            assert_shows(value, default, f"{table}{option}.")
        elif default or default == 0:
            assert value == default, f"{table}{option}"
