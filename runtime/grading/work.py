"""The work that trials left, kept for a later verdict: content-addressed files below ``<run>/artifacts/``.

What differs from the task's pristine repository is kept, each content once per run. The manifest in a trial's
``trial.json`` (``work``) names its files by digest. Knows nothing of how work is graded.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.sandboxes.entries import Entry, made, marked, size
from runtime.task import Task, load_task

MANIFEST = "work"
"""Key of the manifest in ``trial.json``: a file of its own in thousands of folders would be one too many."""


@dataclass(frozen=True)
class Work:
    """What one trial left. ``files``: path inside the agent's box -> what it made of the pristine repository there;
    ``left_out``: why it was not kept."""

    task_id: str
    task_path: Path
    files: Mapping[str, Entry]
    left_out: str | None = None


class WorkStore:
    """The kept work of one run: contents below ``root``, named by their SHA-256."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, work: Work, *, max_bytes: int) -> dict[str, Any]:
        """Keep the files of ``work`` and return its manifest, fit for JSON. Nothing is kept above ``max_bytes``."""
        total = sum(map(size, work.files.values()))
        files: dict[str, str] = {}
        left_out = work.left_out
        if total > max_bytes:
            left_out = f"{total} bytes in {len(work.files)} files; the limit is {max_bytes}"
        else:
            files = {name: self._named(work.files[name]) for name in sorted(work.files)}
        table = {"task": work.task_id, "task_path": str(work.task_path), "files": files, "left_out": left_out}
        # The agent chose the names; bytes that are no text came as escapes, which JSON cannot hold.
        return _clean(table)

    def _named(self, entry: Entry) -> str:
        """The digest of an ordinary file's content; of other entries their kind before it."""
        kind, content = marked(entry)
        digest = self._keep(content) if kind in "fxl" else ""
        return digest if kind == "f" else f"{kind}:{digest}"

    def _keep(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(digest)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Trials end in several threads, and many of them with the same content.
            partial = path.with_name(f".{digest}.{os.getpid()}.{threading.get_native_id()}.partial")
            partial.write_bytes(content)
            partial.replace(path)
        return digest

    def get(self, table: Mapping[str, Any]) -> Work:
        """Raises ``ValueError`` for a manifest or content that is not what was kept."""
        files = {}
        for name, text in table["files"].items():
            kind, _, digest = text.rpartition(":")
            content = self._path(digest).read_bytes() if digest else b""
            if digest and hashlib.sha256(content).hexdigest() != digest:
                raise ValueError(f"{self._path(digest)}: its content has changed")
            files[_restore(name)] = made(kind or "f", content)
        return Work(table["task"], Path(table["task_path"]), files, table["left_out"])

    def _path(self, digest: str) -> Path:
        return self._root / digest[:2] / digest


def _clean(table: dict[str, Any]) -> dict[str, Any]:
    return {**table, "files": {_escape(name): digest for name, digest in table["files"].items()}}


def _escape(name: str) -> str:
    """Lone surrogates (undecodable bytes of a file's name) as ``\\udcXX``, backslashes doubled: fit for JSON."""
    return name.replace("\\", "\\\\").encode("utf-8", "backslashreplace").decode()


def _restore(name: str) -> str:
    parts = name.split("\\\\")
    return "\\".join(part.encode("latin-1", "backslashreplace").decode("unicode_escape") for part in parts)


def task_of(work: Work, elsewhere: Mapping[str, Task]) -> Task:
    """The task that ``work`` belongs to: one of ``elsewhere`` by its id, or where it lay. Raises ``TrialError``."""
    task = elsewhere.get(work.task_id)
    return task if task is not None else load_task(work.task_path)
