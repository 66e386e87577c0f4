"""An append-only file of records that survives kill -9 and a power cut: length, checksum, bytes.

What was committed is read back; what was being written when the process died is cut off. What lies behind a record that
was damaged later cannot be read either: it is set aside, and said. Knows nothing of what the records mean.
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from runtime.files import sync

log = logging.getLogger(__name__)

_HEAD = struct.Struct("<II")
"""Length of the record and its CRC-32."""
_LONGEST = 1 << 30


class RecordLog:
    """Writer of one file. Records are kept in memory until ``commit``, which writes and syncs them together, so that
    many writers share one sync. Safe for several threads.

    ``bytes``: where the newest record ends in the file, written or not.
    """

    def __init__(self, path: Path) -> None:
        """Appends to ``path``, whose torn end is cut off first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = 0
        for end, _ in scan(path):
            whole = end
        _set_aside_damage(path, whole)
        begun = not path.exists()
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, whole)
        if begun:  # its folder may be as new
            sync(path.parent)
            sync(path.parent.parent)
        self._pending: list[bytes] = []
        self._flying = b""
        """What is being written."""
        self._appended = self._durable = 0
        self._adding, self._writing = threading.RLock(), threading.Lock()
        self.bytes = self._written = whole

    def append(self, record: bytes) -> int:
        """Add a record; returns the number to give to ``commit``. Raises ``ValueError`` when it is empty or longer than
        what is read back."""
        if not 0 < len(record) <= _LONGEST:
            raise ValueError(f"a record of {len(record)} bytes; allowed are 1 to {_LONGEST}")
        with self._adding:
            self._pending += [_HEAD.pack(len(record), zlib.crc32(record)), record]
            self._appended += 1
            self.bytes += _HEAD.size + len(record)
            return self._appended

    def commit(self, number: int | None = None) -> None:
        """Return once the record of this number (default: all) is on disk. Raises ``OSError`` when it cannot be."""
        with self._adding:
            wanted = self._appended if number is None else number
        with self._writing:
            if self._durable >= wanted:
                return  # another thread's sync took it along
            with self._adding:
                block, self._pending = b"".join(self._pending), []
                self._flying = block
                reached = self._appended
            try:
                self._write(block)
            except OSError:
                with self._adding:
                    self._pending, self._flying = [block, *self._pending], b""
                raise
            with self._adding:
                self._written, self._flying = self._written + len(block), b""
            self._durable = reached

    def read(self, start: int, size: int) -> bytes:
        """So many bytes from this place of the file on, within one record; it may still be waiting for ``commit``."""
        with self._adding:
            if start < self._written:
                found = os.pread(self._file, size, start)
            else:
                start -= self._written
                found = b"".join([self._flying, *self._pending])[start : start + size]
        if len(found) != size:
            raise OSError(f"{self._path}: {len(found)} bytes where {size} were written")
        return found

    def replace(self, records: Iterable[bytes]) -> list[int]:
        """Let the file hold these records alone: whole, or not at all. Returns where each ends. They may be ``read``
        from the old file one by one."""
        ends: list[int] = []
        with self._writing, self._adding:
            partial = self._path.with_name(f".{self._path.name}.partial")
            try:
                with partial.open("wb") as stream:
                    for record in records:
                        stream.write(_HEAD.pack(len(record), zlib.crc32(record)) + record)
                        ends.append(stream.tell())
                    size = stream.tell()
                    stream.flush()
                    os.fsync(stream.fileno())
                partial.replace(self._path)
            except OSError:
                partial.unlink(missing_ok=True)
                raise
            os.close(self._file)
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND)
            self._pending, self._durable, self.bytes, self._written = [], self._appended, size, size
            sync(self._path.parent)
        return ends

    def close(self) -> None:
        """Commit what is left and let the file go."""
        self.commit()
        os.close(self._file)

    def _write(self, block: bytes) -> None:
        """All of it or, in the file's bytes, nothing: what a full disk took of it is cut off again."""
        before = os.fstat(self._file).st_size
        try:
            view = memoryview(block)
            while view:
                view = view[os.write(self._file, view) :]
            # Its size is synced with it; its times need not be.
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, before)
            raise


def read_records(path: Path) -> Iterator[bytes]:
    """The whole records of a file, up to the first that is torn or damaged; none where there is no file."""
    return (record for _, record in scan(path))


def scan(path: Path) -> Iterator[tuple[int, bytes]]:
    """The same, each with the place in the file where it ends."""
    end = 0
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        while len(head := stream.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            if not 0 < length <= _LONGEST:  # zeros: the file had grown, but its content was never written
                return
            record = stream.read(length)
            if len(record) < length or zlib.crc32(record) != checksum:
                return
            end += _HEAD.size + length
            yield end, record


def _set_aside_damage(path: Path, whole: int) -> None:
    """Keep what lies behind the last record that can be read, unless it is the torn end of a write."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        left = os.fstat(stream.fileno()).st_size - whole
        stream.seek(whole)
        head = stream.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return
        length, _ = _HEAD.unpack(head)
        torn = length <= _LONGEST and _HEAD.size + length >= left
        if torn or not any(head):
            return
        number = len(list(path.parent.glob(f"{path.name}*.damaged")))
        aside = path.with_name(f"{path.name}{f'.{number}' if number else ''}.damaged")
        stream.seek(whole)
        with aside.open("wb") as copy:
            shutil.copyfileobj(stream, copy)
            copy.flush()
            os.fsync(copy.fileno())
    said = "%s: a record is damaged at byte %d: %d bytes from there on are lost to the run; they are kept in %s"
    log.error(said, path, whole, left, aside)
