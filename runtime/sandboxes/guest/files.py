"""Moves files in and out of a box from inside it, without ever following a link.

Untrusted code may have planted links anywhere by the time these run, so every path is walked one component at a time
from the root with ``O_NOFOLLOW``. It knows nothing of where the bytes come from or go to.
"""

from __future__ import annotations

import errno
import json
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

MAX_FILES = 20_000
MAX_DEPTH = 64
MAX_ENTRIES = 400_000  # and bytes, of a tree of which most is known and stays where it is
MAX_KNOWN = 4 << 30
MAX_NAMES = 3 << 20  # bytes; the header of a message (``wire.py``) holds them and the sizes
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Refused(Exception):
    """A path that cannot be used: relative, a link on the way, or over a limit."""


def write(path: str, content: bytes, mode: int) -> None:
    """Make a regular file of ``content``, and the folders above it. A link or file in its place is replaced."""
    *folders, name = _parts(path)
    folder = os.open("/", _FOLDER)
    try:
        for part in folders:
            try:
                inner = os.open(part, _FOLDER, dir_fd=folder)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=folder)
                inner = os.open(part, _FOLDER, dir_fd=folder)
            except OSError as error:
                raise Refused(f"{path}: {part}: {error.strerror}") from error
            os.close(folder)
            folder = inner
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}") from error
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, mode, dir_fd=folder), "wb") as stream:
            stream.write(content)
            os.fchmod(stream.fileno(), mode)
    finally:
        os.close(folder)


def remove(path: str) -> None:
    """Remove the regular file or link at ``path``, if there is one."""
    *folders, name = _parts(path)
    try:
        folder = _walk(folders)
    except FileNotFoundError:
        return
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
    finally:
        os.close(folder)


def read(paths: Iterable[str], max_bytes: int) -> dict[str, bytes]:
    """Regular files at or below ``paths``, and links to such beside or below them as if they were copies; other links,
    devices, sockets and pipes are left out. Missing paths give nothing.

    Raises ``Refused`` when they hold more than ``max_bytes`` or ``MAX_FILES``, or names that would fill a message.
    """
    found: dict[str, bytes] = {}
    left, names, count = max_bytes, 0, [0]
    for path in paths:
        for name, content in _read_tree(path, left, count):
            left -= len(content)
            names += len(json.dumps(name)) + 2  # as it travels
            if left < 0 or len(found) >= MAX_FILES or names > MAX_NAMES:
                raise Refused(f"{path}: more than {max_bytes} bytes, {MAX_FILES} files or {MAX_NAMES} bytes of names")
            found[name] = content
    return found


def tree(paths: Iterable[str], max_bytes: int, known: dict[str, str] | None = None) -> dict[str, tuple[str, bytes]]:
    """Everything at or below ``paths`` but special files, as (kind, content): ``f`` a file, ``x`` one that may be
    executed, ``l`` a link (its target, never followed), ``d`` a folder. known: path -> mark; what is still so is left
    out, and what is gone comes as ``-``. Raises ``Refused`` as ``read`` does.
    """
    found: dict[str, tuple[str, bytes]] = {}
    missing = dict(known or {})
    # What is known is compared, however large, but for more than a box may hold; only what changed is held in memory.
    left, names, entries, readable = max_bytes, 0, 0, MAX_KNOWN
    for path in paths:
        for name, kind, there in _tree_at(path):
            entries += 1
            former = missing.pop(name, None)
            try:
                if former is not None:
                    is_, size = _marked(kind, there, readable)
                    readable -= size
                    if is_ == former:
                        continue
                content = there if isinstance(there, bytes) else there.read(left + 1)
            except OSError:
                continue
            if known is not None and (readable < 0 or entries > MAX_ENTRIES):
                raise Refused(f"{name}: more than {MAX_KNOWN} bytes or {MAX_ENTRIES} entries")
            left -= len(content)
            names += len(json.dumps(name)) + 8
            if left < 0 or len(found) >= MAX_FILES or names > MAX_NAMES:
                raise Refused(f"{name}: more than {max_bytes} bytes, {MAX_FILES} entries or {MAX_NAMES} bytes of names")
            found[name] = (kind, content)
    for name in missing:
        if name not in found:
            found[name] = ("-", b"")
    return found


def _marked(kind: str, there: bytes | BinaryIO, most: int) -> tuple[str, int]:
    """What an entry is known by on both sides (``entries.mark``), and how much was read for it: of a file at most a
    little more than ``most`` bytes."""
    if isinstance(there, bytes):
        return kind + there.hex(), len(there)
    import hashlib

    digest, size = hashlib.sha256(), 0
    while size <= most and (part := there.read(1 << 20)):
        digest.update(part)
        size += len(part)
    there.seek(0)
    return kind + digest.hexdigest(), size


def _tree_at(path: str) -> Iterator[tuple[str, str, bytes | BinaryIO]]:
    """Files come open, at their beginning."""
    *folders, name = _parts(path)
    try:
        folder = _walk(folders)
    except OSError:
        return
    try:
        yield from _entries(folder, name, "/" + "/".join([*folders, name]), len(folders))
    finally:
        os.close(folder)


def _entries(folder: int, name: str, path: str, depth: int) -> Iterator[tuple[str, str, bytes | BinaryIO]]:
    """What vanishes or changes its kind under a daemon's hands on the way is left out."""
    try:
        kind = os.lstat(name, dir_fd=folder).st_mode
        if stat.S_ISLNK(kind):
            yield path, "l", os.fsencode(os.readlink(name, dir_fd=folder))
            return
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            return
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return
    try:
        kind = os.fstat(fd).st_mode
        if stat.S_ISREG(kind):
            with open(fd, "rb", closefd=False) as stream:
                yield path, "x" if kind & 0o100 else "f", stream
        elif stat.S_ISDIR(kind):
            if depth > MAX_DEPTH:
                raise Refused(f"{path}: folders nested deeper than {MAX_DEPTH}")
            yield path, "d", b""
            for inner in sorted(os.listdir(fd)):
                yield from _entries(fd, inner, f"{path}/{inner}", depth + 1)
    except OSError:
        return
    finally:
        os.close(fd)


def _read_tree(path: str, limit: int, count: list[int]) -> Iterator[tuple[str, bytes]]:
    *folders, name = _parts(path)
    try:
        folder = _walk(folders)
    except OSError:
        return
    try:
        yield from _read_at(folder, name, "/" + "/".join([*folders, name]), limit, len(folders), count)
    finally:
        os.close(folder)


def _read_at(
    folder: int, name: str, path: str, limit: int, depth: int, count: list[int]
) -> Iterator[tuple[str, bytes]]:
    """count: of all entries that were looked at, for links and special files cost time too."""
    count[0] += 1
    if count[0] > MAX_FILES:
        raise Refused(f"{path}: more than {MAX_FILES} entries")
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            yield from _read_linked(folder, name, path, limit)
        return
    try:
        kind = os.fstat(fd).st_mode
        if stat.S_ISREG(kind):
            with open(fd, "rb", closefd=False) as stream:
                yield path, stream.read(limit + 1)
        elif stat.S_ISDIR(kind):
            if depth > MAX_DEPTH:
                raise Refused(f"{path}: folders nested deeper than {MAX_DEPTH}")
            for inner in sorted(os.listdir(fd)):
                yield from _read_at(fd, inner, f"{path}/{inner}", limit, depth + 1, count)
    finally:
        os.close(fd)


def _read_linked(folder: int, name: str, path: str, limit: int) -> Iterator[tuple[str, bytes]]:
    """What a link stands for, if that is a regular file beside or below the link's own folder: an honest way to give a
    file two names. Nothing else is followed, nor any further link on the way.
    """
    try:
        target = os.readlink(name, dir_fd=folder)
    except OSError:  # it has changed since it was opened
        return
    parts = [part for part in target.split("/") if part and part != "."]
    if target.startswith("/") or ".." in parts or not 0 < len(parts) <= MAX_DEPTH:
        return
    inner = os.dup(folder)
    try:
        for part in parts[:-1]:
            deeper = os.open(part, _FOLDER, dir_fd=inner)
            os.close(inner)
            inner = deeper
        fd = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=inner)
    except OSError:
        return
    finally:
        os.close(inner)
    with open(fd, "rb") as stream:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            yield path, stream.read(limit + 1)


def _walk(folders: list[str]) -> int:
    folder = os.open("/", _FOLDER)
    for part in folders:
        try:
            inner = os.open(part, _FOLDER, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder


def _parts(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part and part != "."]
    if not path.startswith("/") or ".." in parts or not parts:
        raise Refused(f"{path!r}: not an absolute path without '..'")
    return parts
