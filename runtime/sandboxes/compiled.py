"""Compiled Python files of host folders, kept for the boxes that will hold them: one sealed memory file per folder.

They lie with the host and not with the fork server, because whatever is in the fork server can be read in every box.
It does not know how files are compiled.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from runtime.errors import TrialError

MAX_FILES = 512
MAX_BYTES = 256 << 20
_ADD_SEALS = 1033
_SEALED = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, SHRINK, GROW, WRITE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A host file or folder, and where it will be in a box. rewrite: its tests as pytest rewrites them."""

    folder: str
    workdir: str
    rewrite: bool


class CompiledFiles:
    """The least lately used go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Source, int | None] = OrderedDict()
        self._making: dict[Source, asyncio.Lock] = {}
        self._bytes = 0

    async def get(self, source: Source, make: Callable[[Source, int], Awaitable[None]]) -> int | None:
        """A descriptor of the caller's own; None where ``source`` cannot be compiled. make: fills the descriptor."""
        lock = self._making.setdefault(source, asyncio.Lock())
        try:
            async with lock:
                if source not in self._kept:
                    self._keep(source, await _made(source, make))
                self._kept.move_to_end(source)
                fd = self._kept[source]
                return None if fd is None else os.dup(fd)
        finally:
            if not lock.locked():
                self._making.pop(source, None)

    def close(self) -> None:
        while self._kept:
            self._drop()

    def _keep(self, source: Source, fd: int | None) -> None:
        self._kept[source] = fd
        self._bytes += _size(fd)
        while len(self._kept) > 1 and (len(self._kept) > MAX_FILES or self._bytes > MAX_BYTES):
            self._drop()

    def _drop(self) -> None:
        _, fd = self._kept.popitem(last=False)
        if fd is not None:
            self._bytes -= _size(fd)
            os.close(fd)


async def _made(source: Source, make: Callable[[Source, int], Awaitable[None]]) -> int | None:
    fd = os.memfd_create("compiled", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        await make(source, fd)
        fcntl.fcntl(fd, _ADD_SEALS, _SEALED)
    except (TrialError, TimeoutError, OSError) as error:
        os.close(fd)
        log.info("%s is compiled anew in every sandbox: %s", source.folder, error)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _size(fd: int | None) -> int:
    return 0 if fd is None else os.fstat(fd).st_size
