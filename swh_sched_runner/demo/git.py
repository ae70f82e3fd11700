"""What git says of an address: its refs, or why there are none. Asks nobody for a password, waits only so long."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import unquote_to_bytes, urlsplit

import attrs

from swh_sched_runner.demo import finding

SCHEMES = ("file", "http", "https", "git", "ssh")
TIMEOUT_SECONDS = 20.0
# The largest public repositories have some ten million bytes of refs.
MAX_REFS_BYTES = 64 * 1024 * 1024
MAX_REASON_CHARACTERS = 300
# What servers say of a repository that isn't there. Forges that don't tell strangers whether it is ask for a name.
_NOT_FOUND = re.compile(r"repository .*not found|could not read Username|repository not exported", re.IGNORECASE)
# What `git rev-parse --local-env-vars` names: they would make git look at another repository.
_OF_A_REPOSITORY = re.compile(
    r"GIT_(ALTERNATE_OBJECT_DIRECTORIES|CONFIG.*|OBJECT_DIRECTORY|DIR|WORK_TREE|IMPLICIT_WORK_TREE|GRAFT_FILE|INDEX_FILE"
    r"|NO_REPLACE_OBJECTS|REPLACE_REF_BASE|PREFIX|SHALLOW_FILE|COMMON_DIR|INTERNAL_.*|NAMESPACE|ASKPASS)"
)


@attrs.define(slots=True, frozen=True)
class Seen:
    """What a visit found: ``snapshot`` identifies the refs of a full one, ``reason`` says why another one is not."""

    status: Literal["full", "failed", "not_found"]
    snapshot: bytes | None = None
    refs: int = 0
    reason: str | None = None


def look(url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> Seen:
    """Ask for the refs of a repository; ``url`` is a URL of one of ``SCHEMES``, or an absolute local path."""
    if (why := problem(url)) is not None:
        return Seen("failed", reason=why)
    path = local_path(url)
    if path is not None:
        try:
            if not finding.is_repository(path):
                return Seen("not_found", reason="there is no git repository")
        except OSError as error:
            return Seen("failed", reason=str(error.strerror))
    return _ls_remote(url if path is None else os.fspath(path), timeout_seconds)


def problem(url: str) -> str | None:
    """Why git is not asked about this address, or None."""
    if not url.isprintable():
        return "it contains characters that can't be printed"
    if "://" not in url:
        return None if url.startswith("/") else "it is neither a URL nor an absolute path"
    try:
        parts = urlsplit(url)
        password, host = parts.password, parts.hostname or ""
    except ValueError as error:
        return str(error)
    if parts.scheme not in SCHEMES:
        return f"it must start with one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
    if parts.scheme == "file":
        return None if host in ("", "localhost") and b"\0" not in unquote_to_bytes(url) else "it names no local file"
    if password is not None:
        return "URLs must not contain passwords: they are stored and shown"
    return "it has no host" if not host or host.startswith("-") else None


def local_path(url: str) -> Path | None:
    """The path that a file:// URL, or a path, means; None for what is elsewhere."""
    if "://" not in url:
        return Path(url)
    if not url.startswith("file://"):
        return None
    return Path(os.fsdecode(unquote_to_bytes("/" + url.removeprefix("file://").partition("/")[2])))


def environment() -> dict[str, str]:
    """This process's environment for a git that asks nobody, speaks English, and isn't in a repository already."""
    kept = {name: value for name, value in os.environ.items() if not _OF_A_REPOSITORY.fullmatch(name)}
    kept.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=10")
    kept.pop("SSH_ASKPASS", None)
    return kept | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": ":".join(SCHEMES)}


def _ls_remote(address: str, timeout_seconds: float) -> Seen:
    # The command line wins over every configuration: no helper and no program is asked for a password.
    command = ["git", "-c", "credential.helper=", "-c", "core.askPass=", "ls-remote", "--", address]
    try:
        status, out, err = _run(command, environment(), timeout_seconds)
    except OSError as error:
        return Seen("failed", reason=f"git can't be run: {error.strerror}")
    if status is None:
        return Seen("failed", reason=f"no answer within {timeout_seconds:g} s")
    if len(out) > MAX_REFS_BYTES:
        return Seen("failed", reason=f"more than {MAX_REFS_BYTES} bytes of refs")
    if status == 0:
        refs = sorted(out.splitlines())
        return Seen("full", hashlib.sha256(b"\n".join(refs)).digest(), len(refs))
    reason = _reason(err) or f"git ended with status {status}"
    return Seen("not_found" if _NOT_FOUND.search(reason) else "failed", reason=reason)


def _run(command: list[str], env: Mapping[str, str], timeout_seconds: float) -> tuple[int | None, bytes, bytes]:
    """Exit status (None: it took too long), output up to just above the limit, and what it said."""
    timed_out = threading.Event()
    with tempfile.TemporaryFile() as said:
        # A session of its own: git's helpers die with it, and Ctrl-C in a terminal doesn't reach it.
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            env=env,
            cwd="/",
            start_new_session=True,
        ) as process:
            assert process.stdout is not None

            def end() -> None:
                timed_out.set()
                _kill(process)

            timer = threading.Timer(timeout_seconds, end)
            timer.daemon = True
            timer.start()
            try:
                out = process.stdout.read(MAX_REFS_BYTES + 1)
                if len(out) > MAX_REFS_BYTES:
                    _kill(process)
                process.wait()
            finally:
                timer.cancel()
                _kill(process)
        said.seek(0)
        return None if timed_out.is_set() else process.returncode, out, said.read(65_536)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def _reason(said: bytes) -> str:
    """What git said, in one line that can be printed."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    telling = [line.removeprefix("fatal: ") for line in lines if line.startswith(("fatal:", "ERROR:"))] or lines[-1:]
    text = "; ".join(telling)
    return "".join(c if c.isprintable() else "?" for c in text)[:MAX_REASON_CHARACTERS]
