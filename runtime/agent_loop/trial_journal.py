"""A worker's own journal of the trials that it has played: their bytes, on disk before anybody hears of them.

Files are begun anew when they are large, so that old ones can be removed whole: by whoever knows that nothing in them
is needed. Knows nothing of groups.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Collection
from pathlib import Path

from runtime.agent_loop.remote_result import Place
from runtime.agent_loop.trial_bytes import to_bytes
from runtime.agent_loop.types import TrialResult
from runtime.rollouter.record_log import RecordLog

SEGMENT_BYTES = 64 << 20
_HEAD = struct.Struct("<II")
_ENDING = ".trials"


class TrialJournal:
    """Files of one start of one worker below ``folder``. For one event loop, and the threads that it syncs in."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        self._name = f"{worker}-{secrets.token_hex(4)}"
        self._number = 0
        self._lock = threading.Lock()
        self._full: list[RecordLog] = []
        """The file before this one: some thread may still sync a record of it."""
        self._file, self._log = self._begin(0)

    async def keep(self, result: TrialResult) -> Place:
        """Returns once the trial is on disk. Raises ``OSError`` where it cannot be written."""
        return await asyncio.to_thread(self._keep, result)

    def _keep(self, result: TrialResult) -> Place:
        payload = to_bytes(result)
        with self._lock:
            log, file = self._log, self._file
            number = log.append(payload)
            start = log.bytes - len(payload)
            if log.bytes > SEGMENT_BYTES:
                # Where the disk has no room for another file, this one grows on.
                with contextlib.suppress(OSError):
                    self._next()
        log.commit(number)
        return Place(file, start, len(payload))

    @property
    def bytes(self) -> int:
        """Of its files that are still there."""
        return sum(_sizes(self._folder, f"{self._name}*{_ENDING}").values())

    def close(self) -> None:
        for log in (*self._full, self._log):
            log.close()

    def _next(self) -> None:
        file, log = self._begin(self._number + 1)
        while self._full:
            self._full.pop().close()
        self._full.append(self._log)
        self._number, self._file, self._log = self._number + 1, file, log

    def _begin(self, number: int) -> tuple[str, RecordLog]:
        file = f"{self._name}-{number:03d}{_ENDING}"
        return file, RecordLog(self._folder / file)


def read_place(folder: Path, place: Place) -> bytes:
    """The bytes of a trial. Raises ``OSError`` where they are gone or damaged."""
    with (folder / place.file).open("rb") as stream:
        found = os.pread(stream.fileno(), _HEAD.size + place.size, place.start - _HEAD.size)
    payload = found[_HEAD.size :]
    if len(payload) != place.size or _HEAD.unpack_from(found) != (place.size, zlib.crc32(payload)):
        raise OSError(f"{folder / place.file}: no whole record of {place.size} bytes at {place.start}")
    return payload


def journal_files(folder: Path) -> dict[str, int]:
    """Name -> size of every worker's files."""
    return _sizes(folder, f"*{_ENDING}")


def _sizes(folder: Path, pattern: str) -> dict[str, int]:
    """Those that are removed meanwhile, by another process, are left out."""
    sizes = dict[str, int]()
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            sizes[path.name] = path.stat().st_size
    return sizes


def remove_files(folder: Path, names: Collection[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)
