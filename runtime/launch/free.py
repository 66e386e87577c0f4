"""What runs left that nobody needs any more: found with its size, and removed when asked to.

A run that goes on is never touched, and of every run the newest whole checkpoint and the best one stay, and whatever
another run stands on. Caches are left alone while any run of the folder goes on. Nothing is removed through a link:
what lies behind one may be somebody's. Knows the layout of run directories, not what is in their files.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from runtime.errors import UserError
from runtime.launch import ledger
from runtime.launch.rundir import FINAL_STATES, RunDirectory, RunRecord
from runtime.launch.score import REQUEST_FILE
from runtime.sandboxes import images
from runtime.telemetry.metrics import read_rows
from runtime.telemetry.scores import validation_scores
from runtime.trainer import stable

Kind = Literal["checkpoints", "trials", "caches", "images"]
KINDS: tuple[str, ...] = get_args(Kind)
_DAY_SEC = 86_400.0


@dataclass(frozen=True)
class Garbage:
    """One folder that would go. ``why`` in words; ``size`` in bytes as they lie on the disk; ``runs_dir``: the runs
    that it was found for; ``record``: as its run's was then (None: no run's); ``before``: nobody used it since."""

    kind: Kind
    path: Path
    size: int
    why: str
    runs_dir: Path
    run: RunDirectory | None = None
    record: RunRecord | None = None
    before: float = 0.0

    @property
    def there(self) -> bool:
        return os.path.lexists(self.path)


def find(runs_dir: Path, *, kinds: Sequence[str] = KINDS, older_than_days: float = 7.0) -> list[Garbage]:
    """Everything that could go, of runs that ended at least so long ago, and of caches that nothing used since."""
    now = time.time()
    before = now - older_than_days * _DAY_SEC
    entries = ledger.runs(runs_dir)
    used = _used(entries)
    found: list[Garbage] = []
    for entry in entries:
        path = entry.directory.path
        if not _over(entry) or _ended(entry.record.end) > before or path.is_symlink() or path.parent.is_symlink():
            continue
        if "checkpoints" in kinds:
            found += _checkpoints(entry, used)
        if "trials" in kinds:
            found += _trials(entry)
    if all(_over(entry) for entry in entries):
        cache = runs_dir / ".cache"
        if "caches" in kinds and not cache.is_symlink():
            found += _old(cache, "caches", before, "nothing has used it since", runs_dir)
        if "images" in kinds:
            # Runs of every folder share them, and each box that a run opens touches its image: a day is longer than a
            # box lives.
            used_since = min(before, now - _DAY_SEC)
            why = "packages for tasks; installed again when needed"
            found += _old(images.default_cache(), "images", used_since, why, runs_dir)
    return found


def remove(garbage: Sequence[Garbage]) -> list[str]:
    """Remove all of it that is still nobody's: what a run has taken up since it was found stays. Returns what could not
    be, in words."""
    problems = []
    entries = {one.runs_dir: ledger.runs(one.runs_dir) for one in garbage}
    for one in garbage:
        try:
            if one.kind == "images" and images.is_image(one.path):
                _remove_image(one)
            elif _still(one, entries[one.runs_dir]):
                _remove(one)
        except OSError as error:
            problems.append(f"{error.filename or one.path}: {error.strerror}")
    return problems


def _remove(one: Garbage) -> None:
    if one.path.is_symlink() or not one.path.is_dir():
        one.path.unlink(missing_ok=True)
        return
    if one.kind == "checkpoints":
        (one.path / stable.MARKER).unlink(missing_ok=True)  # half removed it must not pass for whole
    shutil.rmtree(one.path)


def _remove_image(one: Garbage) -> None:
    """Under the lock that ``images.prepare`` takes to use or to install one, and not if it was used meanwhile."""
    with one.path.with_name(f"{one.path.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if max(_times(one.path), default=0.0) >= one.before:
            return
        # Gone at once, so that nobody finds a half of it, and nobody waits for the lock while much is removed.
        aside = Path(tempfile.mkdtemp(dir=one.path.parent))
        one.path.rename(aside / "image")
    shutil.rmtree(aside)


def _still(one: Garbage, entries: Sequence[ledger.Entry]) -> bool:
    """Whether it is garbage yet: a run may have been resumed, or have begun, since it was found."""
    if one.run is None:
        return all(_over(entry) for entry in entries)
    try:
        if one.run.read() != one.record or one.run.alive:
            return False
    except UserError:
        return False
    return one.kind != "checkpoints" or not _stands_on(one.path, _used(entries))


def _over(entry: ledger.Entry) -> bool:
    """A record whose process cannot be asked for, or that was left behind by a kill, may still be somebody's."""
    return entry.record.state in FINAL_STATES and not entry.directory.alive


def _used(entries: Sequence[ledger.Entry]) -> set[Path]:
    """The models that runs began with, and those that an evaluation, which may be resumed, is of."""
    used = set()
    for entry in entries:
        with suppress(OSError, RuntimeError):
            used.add(entry.directory.policy.resolve())
        if entry.record.kind != "train" and entry.record.state != "succeeded":
            with suppress(OSError, ValueError, KeyError, TypeError, RuntimeError):
                request = json.loads((entry.directory.path / REQUEST_FILE).read_text(encoding="utf-8"))
                used.add(Path(request["checkpoint"]).resolve())
    return used


def _stands_on(folder: Path, used: set[Path]) -> bool:
    whole = folder.resolve()
    return any(one.is_relative_to(whole) for one in used)


def kept_steps(checkpoints: Path, metrics: Path) -> set[int]:
    """The newest whole checkpoint and the best one: that with the highest mean held-out score, the later of equals."""
    steps = stable.stable_steps(checkpoints)
    scores = {
        row.step: sum(found.values()) / len(found) for row in read_rows(metrics) if (found := validation_scores(row))
    }
    scored = [step for step in steps if step in scores]
    return {*steps[-1:], *([max(scored, key=lambda step: (scores[step], step))] if scored else [])}


def _checkpoints(entry: ledger.Entry, used: set[Path]) -> Iterator[Garbage]:
    directory = entry.directory
    if directory.checkpoints.is_symlink():
        return
    keep = kept_steps(directory.checkpoints, directory.metrics)
    whole = set(stable.stable_steps(directory.checkpoints))
    for folder in sorted(directory.checkpoints.glob("global_step_*")):
        number = folder.name.rpartition("_")[2]
        if not number.isdecimal() or int(number) in keep or folder.is_symlink() or _stands_on(folder, used):
            continue
        why = "neither the newest nor the best" if int(number) in whole else "not whole"
        yield _of_run(entry, "checkpoints", folder, why)


def _trials(entry: ledger.Entry) -> Iterator[Garbage]:
    directory = entry.directory
    for folder in (directory.trials, directory.path / "artifacts", directory.abandoned, directory.path / "journal"):
        if folder.is_dir() and not folder.is_symlink() and any(folder.iterdir()):
            yield _of_run(entry, "trials", folder, f"the run ended {entry.record.end[:10]}")


def _of_run(entry: ledger.Entry, kind: Kind, folder: Path, why: str) -> Garbage:
    directory = entry.directory
    return Garbage(kind, folder, size_of(folder), why, directory.runs_dir, run=directory, record=entry.record)


def _old(root: Path, kind: Kind, before: float, why: str, runs_dir: Path) -> Iterator[Garbage]:
    for path in sorted(root.glob("*")) if root.is_dir() else ():
        newest = max(_times(path), default=0.0)
        if newest < before and path.suffix != ".lock" and not path.is_symlink():
            yield Garbage(kind, path, size_of(path), why, runs_dir, before=before)


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
