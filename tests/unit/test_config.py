"""Settings: where they come from, what is refused and in which words, what is never shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from swh_sched_runner.backend.origins import policies
from swh_sched_runner.config import Settings, load, mask, shown
from swh_sched_runner.config import sources as config_sources
from swh_sched_runner.config.settings import POLICIES
from swh_sched_runner.exc import ConfigurationError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def settings_of(file: Path, toml: str = "", environ: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    file.write_text(toml, encoding="utf-8")
    return load(file, environ or {}, {name.replace("__", "."): value for name, value in flags.items()})


def error_of(file: Path, toml: str = "", environ: Mapping[str, str] | None = None, **flags: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        settings_of(file, toml, environ, **flags)
    return str(caught.value)


def test_without_any_source_the_defaults_are_in_force(file: Path) -> None:
    settings = settings_of(file)

    assert settings == Settings()
    assert settings.runner.batch_size == 1000
    assert settings.broker.priority_queue == "save_code_now:{backend_name}"


def test_the_environment_wins_over_the_file_and_flags_win_over_both(file: Path) -> None:
    toml = "[runner]\nbatch_size = 1\nperiod_seconds = 1.5\n[listener]\nprefetch = 7"
    environ = {"SWH_SCHED_RUNNER_RUNNER__BATCH_SIZE": "2", "SWH_SCHED_RUNNER_RUNNER__PERIOD_SECONDS": "2.5"}

    settings = settings_of(file, toml, environ, runner__batch_size=3, runner__period_seconds=None)

    assert settings.runner.batch_size == 3
    assert settings.runner.period_seconds == 2.5
    assert settings.listener.prefetch == 7


def test_an_environment_variable_is_read_as_the_type_of_its_option(file: Path) -> None:
    environ = {
        "SWH_SCHED_RUNNER_DATABASE__URL": "postgresql:///db",
        "SWH_SCHED_RUNNER_DATABASE__OPTIONS__SSLMODE": "require",
        "SWH_SCHED_RUNNER_RUNNER__TASK_TYPES": '["load-git", "load-hg"]',
        "SWH_SCHED_RUNNER_BROKER__SSL": '{ca_certs = "/ca.pem", cert_reqs = 2}',
        "SWH_SCHED_RUNNER_BROKER__TRANSPORT_OPTIONS__MAX_RETRIES": "3",
        "SWH_SCHED_RUNNER_BROKER__QUEUES": '{"a.b": {"arguments": {"x-queue-type": "quorum"}}}',
        "SWH_SCHED_RUNNER_VISITS__GIT__ABSOLUTE_COOLDOWN_SECONDS": "off",
    }

    settings = settings_of(file, "", environ)

    assert settings.database.url == "postgresql:///db"
    assert settings.database.options == {"sslmode": "require"}
    assert settings.runner.task_types == ("load-git", "load-hg")
    assert settings.broker.ssl == {"ca_certs": "/ca.pem", "cert_reqs": 2}
    assert settings.broker.transport_options == {"max_retries": 3}
    assert settings.broker.queues["a.b"].arguments == {"x-queue-type": "quorum"}
    assert settings.visits["git"].absolute_cooldown_seconds is None


def test_an_empty_variable_is_one_that_is_not_set(file: Path) -> None:
    environ = {"SWH_SCHED_RUNNER_RUNNER__BATCH_SIZE": ""}

    assert settings_of(file, "[runner]\nbatch_size = 5", environ).runner.batch_size == 5


def test_tables_of_several_sources_are_merged_key_by_key(file: Path) -> None:
    toml = '[database.options]\nsslmode = "require"\nsslrootcert = "/a.pem"\n[visits.git]\nbatch_size = 5\n[visits.hg]'
    environ = {
        "SWH_SCHED_RUNNER_DATABASE__OPTIONS__SSLROOTCERT": "/b.pem",
        "SWH_SCHED_RUNNER_VISITS__GIT__PERIOD_SECONDS": "9",
    }

    settings = settings_of(file, toml, environ)

    assert settings.database.options == {"sslmode": "require", "sslrootcert": "/b.pem"}
    assert settings.visits["git"].batch_size == 5
    assert settings.visits["git"].period_seconds == 9
    assert set(settings.visits) == {"git", "hg"}


def test_the_policies_are_those_of_the_backend_that_need_no_lister() -> None:
    assert set(POLICIES) == set(policies.POLICIES) - {"first_visits_after_listing"}


def test_policies_that_are_given_replace_the_default_ones(file: Path) -> None:
    settings = settings_of(file, "[visits.git.policies]\nstop_after_success = 1")

    assert settings.visits["git"].policies == {"stop_after_success": 1.0}


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[runner]\nperid = 1", "unknown option runner.perid, did you mean runner.period_seconds? ({file})"),
        ("[runer]\nbatch_size = 1", "unknown option runer, did you mean runner? ({file})"),
        (
            "[runner]\nzzz = 1",
            "unknown option runner.zzz, known are period_seconds, batch_size, task_types ({file})",
        ),
        (
            "[visits.git.policies]\nalready_visited = 1",
            "unknown option visits.git.policies.already_visited, "
            "did you mean visits.git.policies.already_visited_order_by_lag? ({file})",
        ),
        (
            "[broker.queues.q]\nargument = 1",
            "unknown option broker.queues.q.argument, did you mean broker.queues.q.arguments? ({file})",
        ),
        (
            "[runner]\nbatch_size = 'x'",
            "runner.batch_size must be a whole number from 1 up to 1000000, not 'x' ({file})",
        ),
        ("[runner]\nbatch_size = 0", "runner.batch_size must be a whole number from 1 up to 1000000, not 0 ({file})"),
        (
            "[runner]\nperiod_seconds = inf",
            "runner.period_seconds must be a number greater than 0 up to 31622400, not inf ({file})",
        ),
        ("[web]\nport = 65536", "web.port must be a whole number from 0 up to 65535, not 65536 ({file})"),
        ("[web]\nhost = ''", "web.host must be a string that is not empty, not '' ({file})"),
        (
            "[visits.git.policies]\nstop_after_success = 0",
            "visits.git.policies.stop_after_success must be a number greater than 0 up to 1000000, not 0 ({file})",
        ),
        (
            "[visits.git]\nfailed_cooldown_seconds = -1",
            'visits.git.failed_cooldown_seconds must be a number from 0 up to 3162240000, or "off", not -1 ({file})',
        ),
        ("[log]\nformat = 'xml'", "log.format must be one of auto, console, logfmt, json, not 'xml' ({file})"),
        ("runner = 3", "runner must be a table, not 3 ({file})"),
        ("[runner]\ntask_types = 'a'", "runner.task_types must be a list of strings, not 'a' ({file})"),
        (
            "[broker]\npriority_queue = 'fast'",
            "broker.priority_queue must contain {{backend_name}} and no other name in braces, not 'fast' ({file})",
        ),
        (
            "[database]\nurl = 'mysql://h/db'",
            "database.url must be a postgresql:// URL or a libpq connection string, not 'mysql://h/db' ({file})",
        ),
        (
            "[broker]\nurl = 'sqs://'",
            "broker.url must be a URL that starts with one of amqp://, amqps://, pyamqp://, redis://, rediss://, "
            "redis+socket://, sentinel://, not 'sqs://' ({file})",
        ),
        (
            "[database]\nmin_pool_conns = 11",
            "database.min_pool_conns (11) must not be greater than database.max_pool_conns (10)",
        ),
    ],
)
def test_an_error_names_the_option_its_value_and_its_source(file: Path, toml: str, message: str) -> None:
    assert error_of(file, toml) == message.format(file=file)


def test_an_error_in_the_environment_names_the_variable(file: Path) -> None:
    variable = "SWH_SCHED_RUNNER_RUNNER__BATCH_SIZE"

    assert error_of(file, "", {variable: "many"}) == (
        f"runner.batch_size must be a whole number from 1 up to 1000000, not 'many' ({variable})"
    )


def test_an_unknown_variable_with_our_prefix_is_an_error(file: Path) -> None:
    variable = "SWH_SCHED_RUNNER_DATABASE__URI"

    assert error_of(file, "", {variable: "x"}) == (
        f"unknown option database.uri, did you mean database.url? ({variable})"
    )


def test_an_error_of_a_flag_says_command_line(file: Path) -> None:
    assert error_of(file, runner__period_seconds=-1.0).endswith("not -1.0 (command line)")


def test_a_file_that_is_not_toml_is_refused_with_the_place(file: Path) -> None:
    message = error_of(file, "[runner]\nbatch_size = = 2\n")

    assert message.startswith(f"{file} is not TOML: ")
    assert "line 2" in message


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path / "absent.toml", {}, {})

    assert str(caught.value) == f"can't read the configuration {tmp_path / 'absent.toml'}: No such file or directory"


def test_the_file_is_looked_for_in_the_environment_then_in_the_system_then_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, system = tmp_path / "named.toml", tmp_path / "system.toml"
    home = tmp_path / "home" / ".config" / "swh-sched-runner" / "config.toml"
    home.parent.mkdir(parents=True)
    for size, path in enumerate((named, system, home), 1):
        path.write_text(f"[runner]\nbatch_size = {size}")
    monkeypatch.setattr(config_sources, "SYSTEM_FILE", system)
    environ = {"HOME": str(tmp_path / "home")}

    assert load(None, environ | {"SWH_SCHED_RUNNER_CONFIG": str(named)}, {}).runner.batch_size == 1
    assert load(None, environ, {}).runner.batch_size == 2
    system.unlink()
    assert load(None, environ, {}).runner.batch_size == 3
    home.unlink()
    assert load(None, environ, {}).runner.batch_size == 1000


@pytest.mark.parametrize(
    "toml",
    [
        "[database]\nurl = 'mysql://u:hidden@h/db'",
        "[database]\nurl = 'postgres:/u:hidden@h/db'",
        "[database]\nmin_pool_conns = 'password=hidden'",
        "[database.options]\npassword = ['hidden']",
        "[broker]\nurl = 'ampq://u:hid@den@h'",
        "broker = 'amqp://u:hidden@h'",
        "[broker]\nqueues = {a = {arguments = ['amqp://u:hidden@h']}}",
    ],
)
def test_an_error_shows_no_password(file: Path, toml: str) -> None:
    message = error_of(file, toml)

    assert "***" in message
    assert "hid" not in message
    assert "den" not in message


def test_a_broken_table_in_the_environment_shows_no_password(file: Path) -> None:
    message = error_of(file, "", {"SWH_SCHED_RUNNER_DATABASE": '{"options": {"password": "hidden"'})

    assert message == "database must be a table, not *** (SWH_SCHED_RUNNER_DATABASE)"


def test_shown_settings_have_no_passwords(file: Path) -> None:
    toml = """
        [database]
        url = "postgresql://u:hidden@h/db?sslmode=require"
        options = {password = "hidden", sslpassword = "hidden"}
        [broker]
        url = "amqp://u:hid@den@h//;amqp://u:hidden@i//"
        result_backend = "redis://:hidden@h/1"
        ssl = {keyfile = "/k", keyfile_password = "hidden"}
        transport_options = {sentinel_kwargs = {password = "hidden"}, master_name = "m"}
    """

    values = shown(settings_of(file, toml))

    assert "hid" not in repr(values)
    assert "den" not in repr(values)
    assert values["database"]["url"] == "postgresql://u:***@h/db?sslmode=require"
    assert values["broker"]["result_backend"] == "redis://:***@h/1"
    assert values["broker"]["ssl"] == {"keyfile": "/k", "keyfile_password": "***"}
    assert values["broker"]["transport_options"]["master_name"] == "m"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("amqp://u:p@h//", "amqp://u:***@h//"),
        ("redis://:p@h", "redis://:***@h"),
        ("amqp://u@h//", "amqp://u@h//"),
        ("https://h:80/path", "https://h:80/path"),
        ("ssh://git@h:22/x", "ssh://git@h:22/x"),
        ("connect to host=h password='a b\\'c' user=u failed", "connect to host=h password=*** user=u failed"),
        ("postgresql:///db?password=p&user=u", "postgresql:///db?password=***&user=u"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_passwords_are_hidden_in_urls_and_connection_strings(text: str, hidden: str) -> None:
    assert mask(text) == hidden


def test_a_password_file_fills_in_the_passwords(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a/b@c\n")
    toml = f"""
        [database]
        url = "postgresql://u@h/db"
        password_file = "{secret}"
        [broker]
        url = "amqp://u@h//"
        password_file = "{secret}"
    """

    settings = settings_of(file, toml)

    assert settings.database.options == {"password": "a/b@c"}
    assert settings.broker.url == "amqp://u:a%2Fb%40c@h//"
    assert "a/b" not in repr(shown(settings))


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (
            "[database]\npassword_file = '{dir}/absent'",
            "database.password_file: can't read {dir}/absent: No such file or directory",
        ),
        ("[broker]\nurl = 'amqp://h'\npassword_file = '{dir}/empty'", "broker.password_file: {dir}/empty is empty"),
        (
            "[broker]\nurl = 'amqp://u:p@h'\npassword_file = '{dir}/full'",
            "broker.password_file is given, but broker.url has a password already",
        ),
        (
            "[broker]\npassword_file = '{dir}/full'",
            "broker.password_file is given, but broker.url has no host that needs one",
        ),
    ],
)
def test_a_password_file_that_does_not_fit_is_refused(file: Path, tmp_path: Path, toml: str, message: str) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "full").write_text("p")

    assert error_of(file, toml.format(dir=tmp_path)) == message.format(dir=tmp_path)
