"""The work that a trial left, as a patch against its task's pristine repository.

Reads what the run kept (``grading/work.py``) and the task's own files, where these are still there. Knows nothing of
how a patch is shown, and runs nothing: a binary file is named, not shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from runtime.errors import TrialError
from runtime.grading.work import MANIFEST, Work, WorkStore
from runtime.sandboxes.entries import Entry, Folder, Link, Program, Removed
from runtime.task import load_task

_LONGEST = 1 << 20
"""Bytes of a file above which it is named, not compared line by line."""


@dataclass(frozen=True)
class Change:
    """What became of one file. ``what``: added, changed, removed, link or folder; ``text``: its lines of the patch, ""
    where they cannot be shown (``why`` says so)."""

    path: str
    what: str
    text: str
    why: str = ""


@dataclass(frozen=True)
class Patch:
    """All changes of one trial, and what of it is missing."""

    changes: tuple[Change, ...]
    missing: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One unified diff, as ``git apply`` takes it."""
        return "".join(change.text for change in self.changes)


def read_patch(run: Path, record: Mapping[str, Any]) -> Patch:
    """The patch of the trial whose ``trial.json`` is ``record``; never raises for what is not there."""
    manifest = record.get(MANIFEST)
    if not isinstance(manifest, dict):
        return Patch((), ("the work: not kept (observability.dumps.work_every)",))
    try:
        work = WorkStore(run / "artifacts").get(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Patch((), (f"the work: {error}",))
    missing = [] if work.left_out is None else [f"the work: too large to be kept ({work.left_out})"]
    before = _pristine(work, missing)
    changes = [_change(path, entry, before(path) if before else None) for path, entry in sorted(work.files.items())]
    return Patch(tuple(changes), tuple(missing))


def _pristine(work: Work, missing: list[str]) -> Any:
    """A function from a path inside to what the task has there (None: nothing); None where the task is gone."""
    try:
        task = load_task(work.task_path)
    except (TrialError, OSError) as error:
        missing.append(f"the task that it is compared with: {error}")
        return None
    workdir, root = PurePosixPath(task.config.environment.workdir), task.repository

    def before(path: str) -> bytes | None:
        name = PurePosixPath(path)
        if not name.is_relative_to(workdir) or ".." in name.parts:
            return None
        found = root / name.relative_to(workdir)
        try:
            return found.read_bytes() if found.is_file() and not found.is_symlink() else None
        except OSError:
            return None

    return before


def _change(path: str, entry: Entry, before: bytes | None) -> Change:
    shown = path.encode("utf-8", "backslashreplace").decode().lstrip("/")
    if isinstance(entry, Link):
        return Change(shown, "link", "", f"a link to {entry.target!r}")
    if isinstance(entry, Folder):
        return Change(shown, "folder", "", "an empty folder")
    after = None if isinstance(entry, Removed) else entry.content if isinstance(entry, Program) else entry
    what = "removed" if after is None else "added" if before is None else "changed"
    if after is None and before is None:
        return Change(shown, what, "", "what was there is not known")
    texts = [_decoded(content) for content in (before or b"", after or b"")]
    if texts[0] is None or texts[1] is None:
        size = len(after if after is not None else before or b"")
        return Change(shown, what, "", f"{size} bytes, too long or no text")
    return Change(shown, what, _unified(shown, texts[0], texts[1], what=what, program=isinstance(entry, Program)))


def _decoded(content: bytes) -> str | None:
    if len(content) > _LONGEST or b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _unified(path: str, before: str, after: str, *, what: str, program: bool) -> str:
    old = "/dev/null" if what == "added" else f"a/{path}"
    new = "/dev/null" if what == "removed" else f"b/{path}"
    mode = {"added": f"new file mode {'100755' if program else '100644'}\n", "removed": "deleted file mode 100644\n"}
    head = f"diff --git a/{path} b/{path}\n{mode.get(what, '')}"
    # Lines end at line feeds alone: a form feed or a line separator inside of one is a part of it.
    lines = difflib.unified_diff(_lines(before), _lines(after), old, new)
    body = [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines]
    return head + "".join(body)


def _lines(text: str) -> list[str]:
    parts = text.split("\n")
    return [f"{part}\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
