"""Writes a bundle whole or not at all, and never over anything that the compiler did not write.

Knows files and digests; knows nothing of what they say.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from compiler import emit
from compiler.errors import refuse

LOCK = "liverl.lock"
MAP = ".map.json"
_LOCK_FORMAT = "liverl-bundle-1"
_SWEEP_FORMAT = "liverl-sweep-1"


def lock_text(
    files: Mapping[str, str],
    *,
    entry: str,
    sources: Mapping[str, str],
    experiment: str,
    target: str,
    pins: Mapping[str, str],
    version: str,
) -> str:
    """``liverl.lock``: what this bundle was made from and by, and what it holds. Digests are sha256."""
    lock = {
        "format": _LOCK_FORMAT,
        "compiler": version,
        "experiment": experiment,
        "target": target,
        "spec": entry,
        "sources": dict(sorted(sources.items())),
        "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(files.items())},
        "source_map": MAP,
        "pins": dict(sorted(pins.items())),
    }
    return emit.to_json(lock)


def read_lock(folder: Path) -> dict[str, object] | None:
    """The lock of a bundle, or None where ``folder`` is no bundle."""
    return _read_lock(folder, _LOCK_FORMAT)


def read_sweep_lock(folder: Path) -> dict[str, object] | None:
    """The lock of a folder that holds the bundles of a sweep, or None."""
    return _read_lock(folder, _SWEEP_FORMAT)


def _read_lock(folder: Path, format_name: str) -> dict[str, object] | None:
    try:
        lock = json.loads((folder / LOCK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return lock if isinstance(lock, dict) and lock.get("format") == format_name else None


def _listed(folder: Path) -> set[str] | None:
    """Every file that the compiler wrote into ``folder``, or None where it wrote nothing."""
    lock = read_lock(folder) or read_sweep_lock(folder)
    if lock is None:
        return None
    files, points = lock.get("files"), lock.get("points")
    known = {LOCK, *(files if isinstance(files, dict) else ())}
    for point in points if isinstance(points, dict) else ():
        known |= {f"{point}/{name}" for name in _listed(folder / point) or ()}
    return known


def sweep_lock_text(
    files: Mapping[str, str], *, points: Mapping[str, str], experiment: str, target: str, entry: str, version: str
) -> str:
    """``liverl.lock`` of a sweep's folder. ``points``: folder of each point -> the text of its own lock."""
    lock = {
        "format": _SWEEP_FORMAT,
        "compiler": version,
        "experiment": experiment,
        "target": target,
        "spec": entry,
        "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(files.items())},
        "points": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(points.items())},
    }
    return emit.to_json(lock)


def write_bundle(folder: Path, files: Mapping[str, str]) -> None:
    """Put ``files`` (their lock among them) at ``folder``, in one step for every reader.

    Raises ``SpecError`` when something else than a bundle is there or the place cannot be written, ``OSError`` when
    the disk is full.
    """
    with replacing(folder) as fresh:
        write_files(fresh, files)


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Plain writing, below a folder that nobody reads yet."""
    folder.mkdir(exist_ok=True)
    made = {folder}
    for name, text in files.items():
        path = folder / name
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        path.write_bytes(text.encode())


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder that becomes ``folder`` in one step when the block ends well, and vanishes when it does not.
    Raises what ``write_bundle`` raises."""
    parent = folder.absolute().parent
    made = [above for above in (parent, *parent.parents) if not os.path.lexists(above)]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with _locked(parent):
            _refuse_foreign(folder)
            fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=parent))
            try:
                yield fresh
                fresh.chmod(0o755)
                _exchange(fresh, folder)
                made = []
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the machine's fault, not the spec's
        raise refuse(f"cannot write {folder}: {error.strerror}", fix="choose another folder with -o") from error
    finally:
        for above in made:  # of a failure nothing stays, the way to it neither
            with contextlib.suppress(OSError):
                above.rmdir()


@contextlib.contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """One writer at a time per parent folder; the lock is the folder itself, so that no lock file stays behind."""
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refuse_foreign(folder: Path) -> None:
    if not os.path.lexists(folder):
        return
    if not folder.is_dir() or folder.is_symlink():
        raise refuse(f"{folder} exists and is no bundle", fix="choose another folder with -o, or remove it")
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    if not present:
        return
    known = _listed(folder)
    if known is None:
        raise refuse(f"{folder} exists and is no bundle", fix="choose another folder with -o, or remove it")
    if foreign := sorted(present - known):
        raise refuse(
            f"{folder} holds {foreign[0]}, which the compiler did not write",
            fix="move it away, or choose another folder with -o",
        )


def _exchange(fresh: Path, folder: Path) -> None:
    """Two renames; a reader sees the old bundle, or for an instant none, or the new one. A failure puts the old one
    back."""
    if not folder.exists():
        fresh.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=fresh.parent))
    folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        with contextlib.suppress(OSError):
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
