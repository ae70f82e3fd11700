"""The private servers: as root, as an ordinary user, through every kind of end."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import kombu
import psutil
import psycopg2
import pytest
import redis

from swh_sched_runner.embedded import directory, postgres, process, valkey
from swh_sched_runner.embedded.postgres import Postgres
from swh_sched_runner.embedded.valkey import Valkey
from swh_sched_runner.exc import BrokerUnavailable, DatabaseUnavailable, DataDirectoryVersion
from tests.support.servers.databases import execute
from tests.support.servers.owners import owner
from tests.support.wait import until

pytestmark = pytest.mark.slow

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
SUPPORT = Path(__file__).resolve().parents[1] / "support" / "servers"
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="swh-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, Valkey]]:
    """Running servers for tests that only look at them."""
    folder = tmp_path_factory.mktemp("both")
    with Postgres(folder / "p", fsync=False) as database, Valkey(folder / "v") as broker:
        yield database, broker


def put(database: str, broker: str, value: str) -> None:
    execute(database, "create table if not exists kept (value text)")
    execute(database, f"insert into kept values ('{value}')")  # noqa: S608 (a constant of the test)
    with closing(_redis(broker)) as client:
        client.rpush("kept", value)


def got(database: str, broker: str) -> tuple[list[str], list[str]]:
    with closing(psycopg2.connect(database)) as conn, conn.cursor() as cursor, closing(_redis(broker)) as client:
        cursor.execute("select value from kept order by value")
        return [value for (value,) in cursor], [value.decode() for value in client.lrange("kept", 0, -1)]


def _redis(broker: str) -> redis.Redis:
    return redis.Redis.from_url(broker.replace("redis+socket://", "unix://", 1))


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def uids(pid: int) -> set[int]:
    return set(psutil.Process(pid).uids())


def test_data_survives_a_stop(tmp_path: Path) -> None:
    with directory.servers(tmp_path / "d", database=True, broker=True) as first:
        put(first.database_url, first.broker_url, "a")

    with directory.servers(tmp_path / "d", database=True, broker=True) as second:
        assert second.running == first.running
        assert got(second.database_url, second.broker_url) == (["a"], ["a"])


@pytest.mark.parametrize("victims", ["owner", "servers", "all"])
def test_data_survives_sigkill(tmp_path: Path, victims: str) -> None:
    with owner(tmp_path / "d") as killed:
        put(killed.database, killed.broker, "a")
        _sync(killed.broker)
        pids = {"owner": [killed.process.pid], "servers": list(killed.pids.values())}
        for pid in pids.get(victims, pids["owner"] + pids["servers"]):
            os.kill(pid, signal.SIGKILL)

        if victims == "servers":  # their owner lives and starts nothing by itself
            killed.process.kill()
        killed.process.wait()

        with directory.servers(tmp_path / "d", database=True, broker=True) as second:
            assert got(second.database_url, second.broker_url) == (["a"], ["a"])


def _sync(broker: str) -> None:
    """Wait until Valkey has written what it writes within a second."""
    with closing(_redis(broker)) as client:
        client.execute_command("WAITAOF", 1, 0, 0)


def test_servers_end_when_their_owner_is_killed(tmp_path: Path) -> None:
    with owner(tmp_path / "d") as killed:
        killed.process.kill()

        until(lambda: all(gone(pid) for pid in killed.pids.values()), 30)


def test_a_stop_leaves_no_process(tmp_path: Path) -> None:
    with owner(tmp_path / "d") as stopped:
        family = psutil.Process(stopped.process.pid).children(recursive=True)

    assert len(family) > 2
    assert all(gone(member.pid) for member in family)
    assert stopped.process.returncode == 0


def test_ctrl_c_in_the_terminal_does_not_reach_the_servers(both: tuple[Postgres, Valkey]) -> None:
    assert os.getpgid(0) not in {os.getpgid(server.pid) for server in both}


def test_a_dead_server_is_revived_under_its_url(tmp_path: Path) -> None:
    with directory.servers(tmp_path / "d", database=True, broker=True) as servers:
        put(servers.database_url, servers.broker_url, "a")
        _sync(servers.broker_url)
        for server in (servers.postgres, servers.valkey):
            os.kill(server.pid, signal.SIGKILL)
            until(lambda server=server: not server.alive())

        revived = servers.revive()

        assert revived == ["PostgreSQL", "Valkey"]
        assert servers.revive() == []
        assert got(servers.database_url, servers.broker_url) == (["a"], ["a"])


def test_servers_are_only_started_from_the_main_thread(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def start() -> None:
        try:
            Valkey(tmp_path / "v").start()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()

    assert "main thread" in str(errors[0])


@as_root
def test_root_starts_postgresql_as_somebody_else_without_a_new_user(both: tuple[Postgres, Valkey]) -> None:
    if subprocess.run(["unshare", "--user", "true"], capture_output=True).returncode != 0:
        pytest.skip("user namespaces are refused here; the way without them has its own test")
    server = both[0].pid
    status = Path(f"/proc/{server}/status").read_text()
    own, theirs = (os.readlink(f"/proc/{pid}/ns/user") for pid in ("self", server))

    assert "CapEff:\t0000000000000000" in status
    assert own != theirs


@as_root
def test_root_without_user_namespaces_starts_postgresql_as_nobody(tmp_path: Path) -> None:
    # Below a folder that only root may pass, as root's home is.
    tmp_path.chmod(0o700)
    with owner(tmp_path / "d", prefix=without_namespaces()) as refused:
        put(refused.database, refused.broker, "a")
        assert uids(refused.pids["PostgreSQL"]) == {NOBODY.pw_uid}

    # The same data, back to the usual way and once more to the other.
    with directory.servers(tmp_path / "d", database=True, broker=True) as usual:
        assert got(usual.database_url, usual.broker_url) == (["a"], ["a"])
    with owner(tmp_path / "d", prefix=without_namespaces()) as again:
        assert got(again.database, again.broker) == (["a"], ["a"])


def without_namespaces() -> list[str]:
    """What to put before a command, so that it finds user namespaces refused."""
    command = [sys.executable, str(SUPPORT / "without_namespaces.py")]
    tried = subprocess.run([*command, "/bin/true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"user namespaces can't be limited here: {tried.stderr.strip()[-200:]}")
    return command


@as_root
def test_an_ordinary_user_starts_the_servers_in_the_home(open_folder: Path) -> None:
    home = open_folder / "home"
    home.mkdir()
    os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
    data = home / ".local" / "share" / "swh-sched-runner"

    with owner(data, prefix=as_nobody(), environment={"HOME": str(home)}) as ordinary:
        put(ordinary.database, ordinary.broker, "a")

        assert {uid for pid in ordinary.pids.values() for uid in uids(pid)} == {NOBODY.pw_uid}
        assert data.stat().st_uid == NOBODY.pw_uid
        assert stat.S_IMODE(data.stat().st_mode) == 0o700


def as_nobody() -> list[str]:
    """What to put before a command, so that an ordinary user runs it."""
    command = ["setpriv", f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups"]
    again = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'import msgspec, psycopg2']))"
    if subprocess.run([*command, sys.executable, "-c", again], cwd="/", capture_output=True).returncode != 0:
        # The interpreter lies below a home that nobody else may enter: let this one read it.
        command += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return command


@pytest.mark.parametrize("name", ["p" * 150, "with space, 100% #ü?&x"], ids=["long", "odd"])
def test_every_path_will_do(tmp_path: Path, name: str) -> None:
    with directory.servers(tmp_path / name, database=True, broker=True) as servers:
        put(servers.database_url, servers.broker_url, "a")
        with kombu.Connection(servers.broker_url) as connection:
            connection.ensure_connection(max_retries=1)
        sockets = [server_socket(server) for server in (servers.postgres, servers.valkey)]

        assert all(stat.S_IMODE(socket.parent.stat().st_mode) == 0o700 for socket in sockets)
    for socket in sockets:
        if not socket.is_relative_to(tmp_path):
            shutil.rmtree(socket.parent)


def server_socket(server: Postgres | Valkey | None) -> Path:
    assert server is not None
    name = postgres.SOCKET if isinstance(server, Postgres) else valkey.SOCKET
    return process.socket_folder(server.directory, name) / name


def test_a_short_socket_folder_that_somebody_else_made_is_not_trusted(tmp_path: Path) -> None:
    folder = tmp_path / ("p" * 150)
    folder.mkdir()
    first = process.socket_folder(folder, "s")
    same = process.socket_folder(folder, "s")
    first.chmod(0o755)

    other = process.socket_folder(folder, "s")

    assert same == first
    assert other != first
    first.rmdir()
    other.rmdir()


def test_data_of_another_major_version_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with Postgres(tmp_path / "p", fsync=False) as server:
        url = server.url()
    (server.data / "PG_VERSION").write_text("12\n")

    with pytest.raises(DataDirectoryVersion) as refused:
        server.start()

    assert "holds data of PostgreSQL 12" in str(refused.value)
    assert f"pg_dump '{url}' > dump.sql" in str(refused.value)
    assert not server.alive()


def test_the_binaries_that_fit_the_data_are_taken(tmp_path: Path) -> None:
    candidates = postgres.available_binaries()
    versions = [postgres.major_version(binaries) for binaries in candidates]
    if len(set(versions)) < 2:
        pytest.skip("one major version of PostgreSQL is installed")
    other = next(index for index, version in enumerate(versions) if version != versions[0])
    with Postgres(tmp_path / "p", candidates[other], fsync=False):
        pass

    with Postgres(tmp_path / "p", fsync=False) as again, closing(psycopg2.connect(again.url())) as conn:
        assert str(conn.info.server_version // 10_000) == versions[other]


def test_an_interrupted_initdb_leaves_no_half_of_a_cluster(tmp_path: Path) -> None:
    half = tmp_path / "p" / "data.new.12345678"
    (half / "base").mkdir(parents=True)

    with Postgres(tmp_path / "p", fsync=False) as server:
        execute(server.url(), "select 1")
        assert not half.exists()


def test_a_server_that_can_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="shared_buffers"):
        Postgres(tmp_path / "p", fsync=False, options={"shared_buffers": "nonsense"}).start()
    with pytest.raises(BrokerUnavailable, match="no output"):
        Valkey(tmp_path / "v", Path("/bin/false")).start()


def test_settings_of_the_environment_do_not_change_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PGPORT", "6543"), ("PGDATA", "/nowhere"), ("LC_ALL", "tr_TR.UTF-8"), ("PGUSER", "x")):
        monkeypatch.setenv(name, value)

    with Postgres(tmp_path / "p", fsync=False) as server:
        execute(server.url(), "select 1")


def test_starting_twice_is_starting_once(both: tuple[Postgres, Valkey]) -> None:
    before = [server.pid for server in both]

    assert [server.start() for server in both] == [server.url() for server in both]
    assert [server.pid for server in both] == before


def test_nothing_listens_on_the_network(both: tuple[Postgres, Valkey]) -> None:
    assert [psutil.Process(server.pid).net_connections("inet") for server in both] == [[], []]
