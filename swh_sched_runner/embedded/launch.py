"""Runs a command that ends with its parent and, on request, not as root. A script of its own, standard library only.

``python -I -S launch.py PARENT SIGNAL OWNED COMMAND…``: PARENT is the pid of the caller, SIGNAL the number of the
signal that the command gets when the caller's thread ends. OWNED is empty, or the folder that the command
must own: then root becomes an ordinary user first, as PostgreSQL demands it.

It is a process of its own because unshare and setuid belong into a process with one thread; what it prints on
its way goes to the server's log.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522
OVERFLOW_ID = 65534


def main(arguments: list[str]) -> None:
    """Become what the arguments say; only returns by an error."""
    parent, signal_number, owned, *command = arguments
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a caller that waits for signals has blocked them, for us as well
    if owned and os.geteuid() == 0:
        _leave_root(owned)
    if sys.platform == "linux":
        # Last, since a change of credentials forgets it.
        _call("prctl", PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit("the parent process has ended already")
    os.execv(command[0], command)


def _leave_root(owned: str) -> None:
    if _namespaces_work():
        _give(owned, 0, 0)
        _enter_namespace()
    else:
        nobody = pwd.getpwnam("nobody")
        _give(owned, nobody.pw_uid, nobody.pw_gid)
        _become(nobody)


def _namespaces_work() -> bool:
    child = os.fork()
    if child == 0:
        try:
            _enter_namespace()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _enter_namespace() -> None:
    """The same user to everybody else, somebody who isn't root to ourselves."""
    _call("unshare", CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{OVERFLOW_ID} 0 1"),
        ("gid_map", f"{OVERFLOW_ID} 0 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _give(folder: str, uid: int, gid: int) -> None:
    """Change the owner where the last start was made the other way."""
    if os.stat(folder).st_uid == uid:
        return
    for path, _, files in os.walk(folder):
        for name in files:
            os.chown(os.path.join(path, name), uid, gid, follow_symlinks=False)
        # The folder after its files, the top last of all: an interrupted change is noticed and done again.
    for path, _, _ in os.walk(folder, topdown=False):
        os.chown(path, uid, gid, follow_symlinks=False)


def _become(user: pwd.struct_passwd) -> None:
    """Become ``user``, who may still pass folders that only root can read.

    Data, binaries and socket lie below root's home as a rule. Keeping the one capability that opens them is
    simpler and safer than moving data to where everybody may go, and copying binaries there.
    """
    _call("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    kept = 1 << CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(kept, kept, kept, 0, 0, 0)  # effective, permitted, inheritable; low, then high words
    try:
        _call("capset", header, sets)
        _call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)
    except OSError as error:
        sys.stderr.write(
            f"without CAP_DAC_OVERRIDE, {user.pw_name} itself needs access to the binaries and the data: {error}\n"
        )


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    main(sys.argv[1:])
