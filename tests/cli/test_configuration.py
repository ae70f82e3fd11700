"""The program and its configuration: which source wins, what ``config show`` prints."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_options_win_over_variables_and_variables_over_the_file(program: Run, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('data_directory = "/file"\n[log]\nlevel = "error"\nformat = "json"\n[runner]\nbatch_size = 7\n')

    shown = program(
        "--config", str(file), "--log-level", "debug", "config", "show", "--json",
        SWH_SCHED_RUNNER_LOG__LEVEL="warning", SWH_SCHED_RUNNER_DATA_DIRECTORY="/variable",
    ).json  # fmt: skip

    assert shown["log"] == {"format": "json", "level": "debug"}
    assert shown["data_directory"] == "/variable"
    assert shown["runner"]["batch_size"] == 7


def test_the_users_own_file_is_found(program: Run, environ: dict[str, str]) -> None:
    file = Path(environ["HOME"]) / ".config" / "swh-sched-runner" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[runner]\nbatch_size = 7\n")

    assert "[runner]\nperiod_seconds = 1.0\nbatch_size = 7\n" in program("config", "show").out


def test_config_show_hides_passwords(program: Run) -> None:
    variables = {
        "SWH_SCHED_RUNNER_DATABASE__URL": "postgresql://u:hidden@h/db",
        "SWH_SCHED_RUNNER_DATABASE__OPTIONS__PASSWORD": "hidden",
        "SWH_SCHED_RUNNER_BROKER__URL": "amqp://u:hidden@h//",
    }

    for outcome in (program("config", "show", **variables), program("config", "show", "--json", **variables)):
        assert outcome.status == 0
        assert "postgresql://u:***@h/db" in outcome.out
        assert "hidden" not in outcome.out


def test_a_password_file_opens_a_database(program: Run, database_url: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not asked for by a server that trusts\n")

    outcome = program(
        "task", "list",
        SWH_SCHED_RUNNER_DATABASE__URL=database_url, SWH_SCHED_RUNNER_DATABASE__PASSWORD_FILE=str(secret),
    )  # fmt: skip

    assert (outcome.status, outcome.out) == (0, "  no tasks\n")


ODD = """
data_directory = "/da\\u0007ta\\""
[broker]
transport_options = { a = [1, { "b c" = true }] }
[visits."g it"]
absolute_cooldown_seconds = 'off'
[broker.queues."a.b"]
arguments = { x-queue-type = 'quorum' }
[database]
statement_timeout_seconds = 'off'
options = { sslmode = 'require' }
"""


def test_config_show_is_a_configuration(run: Run, tmp_path: Path) -> None:
    file, again = tmp_path / "config.toml", tmp_path / "again.toml"
    file.write_text(ODD)

    shown = run("--config", str(file), "config", "show")
    again.write_text(shown.out)

    assert (shown.status, shown.err) == (0, "")
    assert tomllib.loads(shown.out)["broker"]["queues"] == {"a.b": {"arguments": {"x-queue-type": "quorum"}}}
    assert run("--config", str(again), "config", "show") == shown
    as_json = ("config", "show", "--json", "--config")
    assert run(*as_json, str(again)) == run(*as_json, str(file))


def test_a_password_of_a_file_is_not_shown_twice(run: Run, tmp_path: Path) -> None:
    secret, file = tmp_path / "secret", tmp_path / "config.toml"
    secret.write_text("hidden\n")
    file.write_text(f"[broker]\nurl = 'amqp://u@h//'\npassword_file = '{secret}'\n")

    shown = run("--config", str(file), "config", "show")
    file.write_text(shown.out)

    assert 'url = "amqp://u@h//"' in shown.out
    assert run("--config", str(file), "config", "show") == shown


def test_sources_are_named_at_each_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[runner]\nbatch_size = 7\n[visits.git]\nbatch_size = 3\n[broker.transport_options]\na = 1\n")
    monkeypatch.setenv("SWH_SCHED_RUNNER_BROKER__TRANSPORT_OPTIONS__B", "2")
    options = ("--config", str(file), "config", "show", "--sources", "--log-level", "debug")

    lines, sources = run(*options).out.splitlines(), run(*options, "--json").json["sources"]

    assert f"batch_size = 7  # {file}" in lines
    assert f"batch_size = 3  # {file}" in lines
    assert "period_seconds = 1.0  # default" in lines
    assert 'level = "debug"  # --log-level' in lines
    both = [str(file), "SWH_SCHED_RUNNER_BROKER__TRANSPORT_OPTIONS__B"]
    assert f"transport_options = {{ a = 1, b = 2 }}  # {', '.join(both)}" in lines
    assert sources["broker.transport_options"] == both
    assert sources["log.level"] == ["--log-level"]
