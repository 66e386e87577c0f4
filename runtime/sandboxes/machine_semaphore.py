"""Places for sandboxes that several runs of one machine share: files that are locked while a place is taken.

Every run tells the others, in a file of its own, how many it wants. A run takes a free place only while it holds no
more than its even share of them all, or nobody else wants one. The kernel lets go of a dead run's locks, so nothing
has to be cleaned up behind it. It does not know in what order a run uses its places: that is its queue's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
from pathlib import Path

_LOOK_SEC = 0.05


class MachineSemaphore:
    """``count`` places below ``folder``, for every process that names the same two. For one event loop."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder / str(count)
        self._count = count
        self._held: list[tuple[int, int]] = []  # (number, descriptor)
        self._wanted = 0
        self._turn = asyncio.Lock()  # in the order of asking
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"run-{os.getpid()}-{secrets.token_hex(4)}"
        temporary = self._folder / f".{name}"
        self._own = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._own, fcntl.LOCK_EX)
        self._file = temporary.rename(self._folder / name)  # never visible without its lock

    async def acquire(self) -> None:
        """Wait for a place."""
        self._wanted += 1
        try:
            self._tell()
            async with self._turn:
                while not self._try():
                    await asyncio.sleep(_LOOK_SEC)
        finally:
            self._wanted -= 1
            self._tell()

    def release(self) -> None:
        os.close(self._held.pop()[1])

    def close(self) -> None:
        """Idempotent."""
        while self._held:
            self.release()
        if self._own >= 0:
            self._file.unlink(missing_ok=True)
            os.close(self._own)
            self._own = -1

    def _try(self) -> bool:
        others = self._others()
        if others and len(self._held) >= -(-self._count // (len(others) + 1)):
            return False
        mine = {number for number, _ in self._held}
        for number in range(self._count):
            if number in mine:
                continue
            fd = os.open(self._folder / f"place-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
            else:
                self._held.append((number, fd))
                return True
        return False

    def _others(self) -> list[str]:
        """Living runs that want a place at this moment; files of dead ones are removed."""
        found = []
        for path in self._folder.glob("run-*"):
            if path == self._file:
                continue
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if int(os.pread(fd, 20, 0) or b"0"):
                        found.append(path.name)
                else:
                    path.unlink(missing_ok=True)
                finally:
                    os.close(fd)
        return found

    def _tell(self) -> None:
        if self._own >= 0:
            os.pwrite(self._own, f"{self._wanted:<9}\n".encode(), 0)
