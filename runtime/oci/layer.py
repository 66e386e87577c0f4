"""Unpacks one layer of an image into a folder that overlayfs can stand on.

The tar file comes from strangers and is unpacked on the host, so every name is walked from the folder's root without
following links. What a layer says is removed becomes what overlayfs calls a whiteout. Everything belongs to whoever
unpacks: a box has one user. Dropped are devices, capabilities of files, set-user-id bits, and attributes that overlayfs
would heed. Format: OCI image spec 1.1, layer.md.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import stat
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = ".wh."
_OPAQUE = ".wh..wh..opq"
OPAQUE = "user.overlay.opaque"
_XATTR = "SCHILY.xattr."
_PART = 1 << 20
_BUFFER = 1 << 17
_ENTRY = (
    *(errno.ENOENT, errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP),
    *(errno.EMLINK, errno.E2BIG, errno.ERANGE, errno.EOPNOTSUPP),
)
"""What the kernel says of a stranger's entry, and not of a disk."""
MAX_ENTRIES = 4_000_000
_LOOK_EVERY = 64 << 20


class BadLayer(Exception):
    """Why a layer cannot be unpacked."""


@dataclass
class Unpacked:
    """``diff_id``: digest of the tar file; ``bytes`` of files; ``implied``: folders without an entry of their own, made
    for what is in them."""

    diff_id: str = ""
    bytes: int = 0
    entries: int = 0
    implied: set[str] = field(default_factory=set)


def unpack(blob: Path, target: Path, *, look: Callable[[], None] = lambda: None) -> Unpacked:
    """Unpack a compressed (gzip, zstd) or plain tar file into the empty folder ``target``. look: called now and then,
    to raise where the disk runs full. Raises ``BadLayer``, ``OSError``.
    """
    with blob.open("rb") as file:
        reader = _Hashed(_decompressed(file))
        writer = _Writer(target, look)
        try:
            with tarfile.open(fileobj=reader, mode="r|", bufsize=_BUFFER, errorlevel=2) as archive:
                for member in archive:
                    writer.add(archive, member)
            while reader.read(_PART):
                pass  # what follows the end mark belongs to the digest
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, UnicodeError, _Garbled) as error:
            raise BadLayer(f"no tar file: {error}") from error
        except (ValueError, OverflowError) as error:  # a NUL in a link, a time that is no number
            raise BadLayer(f"an entry that no file can be: {error}") from error
        except OSError as error:
            if error.errno not in _ENTRY:
                raise
            raise BadLayer(f"an entry that no file can be: {error.strerror}") from error
        finally:
            writer.close()
    writer.found.diff_id = f"sha256:{reader.hash.hexdigest()}"
    return writer.found


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    magic = file.read(4)
    file.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return gzip.open(file, "rb")  # type: ignore[return-value]
    if magic == b"\x28\xb5\x2f\xfd":
        return _zstd(file)
    return file


class _Garbled(Exception):
    """A stream of zstd that is none."""


def _zstd(file: IO[bytes]) -> IO[bytes]:
    import zstandard  # what only unpacking needs must not be needed where boxes are made

    class Reader(io.RawIOBase):
        inner = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            try:
                return self.inner.read(size)
            except zstandard.ZstdError as error:
                raise _Garbled(str(error)) from error

    return Reader()  # type: ignore[return-value]


class _Hashed(io.RawIOBase):
    def __init__(self, inner: IO[bytes]) -> None:
        self._inner = inner
        self.hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        part = self._inner.read(size)
        self.hash.update(part)
        return part


class _Writer:
    def __init__(self, target: Path, look: Callable[[], None]) -> None:
        self.found = Unpacked()
        self._root = os.open(target, _FOLDER)
        self._look = look
        self._unseen = 0
        self._last: tuple[tuple[str, ...], int] | None = None  # entries come folder by folder
        self._times: list[tuple[tuple[str, ...], int, tuple[int, int]]] = []

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self.found.entries += 1
        if self.found.entries > MAX_ENTRIES:
            raise BadLayer(f"more than {MAX_ENTRIES} entries")
        parts = _parts(member.name)
        if not parts:
            if member.isdir():
                self._times.append(((), _mode(member), _nanoseconds(member.mtime)))
            return
        *above, name = parts
        folder = self._folder(tuple(above))
        if name.startswith(_GONE):
            self._remove(folder, name)
        elif member.isdir():
            self._make_folder(folder, name, member)
            self.found.implied.discard("/".join(parts))
            self._times.append((tuple(parts), _mode(member), _nanoseconds(member.mtime)))
        elif member.isreg():
            self._clear(folder, name)
            self._file(archive, member, folder, name)
        elif member.issym():
            self._clear(folder, name)
            os.symlink(member.linkname, name, dir_fd=folder)
        elif member.islnk():
            self._link(member, folder, name)
        elif member.isfifo():
            self._clear(folder, name)
            os.mkfifo(name, _mode(member), dir_fd=folder)
        elif not member.isdev():  # devices are left out
            raise BadLayer(f"{member.name}: an entry of unknown kind {member.type!r}")

    def close(self) -> None:
        """Folders get their modes and times last: until then they must be written."""
        try:
            for parts, mode, times in reversed(self._times):
                try:
                    fd = self._walk(parts, make=False)
                except (BadLayer, OSError):
                    continue  # something else is there by now
                try:
                    os.fchmod(fd, mode | 0o700)
                    os.utime(fd, ns=times)
                finally:
                    os.close(fd)
        finally:
            if self._last is not None:
                os.close(self._last[1])
            os.close(self._root)

    def _folder(self, parts: tuple[str, ...]) -> int:
        """A descriptor of a folder below the root, good until the next call."""
        if self._last is not None:
            if self._last[0] == parts:
                return self._last[1]
            os.close(self._last[1])
            self._last = None
        self._last = (parts, self._walk(parts, make=True))
        return self._last[1]

    def _walk(self, parts: tuple[str, ...], *, make: bool) -> int:
        folder = os.dup(self._root)
        for depth, part in enumerate(parts, 1):
            try:
                try:
                    inner = os.open(part, _FOLDER, dir_fd=folder)
                except FileNotFoundError:
                    if not make:
                        raise
                    os.mkdir(part, 0o755, dir_fd=folder)
                    self.found.implied.add("/".join(parts[:depth]))
                    inner = os.open(part, _FOLDER, dir_fd=folder)
                except NotADirectoryError:
                    if not make or not is_whiteout(os.lstat(part, dir_fd=folder)):
                        raise
                    os.unlink(part, dir_fd=folder)
                    os.mkdir(part, 0o755, dir_fd=folder)
                    _make_opaque(part, folder)
                    inner = os.open(part, _FOLDER, dir_fd=folder)
            except NotADirectoryError as error:
                raise BadLayer(f"{'/'.join(parts)}: {part} is no folder but a link or a file") from error
            finally:
                os.close(folder)
            folder = inner
        return folder

    def _clear(self, folder: int, name: str) -> None:
        """A later entry of the same name replaces an earlier one."""
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):
            try:
                os.rmdir(name, dir_fd=folder)
            except OSError as error:
                raise BadLayer(f"{name}: a folder with entries, and then something else") from error

    def _make_folder(self, folder: int, name: str, member: tarfile.TarInfo) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=folder)
        except FileExistsError:
            there = os.lstat(name, dir_fd=folder)
            if not stat.S_ISDIR(there.st_mode):
                self._clear(folder, name)
                os.mkdir(name, 0o755, dir_fd=folder)
                if is_whiteout(there):
                    _make_opaque(name, folder)

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, folder: int, name: str) -> None:
        fd = os.open(name, _FILE, 0o600, dir_fd=folder)
        try:
            source = archive.extractfile(member)
            assert source is not None
            if member.sparse is not None:
                _copy_with_holes(source, fd, self._wrote)
                os.ftruncate(fd, member.size)
            else:
                with open(fd, "wb", buffering=0, closefd=False) as file:
                    while part := source.read(_PART):
                        file.write(part)
                        self._wrote(len(part))
            for key, value in member.pax_headers.items():
                attribute = key.removeprefix(_XATTR)
                if key != attribute and attribute.startswith("user.") and not attribute.startswith("user.overlay."):
                    os.setxattr(fd, attribute, value.encode(errors="surrogateescape"))
            os.fchmod(fd, _mode(member) | 0o600)
            os.utime(fd, ns=_nanoseconds(member.mtime))
        finally:
            os.close(fd)
        self.found.bytes += member.size

    def _wrote(self, count: int) -> None:
        """Look now and then, also within one file: it may be as large as the disk."""
        self._unseen += count
        if self._unseen > _LOOK_EVERY:
            self._unseen = 0
            self._look()

    def _link(self, member: tarfile.TarInfo, folder: int, name: str) -> None:
        *above, source = _parts(member.linkname) or [""]
        there = self._walk(tuple(above), make=False)
        try:
            if not source or stat.S_ISDIR(os.lstat(source, dir_fd=there).st_mode):
                raise BadLayer(f"{member.name}: a hard link to {member.linkname}, which is a folder")
            if (tuple(above), source) != (tuple(_parts(member.name)[:-1]), name):
                self._clear(folder, name)
                os.link(source, name, src_dir_fd=there, dst_dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError as error:
            raise BadLayer(f"{member.name}: a hard link to {member.linkname}, which the layer lacks") from error
        finally:
            os.close(there)

    def _remove(self, folder: int, name: str) -> None:
        if name == _OPAQUE:
            os.setxattr(folder, OPAQUE, b"y")
        elif name.startswith(".wh..wh."):
            return  # AUFS's own
        else:
            gone = name.removeprefix(_GONE)
            if gone in ("", ".", ".."):
                raise BadLayer(f"{name}: removes nothing that has a name")
            try:
                os.mknod(gone, stat.S_IFCHR, os.makedev(0, 0), dir_fd=folder)
            except FileExistsError:  # removed is what lower layers have; this layer's own stays, and alone
                if stat.S_ISDIR(os.lstat(gone, dir_fd=folder).st_mode):
                    _make_opaque(gone, folder)


def _make_opaque(name: str, above: int) -> None:
    fd = os.open(name, _FOLDER, dir_fd=above)
    try:
        os.setxattr(fd, OPAQUE, b"y")
    finally:
        os.close(fd)


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: str) -> bool:
    try:
        return os.getxattr(path, OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise BadLayer(f"{name!r}: a name that leads out of the image")
    return parts


def _mode(member: tarfile.TarInfo) -> int:
    return member.mode & 0o1777


def _nanoseconds(mtime: float) -> tuple[int, int]:
    at = max(0, int(mtime * 1_000_000_000))
    return at, at


def _copy_with_holes(source: IO[bytes], fd: int, wrote: Callable[[int], None]) -> None:
    place = 0
    while part := source.read(1 << 16):
        if part.strip(b"\0"):
            os.pwrite(fd, part, place)
            wrote(len(part))
        place += len(part)
