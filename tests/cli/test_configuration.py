"""The program and its configuration: which source wins, what ``config show`` prints."""

from __future__ import annotations

from pathlib import Path

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

    assert "runner.batch_size = 7\n" in program("config", "show").out


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
