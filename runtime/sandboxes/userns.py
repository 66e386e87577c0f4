"""A user namespace with two users, for machines where we are root: the box's own, and one for code under test.

bubblewrap maps one user by itself; this makes the namespace that it is then told to use. It does not know what runs.
"""

from __future__ import annotations

import os
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
    if os.getuid() != 0 or shutil.which("unshare") is None:
        return None
    ranges = []
    for kind in ("uid", "gid"):
        rows = [line.split() for line in Path(f"/proc/self/{kind}_map").read_text().splitlines()]
        ranges.append([range(int(row[0]), int(row[0]) + int(row[2])) for row in rows])
    return next((user for user in CANDIDATES if all(any(user in one for one in kind) for kind in ranges)), None)


def two_users() -> int | None:
    """A descriptor of a new user namespace that maps our user as 0 and a spare one as ``USER``; None if impossible."""
    spare = spare_user()
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
            for kind in ("uid", "gid"):
                (home / f"{kind}_map").write_text(f"0 0 1\n{USER} {spare} 1\n")
            return os.open(home / "ns" / "user", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        finally:
            process.kill()
