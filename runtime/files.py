"""Writing files that other processes read: whole or not at all. Knows nothing of what is written."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` through a temporary sibling, fsync and rename: a reader sees the old bytes or the
    new ones."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """A file's content, or a folder's names, are on disk when this returns. A file's own name is its folder's."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def as_umask_says(folder: Path) -> None:
    """Give every file below ``folder`` the mode of an ordinary new file: what was written through a temporary file
    (safetensors does) is readable by its owner alone."""
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    mask = int(next(line.split()[1] for line in status.splitlines() if line.startswith("Umask:")), 8)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod((path.stat().st_mode & 0o111 | 0o666) & ~mask)


def write_folder(target: Path, files: Mapping[str, str]) -> None:
    """Write text files (names relative to ``target``) so that the folder, which must not exist, appears complete."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, text in files.items():
        path = partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    partial.rename(target)
