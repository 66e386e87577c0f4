"""The folder in which sandboxes of one process leave traces on the host, and the removal of what dead owners left.

Every owner holds a lock on its own folder for as long as it lives, so a lock that can be taken marks a dead owner. It
does not know what kinds of sandboxes there are: processes are recognised by an environment variable, cgroups by a list.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import time
from pathlib import Path

OWNER_VARIABLE = "LIVERL_SANDBOX_OWNER"


class OwnerState:
    """``root/owner-<pid>-<random>/``; made with its lock held, removed by ``close``."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.removed = reap(root)
        self.owner = f"owner-{os.getpid()}-{secrets.token_hex(4)}"
        self.path = root / self.owner
        temporary = root / f".new-{self.owner}"
        temporary.mkdir()
        self._lock = os.open(temporary / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        temporary.rename(self.path)  # never visible without its lock

    def record_cgroup(self, path: Path) -> None:
        with (self.path / "cgroups").open("a") as stream:
            stream.write(f"{path}\n")

    def close(self, *, forget: bool = True) -> None:
        """Idempotent. Without forget the folder stays, as a dead owner's, for the next start to clean up after it."""
        if self._lock >= 0:
            if forget:
                _remove(self.path)
            os.close(self._lock)
            self._lock = -1


def reap(root: Path, *, patience_sec: float = 0.0) -> list[str]:
    """Remove what dead owners below ``root`` left: processes, cgroups, folders. Returns their names.

    ``patience_sec``: where no owner below ``root`` can be alive. A process that a killed one was just forking has its
    lock until it is another program, on a busy machine for a while.
    """
    removed = []
    deadline = time.monotonic() + patience_sec
    for folder in sorted(root.glob("owner-*")):
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                if not _locked(lock, deadline):
                    continue
                kill_owned(folder.name)
                _remove(folder)
                removed.append(folder.name)
            finally:
                os.close(lock)
    return removed


def _locked(lock: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        else:
            return True


def kill_owned(owner: str) -> list[int]:
    """Kill every process of this user that was started for ``owner``, until a look finds no more of them: one that is
    forked during a look is missed by that look.
    """
    killed: list[int] = []
    for _ in range(100):
        found = _kill_marked(f"{OWNER_VARIABLE}={owner}".encode())
        if not set(found) - set(killed):
            break
        killed += found
    return sorted(set(killed))


def _kill_marked(marker: bytes) -> list[int]:
    killed = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if marker in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
                    killed.append(int(entry.name))
    return killed


def _remove(folder: Path) -> None:
    """Control groups first: while one of them stands, the folder that names it stays for the next start to try."""
    groups: list[Path] = []
    with contextlib.suppress(FileNotFoundError):
        groups = [Path(line) for line in reversed((folder / "cgroups").read_text().splitlines())]
    removed = [remove_cgroup(group) for group in groups]
    if all(removed):
        shutil.rmtree(folder, ignore_errors=True)


def remove_cgroup(path: Path, *, patience_sec: float = 10.0) -> bool:
    """Kill what runs in a control group and in those below it, and remove them all. The kernel lets a group go a moment
    after its last process is dead, on a busy machine a long one. False if it still stands after ``patience_sec``.
    """
    deadline = time.monotonic() + patience_sec
    while path.exists():
        below: list[Path] = []
        with contextlib.suppress(OSError):  # another who clears up may be quicker
            below = [entry.parent for entry in path.glob("**/cgroup.procs")]
        for group in sorted((path, *below), reverse=True):
            with contextlib.suppress(OSError, ValueError):
                for pid in map(int, (group / "cgroup.procs").read_text().split()):
                    if pid:  # 0: of another namespace; to kill(2) it is our own group
                        os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                group.rmdir()
        if time.monotonic() > deadline:
            return not path.exists()
        if path.exists():
            time.sleep(0.01)
    return True
