"""One folder of an image as its layers make it together: a tree of hard links, made once, never written."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from runtime.oci.layer import is_opaque, is_whiteout


class NoFolder(Exception):
    """Why the image has no such folder."""


def hides_link(layer: Path, lower: Sequence[Path], folder: str) -> bool:
    """Whether ``folder`` of ``layer``, which has no entry of its own, lies over a link of ``lower`` (the lowest first):
    engines would follow that for what is in the folder, and here the folder would hide it."""
    parts = folder.split("/")
    if any(is_opaque(str(layer.joinpath(*parts[:depth]))) for depth in range(1, len(parts) + 1)):
        return False  # it replaces what was there
    for one in reversed(lower):
        place = one
        for depth, part in enumerate(parts, 1):
            place = place / part
            try:
                status = place.lstat()
            except FileNotFoundError:
                break
            if not stat.S_ISDIR(status.st_mode):
                return depth == len(parts) and stat.S_ISLNK(status.st_mode)
            if is_opaque(str(place)):
                return False
    return False


def merge(layers: Sequence[Path], inside: str, target: Path) -> None:
    """Make ``target`` hold what the folder ``inside`` of an image holds; empty where the image has none. layers: the
    lowest first. Raises ``NoFolder`` where the path leads through a link or to a file, ``OSError``.
    """
    target.mkdir(parents=True)
    parts = [part for part in inside.split("/") if part]
    visible: list[Path] = []
    for layer in reversed(layers):  # the highest first, until one hides those below it
        place, hides = layer, False
        for part in parts:
            place = place / part
            try:
                status = place.lstat()
            except FileNotFoundError:
                break
            if is_whiteout(status):
                hides = True
                break
            if not stat.S_ISDIR(status.st_mode):
                raise NoFolder(f"{inside} leads through {'/'.join(place.relative_to(layer).parts)}, which is no folder")
            hides = hides or is_opaque(str(place))
        else:
            visible.append(place)
        if hides:
            break
    if visible:
        _merge(visible, target)


def _merge(sources: Sequence[Path], target: Path) -> None:
    """sources: folders, the highest first."""
    deeper: dict[str, list[Path]] = {}
    closed: set[str] = set()
    for source in sources:
        with os.scandir(source) as entries:
            for entry in entries:
                if entry.name in closed:
                    continue
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    deeper.setdefault(entry.name, []).append(Path(entry.path))
                    if is_opaque(entry.path):
                        closed.add(entry.name)
                    continue
                closed.add(entry.name)
                if is_whiteout(status) or entry.name in deeper:  # a folder above replaces what is no folder
                    continue
                if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                    _place(entry.path, str(target / entry.name))
    for name, folders in deeper.items():
        inner = target / name
        inner.mkdir()
        _merge(folders, inner)
        shutil.copystat(folders[0], inner)
        _strip(inner)


def _place(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # too many links of one file, or another file system
        shutil.copy2(source, target, follow_symlinks=False)


def _strip(folder: Path) -> None:
    for name in os.listxattr(folder):
        if name.startswith("user.overlay."):
            os.removexattr(folder, name)
