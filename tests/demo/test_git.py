"""What a look at a repository finds: its refs, or the reason why there are none; nothing else happens."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from swh_sched_runner.demo import forges, git
from tests.support.repositories import damage, repository


def test_the_snapshot_changes_with_a_commit_and_only_then(tmp_path: Path) -> None:
    path = repository(tmp_path / "one")

    first, again = git.look(str(path)), git.look(path.as_uri())
    forges.commit(path, "change")
    changed = git.look(str(path))

    assert (first.status, first.refs, first.reason) == ("full", 2, None)
    assert again == first
    assert changed.status == "full"
    assert changed.snapshot != first.snapshot


@pytest.mark.parametrize("name", [b"with space", b"100%25", b"caf\xe9", b"?query#fragment", b"--upload-pack=false"])
def test_any_name_of_a_directory_will_do(tmp_path: Path, name: bytes) -> None:
    path = repository(tmp_path / os.fsdecode(name))

    assert git.look(path.as_uri()).status == "full"


def test_an_empty_repository_is_visited_in_full(tmp_path: Path) -> None:
    seen = git.look(str(repository(tmp_path / "empty", bare=True, commits=0)))

    assert (seen.status, seen.refs) == ("full", 0)
    assert seen.snapshot is not None


def test_a_damaged_repository_fails_with_what_git_says(tmp_path: Path) -> None:
    seen = git.look(str(damage(repository(tmp_path / "damaged"))))

    assert (seen.status, seen.snapshot) == ("failed", None)
    assert "does not appear to be a git repository" in str(seen.reason)


@pytest.mark.parametrize("gone", [".", ".git"])
def test_a_repository_that_vanished_is_not_found(tmp_path: Path, gone: str) -> None:
    path = repository(tmp_path / "one")
    shutil.rmtree(path / gone)

    assert git.look(path.as_uri()) == git.Seen("not_found", reason="there is no git repository")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ext::sh -c 'touch /tmp/owned'", "neither a URL nor an absolute path"),
        ("--upload-pack=touch", "neither a URL nor an absolute path"),
        ("relative/path", "neither a URL nor an absolute path"),
        ("ftp://example.org/x", "must start with one of"),
        ("fd://17/foo", "must start with one of"),
        ("https://me:secret@example.org/x", "URLs must not contain passwords"),
        ("ssh://-oProxyCommand=touch/x", "has no host"),
        ("https:///x", "has no host"),
        ("https://[::1/x", "Invalid IPv6"),
        ("file://elsewhere/x", "names no local file"),
        ("file:///a%00b", "names no local file"),
        ("https://example.org/\nx", "can't be printed"),
    ],
)
def test_an_address_that_git_must_not_get_fails_before_git_is_called(
    url: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")

    seen = git.look(url)

    assert seen.status == "failed"
    assert reason in str(seen.reason)
    assert "secret" not in str(seen.reason)


def test_a_git_that_is_not_there_is_a_failure_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = repository(tmp_path / "one")
    monkeypatch.setenv("PATH", "")

    assert git.look(str(path)) == git.Seen("failed", reason="git can't be run: No such file or directory")


def test_the_repository_that_the_caller_is_in_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = repository(tmp_path / "one"), repository(tmp_path / "other", commits=2)
    before = git.look(str(path))

    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.chdir(other)

    assert git.look(str(path)) == before


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        seen = git.look(f"git://127.0.0.1:{server.getsockname()[1]}/x", timeout_seconds=0.3)

    assert seen == git.Seen("failed", reason="no answer within 0.3 s")


def test_more_refs_than_anybody_has_are_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "MAX_REFS_BYTES", 50)

    seen = git.look(str(repository(tmp_path / "one")))

    assert seen == git.Seen("failed", reason="more than 50 bytes of refs")


class Answer(BaseHTTPRequestHandler):
    """Answers with the status that the address names."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def web() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("status", "outcome"), [(404, "not_found"), (401, "not_found"), (500, "failed")])
def test_what_a_web_server_says_decides_and_nobody_is_asked_for_a_password(
    web: str, status: int, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)

    seen = git.look(f"{web}/{status}/repository")

    assert seen.status == outcome, seen.reason
    assert seen.reason
