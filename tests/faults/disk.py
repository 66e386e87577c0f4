"""A process that dies at any of its file operations, with or without the power: for forked children.

``Disk.install`` puts counting operations in the place of those of ``os`` and ``open``, so that whatever the code of the
product writes, by whichever way, is seen. With ``power`` what the disk may lose is lost: of each file, writes after its
last fsync (from some point on; the tail may read as zeros); of each folder, names that were changed after the folder's
last fsync (from some point on). That is what POSIX promises and no more: an fsync of a file does not keep its name.
Knows nothing of what is written.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEAD = 9
"""Exit code of a process that was killed here."""


@dataclass
class _Inode:
    """A file: its content when it was last synced, and what it held after each write since."""

    synced: bytes
    since: list[bytes] = field(default_factory=list)


@dataclass
class _Folder:
    """Names when the folder was last synced, and its changes since: a name now means this file, folder or nothing."""

    synced: dict[str, _Inode | _Folder]
    since: list[dict[str, _Inode | _Folder | None]] = field(default_factory=list)

    def now(self) -> dict[str, _Inode | _Folder]:
        return self.after(len(self.since))

    def after(self, count: int) -> dict[str, _Inode | _Folder]:
        names = dict(self.synced)
        for change in self.since[:count]:
            for name, meant in change.items():
                if meant is None:
                    names.pop(name, None)
                else:
                    names[name] = meant
        return names


@dataclass
class Disk:
    """Of the files below ``folder``. ``at``: the operation at which the process dies (a write gets half way); 0: none.
    ``full``: operations from the first of these on, so many of them, find no room. ``seed``: what a cut leaves."""

    folder: Path
    at: int = 0
    power: bool = False
    full: tuple[int, int] = (0, 0)
    seed: int = 0
    count: int = 0

    def install(self) -> None:
        self._root = self._read(self.folder)
        self._files: dict[int, _Inode] = {}
        real = {name: getattr(os, name) for name in _WRAPPED}
        self._real: dict[str, Any] = {**real, "io.open": io.open}
        for name in _WRAPPED:
            setattr(os, name, getattr(self, f"_{name}"))
        os.remove = os.unlink
        io.open = builtins.open = self._open_stream  # type: ignore[assignment]

    # -- dying

    def _point(self, *, room: bool = False) -> None:
        """One operation. ``room``: it needs some."""
        self.count += 1
        if self.count == self.at:
            self._die()
        first, many = self.full
        if room and first <= self.count < first + many:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _die(self) -> None:
        if self.power:
            self._cut()
        os._exit(DEAD)

    def _cut(self) -> None:
        dice = random.Random(self.seed)
        for name, function in self._real.items():
            if name != "io.open":
                setattr(os, name, function)
        os.remove = os.unlink
        io.open = builtins.open = self._real["io.open"]
        left = self._left(self._root, dice)
        shutil.rmtree(self.folder)
        _write(self.folder, left)

    def _left(self, folder: _Folder, dice: random.Random) -> dict[str, Any]:
        names = folder.after(dice.choice((0, len(folder.since), dice.randint(0, len(folder.since)))))
        found: dict[str, Any] = {}
        for name, meant in names.items():
            if isinstance(meant, _Folder):
                found[name] = self._left(meant, dice)
                continue
            kept = dice.choice((0, len(meant.since), dice.randint(0, len(meant.since))))
            content = meant.since[kept - 1] if kept else meant.synced
            if kept and dice.random() < 0.3:  # the size was written, the data not
                start = dice.randint(min(len(meant.synced), len(content)), len(content))
                content = content[:start] + bytes(len(content) - start)
            found[name] = content
        return found

    # -- what is where

    def _read(self, folder: Path) -> _Folder:
        found: dict[str, _Inode | _Folder] = {}
        for path in folder.iterdir():
            found[path.name] = self._read(path) if path.is_dir() else _Inode(path.read_bytes())
        return _Folder(found)

    def _place(self, path: Any, dir_fd: int | None = None) -> tuple[_Folder, str] | None:
        """The folder and name that a path means, where it is below ours."""
        if isinstance(path, int):
            return None
        whole = os.fsdecode(path)
        if dir_fd is not None:
            whole = f"{_path_of(dir_fd)}/{whole}"
        try:
            # Links stay as they are: what is done to one is not done to what it means.
            parts = Path(os.path.abspath(whole)).relative_to(self.folder).parts  # noqa: PTH100
        except ValueError:
            return None
        folder = self._root
        for part in parts[:-1]:
            inside = folder.now().get(part)
            if not isinstance(inside, _Folder):
                return None
            folder = inside
        return (folder, parts[-1]) if parts else None

    def _known(self, file: int) -> _Inode | _Folder | None:
        """What an open file is."""
        if file in self._files:
            return self._files[file]
        path = _path_of(file)
        if path == str(self.folder):
            return self._root
        place = self._place(path)
        return place[0].now().get(place[1]) if place is not None else None

    # -- operations

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        place = self._place(path, dir_fd)
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if place is None or not writes:
            return int(self._real["open"](path, flags, mode, dir_fd=dir_fd))
        folder, name = place
        inode = folder.now().get(name)
        if inode is None or flags & os.O_TRUNC:
            self._point(room=inode is None)
        file: int = self._real["open"](path, flags, mode, dir_fd=dir_fd)
        if inode is None:
            inode = _Inode(b"")
            folder.since.append({name: inode})
        assert isinstance(inode, _Inode)
        self._files[file] = inode
        if flags & os.O_TRUNC:
            inode.since.append(b"")
        return file

    def _write(self, file: int, block: Any) -> int:
        inode = self._files.get(file)
        if inode is None:
            return int(self._real["write"](file, block))
        self.count += 1
        first, many = self.full
        if self.count == self.at:
            self._real["write"](file, bytes(block)[: len(block) // 2])
            self._changed(file)
            self._die()
        if first <= self.count < first + many:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = int(self._real["write"](file, block))
        self._changed(file)
        return done

    def _changed(self, file: int) -> None:
        path = f"/proc/self/fd/{file}"
        with self._real["io.open"](path, "rb") as stream:
            self._files[file].since.append(stream.read())

    def _ftruncate(self, file: int, size: int) -> None:
        known = file in self._files
        if known:
            self._point()
        self._real["ftruncate"](file, size)
        if known:
            self._changed(file)

    def _fsync(self, file: int) -> None:
        """Nothing reaches a real disk: what counts is what would have."""
        known = self._known(file)
        if known is None:
            return
        self._point()
        if isinstance(known, _Folder):
            known.synced, known.since = known.now(), []
        elif known.since:
            known.synced, known.since = known.since[-1], []

    _fdatasync = _fsync

    def _close(self, file: int) -> None:
        self._files.pop(file, None)
        self._real["close"](file)

    def _replace(self, source: Any, target: Any, **more: Any) -> None:
        old, new = self._place(source), self._place(target)
        if old is None or new is None:
            self._real["replace"](source, target, **more)
            return
        self._point()
        self._real["replace"](source, target, **more)
        meant = old[0].now()[old[1]]
        if old[0] is new[0]:
            old[0].since.append({old[1]: None, new[1]: meant})
        else:
            new[0].since.append({new[1]: meant})
            old[0].since.append({old[1]: None})

    _rename = _replace

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._gone("unlink", path, dir_fd)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._gone("rmdir", path, dir_fd)

    def _gone(self, how: str, path: Any, dir_fd: int | None) -> None:
        place = self._place(path, dir_fd)
        if place is not None and place[1] in place[0].now():
            self._point()
        self._real[how](path, dir_fd=dir_fd)
        if place is not None:
            place[0].since.append({place[1]: None})

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        place = self._place(path, dir_fd)
        if place is not None and place[1] not in place[0].now():
            self._point(room=True)
        self._real["mkdir"](path, mode, dir_fd=dir_fd)
        if place is not None:
            place[0].since.append({place[1]: _Folder({})})

    def _open_stream(self, file: Any, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+") or self._place(file) is None:
            return self._real["io.open"](file, mode, buffering, *more, **named)
        raw = _Stream(self, file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, *more, **named)


_WRAPPED = (
    *("open", "write", "ftruncate", "fsync", "fdatasync", "close"),
    *("replace", "rename", "unlink", "rmdir", "mkdir"),
)


class _Stream(io.FileIO):
    """What ``open`` gives for a file that is written."""

    def __init__(self, disk: Disk, path: Any, mode: str) -> None:
        self._disk = disk
        super().__init__(path, mode, opener=lambda path, flags: disk._open(path, flags, 0o666))

    def write(self, block: Any) -> int:
        return self._disk._write(self.fileno(), bytes(block))

    def close(self) -> None:
        if not self.closed:
            self._disk._files.pop(self.fileno(), None)
        super().close()


def _path_of(file: int) -> str:
    return str(Path(f"/proc/self/fd/{file}").readlink())


def _write(folder: Path, content: dict[str, Any]) -> None:
    folder.mkdir()
    for name, inside in content.items():
        if isinstance(inside, dict):
            _write(folder / name, inside)
        else:
            (folder / name).write_bytes(inside)
