"""An append-only file of records that survives kill -9 and a power cut: length, checksum, bytes.

What was committed is read back; what was being written when the process died is cut off. Knows nothing of what the
records mean.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

_HEAD = struct.Struct("<II")
"""Length of the record and its CRC-32."""
_LONGEST = 1 << 30


class RecordLog:
    """Writer of one file. Records are kept in memory until ``commit``, which writes and syncs them together, so that
    many writers share one sync. Safe for several threads.
    """

    def __init__(self, path: Path) -> None:
        """Appends to ``path``, whose torn end is cut off first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = sum(_HEAD.size + len(record) for record in read_records(path))
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, whole)
        self._pending: list[bytes] = []
        self._appended = self._durable = 0
        self._adding, self._writing = threading.Lock(), threading.Lock()
        self.bytes = whole

    def append(self, record: bytes) -> int:
        """Add a record; returns the number to give to ``commit``."""
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
                reached = self._appended
            try:
                self._write(block)
            except OSError:
                with self._adding:
                    self._pending = [block, *self._pending]
                raise
            self._durable = reached

    def replace(self, records: Iterable[bytes]) -> None:
        """Let the file hold these records alone: whole, or not at all."""
        with self._writing, self._adding:
            partial = self._path.with_name(f".{self._path.name}.partial")
            with partial.open("wb") as stream:
                for record in records:
                    stream.write(_HEAD.pack(len(record), zlib.crc32(record)) + record)
                size = stream.tell()
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(self._path)
            os.close(self._file)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            self._pending, self._durable, self.bytes = [], self._appended, size

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
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, before)
            raise


def read_records(path: Path) -> Iterator[bytes]:
    """The whole records of a file, up to the first that is torn or damaged; none where there is no file."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        while len(head := stream.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            if length > _LONGEST:
                return
            record = stream.read(length)
            if len(record) < length or zlib.crc32(record) != checksum:
                return
            yield record
