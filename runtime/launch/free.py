"""What runs left that nobody needs any more: found with its size, and removed when asked to.

A run that goes on is never touched, and of every run the newest whole checkpoint and the best one stay. Caches are left
alone while any run of the folder goes on. Knows the layout of run directories, not what is in their files.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from runtime.launch import ledger
from runtime.launch.rundir import FINAL_STATES
from runtime.sandboxes.images import default_cache
from runtime.telemetry.metrics import read_rows
from runtime.telemetry.scores import validation_scores
from runtime.trainer import stable

Kind = Literal["checkpoints", "trials", "caches", "images"]
KINDS: tuple[str, ...] = get_args(Kind)
_DAY_SEC = 86_400.0


@dataclass(frozen=True)
class Garbage:
    """One folder that would go. ``why`` in words; ``size`` in bytes as they lie on the disk."""

    kind: Kind
    path: Path
    size: int
    why: str


def find(runs_dir: Path, *, kinds: Sequence[str] = KINDS, older_than_days: float = 7.0) -> list[Garbage]:
    """Everything that could go, of runs that ended at least so long ago, and of caches that nothing used since."""
    now = time.time()
    before = now - older_than_days * _DAY_SEC
    entries = ledger.runs(runs_dir)
    # A record whose process cannot be asked for, or that was left behind by a kill, may still be somebody's.
    alive = any(entry.directory.alive or entry.record.state not in FINAL_STATES for entry in entries)
    found: list[Garbage] = []
    for entry in entries:
        if entry.record.state not in FINAL_STATES or entry.directory.alive or _ended(entry.record.end) > before:
            continue
        if "checkpoints" in kinds:
            found += _checkpoints(entry)
        if "trials" in kinds:
            found += _trials(entry)
    if not alive:
        if "caches" in kinds:
            found += _old(runs_dir / ".cache", "caches", before, "nothing has used it since")
        if "images" in kinds:
            found += _old(default_cache(), "images", before, "packages for tasks; installed again when needed")
    return found


def remove(garbage: Sequence[Garbage]) -> list[str]:
    """Remove all of it; returns what could not be, in words."""
    problems = []
    for one in garbage:
        try:
            if one.kind == "checkpoints":
                (one.path / stable.MARKER).unlink(missing_ok=True)  # half removed it must not pass for whole
            if one.path.is_dir() and not one.path.is_symlink():
                shutil.rmtree(one.path)
            else:
                one.path.unlink(missing_ok=True)
        except OSError as error:
            problems.append(f"{error.filename or one.path}: {error.strerror}")
    return problems


def kept_steps(checkpoints: Path, metrics: Path) -> set[int]:
    """The newest whole checkpoint and the best one: that with the highest mean held-out score, the later of equals."""
    steps = stable.stable_steps(checkpoints)
    scores = {
        row.step: sum(found.values()) / len(found) for row in read_rows(metrics) if (found := validation_scores(row))
    }
    scored = [step for step in steps if step in scores]
    return {*steps[-1:], *([max(scored, key=lambda step: (scores[step], step))] if scored else [])}


def _checkpoints(entry: ledger.Entry) -> Iterator[Garbage]:
    directory = entry.directory
    keep = kept_steps(directory.checkpoints, directory.metrics)
    whole = set(stable.stable_steps(directory.checkpoints))
    for folder in sorted(directory.checkpoints.glob("global_step_*")):
        number = folder.name.rpartition("_")[2]
        if number.isdigit() and int(number) not in keep:
            why = "neither the newest nor the best" if int(number) in whole else "not whole"
            yield Garbage("checkpoints", folder, size_of(folder), why)


def _trials(entry: ledger.Entry) -> Iterator[Garbage]:
    directory = entry.directory
    for folder in (directory.trials, directory.path / "artifacts", directory.abandoned, directory.path / "journal"):
        if folder.is_dir() and any(folder.iterdir()):
            yield Garbage("trials", folder, size_of(folder), f"the run ended {entry.record.end[:10]}")


def _old(root: Path, kind: Kind, before: float, why: str) -> Iterator[Garbage]:
    for path in sorted(root.glob("*")) if root.is_dir() else ():
        newest = max(_times(path), default=0.0)
        if newest < before:
            yield Garbage(kind, path, size_of(path), why)


def _times(path: Path) -> Iterator[float]:
    """When it was read or written last, as far as the file system says; two levels are enough to see use. That a folder
    was read says nothing: looking for garbage reads it."""
    for one in (path, *(path.glob("*") if path.is_dir() else ())):
        with suppress(OSError):
            status = one.lstat()
            yield status.st_mtime if stat.S_ISDIR(status.st_mode) else max(status.st_mtime, status.st_atime)


def size_of(path: Path) -> int:
    """Bytes on the disk; files that have other names elsewhere count, links do not."""
    total = 0
    pending = [path]
    while pending:
        one = pending.pop()
        with suppress(OSError):
            if one.is_symlink():
                continue
            if one.is_dir():
                pending += [Path(entry.path) for entry in os.scandir(one)]
            else:
                total += one.lstat().st_blocks * 512
    return total


def _ended(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return time.time()  # not known: it may have ended just now
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
