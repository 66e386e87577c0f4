"""A user namespace with two users: the box's own, and one for code under test. Root can map any, an ordinary user one
that the machine has delegated to him (``/etc/subuid``, ``/etc/subgid``) and Debian's ``uidmap`` maps for him.

bubblewrap maps one user by itself; this makes the namespace that it is then told to use. It does not know what runs.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path

from runtime.sandboxes.guest.second import USER

CANDIDATES = (1_983_041, 61_041)
"""Host users that nobody has; the second for machines (containers) whose users end at 65,535."""
_PATIENCE_SEC = 5.0


def spare_user() -> int | None:
    """A user id that can be given to code under test; None where only our own can be mapped."""
    spare = _spare()
    return None if spare is None else spare["uid"]


def _spare() -> dict[str, int] | None:
    """The ids by kind, ``uid`` and ``gid``."""
    if shutil.which("unshare") is None:
        return None
    if os.getuid() != 0:
        return _delegated()
    ranges = []
    for kind in ("uid", "gid"):
        rows = [line.split() for line in Path(f"/proc/self/{kind}_map").read_text().splitlines()]
        ranges.append([range(int(row[0]), int(row[0]) + int(row[2])) for row in rows])
    found = next((user for user in CANDIDATES if all(any(user in one for one in kind) for kind in ranges)), None)
    return None if found is None else {"uid": found, "gid": found}


def _delegated() -> dict[str, int] | None:
    """The first of the ids that are this user's to map, beside his own."""
    names = {str(os.getuid())}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(os.getuid()).pw_name)
    found = {}
    for kind in ("uid", "gid"):
        try:
            rows = [line.strip().split(":") for line in Path(f"/etc/sub{kind}").read_text().splitlines()]
            found[kind] = next(int(row[1]) for row in rows if len(row) == 3 and row[0] in names and int(row[2]) > 0)
        except (OSError, ValueError, StopIteration):
            return None
        if shutil.which(f"new{kind}map") is None:
            return None
    return found


def two_users() -> int | None:
    """A descriptor of a new user namespace that maps our user as 0 and a spare one as ``USER``; None if impossible."""
    spare = _spare()
    if spare is None:
        return None
    # A program and no fork of ours: this process may have threads. cat ends when its input is closed.
    with subprocess.Popen(
        ["unshare", "--user", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            home = Path(f"/proc/{process.pid}")
            own, deadline = Path("/proc/self/ns/user").readlink(), time.monotonic() + _PATIENCE_SEC
            while (home / "ns" / "user").readlink() == own:
                if process.poll() is not None or time.monotonic() > deadline:
                    return None
                time.sleep(0.001)
            for kind, own_id in (("uid", os.getuid()), ("gid", os.getgid())):
                _map(process.pid, kind, ((0, own_id), (USER, spare[kind])))
            return os.open(home / "ns" / "user", os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, subprocess.SubprocessError):
            return None
        finally:
            process.kill()


def _map(pid: int, kind: str, pairs: tuple[tuple[int, int], ...]) -> None:
    if os.getuid() == 0:
        rows = "".join(f"{inside} {outside} 1\n" for inside, outside in pairs)
        (Path("/proc") / str(pid) / f"{kind}_map").write_text(rows)
        return
    words = [str(word) for inside, outside in pairs for word in (inside, outside, 1)]
    subprocess.run(
        [f"new{kind}map", str(pid), *words],
        check=True,
        capture_output=True,
        timeout=_PATIENCE_SEC,
        stdin=subprocess.DEVNULL,
    )
