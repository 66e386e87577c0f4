"""Sets of small tasks that lie in one file while nobody plays them.

A generated task is some twenty small files, and a run has hundreds of tasks. ``pack`` writes a set's folders into
``tasks.zip`` beside them as well; ``fold`` then takes the folders away. Whoever needs a task has its folder put back
where it was, so that what records say of a task's place stays true; when that process ends, it goes again. Processes
that use a set hold a lock on its archive: nobody folds what another one uses. Knows nothing of what a task is.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

ARCHIVE = "tasks.zip"
_WHEN = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class _Used:
    """An archive whose tasks this process uses: the lock is that of its stream."""

    stream: BinaryIO
    archive: zipfile.ZipFile
    tasks: Mapping[str, Sequence[zipfile.ZipInfo]]
    owner: int


_used: dict[Path, _Used] = {}


def pack(folder: Path) -> None:
    """Write every task folder of a set into its archive. The bytes depend on the files alone; the folders stay."""
    partial = folder / f".{ARCHIVE}.partial"
    with zipfile.ZipFile(partial, "w") as archive:
        for task in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
            for path in sorted(entry for entry in task.rglob("*") if entry.is_file()):
                one = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _WHEN)
                one.external_attr = (path.stat().st_mode & 0o777) << 16
                archive.writestr(one, path.read_bytes(), zipfile.ZIP_DEFLATED, 1)
    partial.replace(folder / ARCHIVE)


def unpack(path: Path) -> None:
    """Put back what is missing: of a set's folder all tasks, of a task's place that task. Nothing where no archive is.
    Raises ``OSError`` and ``zipfile.BadZipFile``."""
    if (path / ARCHIVE).is_file():
        _put_back(path, None)
    elif not path.is_dir() and (path.parent / ARCHIVE).is_file():
        _put_back(path.parent, path.name)


@contextmanager
def lent(path: Path) -> Iterator[Path]:
    """A task's folder for reading: its own, or where its set is folded a copy that goes when the block ends, so that
    looking at a run writes nothing into it. Raises as ``unpack`` does."""
    archive = path.parent / ARCHIVE
    if path.is_dir() or not archive.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="liverl-task-") as scratch, zipfile.ZipFile(archive) as opened:
        _write(opened, _tasks(opened).get(path.name, ()), Path(scratch))
        yield Path(scratch) / path.name


def names(folder: Path) -> list[str]:
    """The tasks of a set's archive, in order; none where there is no archive that can be read."""
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(folder / ARCHIVE) as archive:
        return list(_tasks(archive))
    return []


def fold(home: Path) -> None:
    """Take away the folders of every set below ``home`` that lie in its archive, unless another process uses them.
    Never raises: what cannot be taken away stays."""
    for archive in sorted(home.glob(f"**/{ARCHIVE}")):
        _fold(archive)


def _fold(archive: Path) -> None:
    if (used := _used.pop(archive, None)) is not None:
        with suppress(OSError):
            fcntl.flock(used.stream, fcntl.LOCK_UN)  # also for children that were forked with it
        used.archive.close()
        used.stream.close()
    # Open for writing: an exclusive lock on NFS wants that.
    with suppress(OSError), archive.open("r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in names(archive.parent):
            shutil.rmtree(archive.parent / name, ignore_errors=True)


def _put_back(folder: Path, name: str | None) -> None:
    used = _use(folder / ARCHIVE)
    wanted = used.tasks if name is None else [name] if name in used.tasks else []
    missing = [one for one in wanted if not (folder / one).is_dir()]
    if not missing:
        return
    staging = Path(tempfile.mkdtemp(prefix=f".{ARCHIVE}.", dir=folder))
    try:
        for one in missing:
            _write(used.archive, used.tasks[one], staging)
            try:
                (staging / one).rename(folder / one)
            except OSError:
                if not (folder / one).is_dir():  # else another process was faster: one is as good as the other
                    raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _use(path: Path) -> _Used:
    """Have the archive's tasks stay until this process ends or folds them. File systems without locks do without."""
    if (known := _used.get(path)) is not None:
        return known
    stream = path.open("rb")
    with suppress(OSError):
        fcntl.flock(stream, fcntl.LOCK_SH)
    try:
        archive = zipfile.ZipFile(stream)
    except BaseException:
        stream.close()
        raise
    used = _used[path] = _Used(stream, archive, _tasks(archive), os.getpid())
    return used


@atexit.register
def _at_end() -> None:
    for path, used in list(_used.items()):
        if used.owner == os.getpid():
            _fold(path)


def _tasks(archive: zipfile.ZipFile) -> dict[str, list[zipfile.ZipInfo]]:
    found: dict[str, list[zipfile.ZipInfo]] = {}
    for one in archive.infolist():
        found.setdefault(one.filename.partition("/")[0], []).append(one)
    return found


def _write(archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], out: Path) -> None:
    made: set[str] = set()
    for one in members:
        if ".." in one.filename.split("/") or one.filename.startswith("/"):
            raise zipfile.BadZipFile(f"{one.filename!r} leads out of its set")
        full = f"{out}/{one.filename}"
        folder = full.rpartition("/")[0]
        if folder not in made:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - a Path per file doubles the time, as in tasks/write.py
            made.add(folder)
        mode = 0o755 if one.external_attr >> 16 & 0o100 else 0o644
        handle = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb", buffering=0) as file:
            file.write(archive.read(one))
