"""The work that a trial left, as a patch against its task's pristine repository.

Reads what the run kept (``grading/work.py``) and the task's own files, where these are still there. Knows nothing of
how a patch is shown, and runs nothing: a binary file is named, not shown.
"""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from runtime.errors import TrialError
from runtime.grading.work import MANIFEST, Work, WorkStore
from runtime.sandboxes.entries import Entry, Folder, Link, Program, Removed, Same
from runtime.task import load_task
from runtime.task_format import packed

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
        """One unified diff. Its paths are the box's: ``git apply -p2`` takes it in the repository of a task whose
        working directory is ``/app``, with one more for each further folder of it."""
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
    with ExitStack() as stack:
        before = _pristine(work, missing, stack)
        changes = [_change(path, entry, before(path) if before else None) for path, entry in sorted(work.files.items())]
    return Patch(tuple(changes), tuple(missing))


def _pristine(work: Work, missing: list[str], stack: ExitStack) -> Any:
    """A function from a path inside to the file that the task has there (None: none); None where the task is gone."""
    try:
        task = load_task(stack.enter_context(packed.lent(work.task_path)))
    except (TrialError, OSError, zipfile.BadZipFile) as error:
        missing.append(f"the task that it is compared with: {error}")
        return None
    workdir, root = PurePosixPath(task.config.environment.workdir), task.repository

    def before(path: str) -> bytes | Program | None:
        name = PurePosixPath(path)
        if not name.is_relative_to(workdir) or ".." in name.parts:
            return None
        found = root / name.relative_to(workdir)
        try:
            if not found.is_file() or found.is_symlink():
                return None
            content = found.read_bytes()
            return Program(content) if found.stat().st_mode & 0o100 else content
        except OSError:
            return None

    return before


def _change(path: str, entry: Entry, before: bytes | Program | None) -> Change:
    inside = path.lstrip("/")
    shown = inside.encode("utf-8", "backslashreplace").decode()
    if isinstance(entry, Link):
        return Change(shown, "link", "", f"a link to {entry.target!r}")
    if isinstance(entry, Folder):
        return Change(shown, "folder", "", "an empty folder")
    assert not isinstance(entry, Same), "a difference holds what differs"
    after = None if isinstance(entry, Removed) else entry
    what = "removed" if after is None else "added" if before is None else "changed"
    if after is None and before is None:
        return Change(shown, what, "", "what was there is not known")
    if before == after:
        return Change(shown, what, "", "written again as it was")
    old, new = (one.content if isinstance(one, Program) else one or b"" for one in (before, after))
    # Equal contents are no matter of text: the mode alone has changed.
    texts = ["", ""] if old == new else [_decoded(content) for content in (old, new)]
    if texts[0] is None or texts[1] is None:
        return Change(shown, what, "", f"{len(old if after is None else new)} bytes, too long or no text")
    modes = ["100755" if isinstance(one, Program) else "100644" for one in (before, after)]
    return Change(shown, what, _unified(inside, texts[0], texts[1], what=what, modes=modes))


def _decoded(content: bytes) -> str | None:
    if len(content) > _LONGEST or b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _unified(path: str, before: str, after: str, *, what: str, modes: Sequence[str]) -> str:
    a, b = _quoted(f"a/{path}"), _quoted(f"b/{path}")
    head = f"diff --git {a} {b}\n"
    if what == "added":
        head += f"new file mode {modes[1]}\n"
    elif what == "removed":
        head += f"deleted file mode {modes[0]}\n"
    elif modes[0] != modes[1]:
        head += f"old mode {modes[0]}\nnew mode {modes[1]}\n"
    # A tab ends a name with a blank in it, as git writes it: ``patch`` would else end it at the blank.
    old = "/dev/null" if what == "added" else a + "\t" * (" " in a)
    new = "/dev/null" if what == "removed" else b + "\t" * (" " in b)
    # Lines end at line feeds alone: a form feed or a line separator inside of one is a part of it.
    lines = difflib.unified_diff(_lines(before), _lines(after), old, new)
    body = [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines]
    return head + "".join(body)


def _quoted(path: str) -> str:
    """A path as git writes it in a patch: one with characters that could end it, or steer who reads it, as a C string.
    Letters of any script stay (``core.quotePath`` false)."""
    if path.isprintable() and not set(path) & set('"\\'):
        return path
    escaped = (
        f"\\{character}"
        if character in '"\\'
        else character
        if character.isprintable()
        else "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))
        for character in path
    )
    return f'"{"".join(escaped)}"'


def _lines(text: str) -> list[str]:
    parts = text.split("\n")
    return [f"{part}\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
