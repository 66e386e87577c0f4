"""Verdicts of screening, kept for tasks whose boxes are made of an image: by its digest and all files that decide.

What a task without an image finds in its box is the machine's, which has no digest; nothing is kept of those.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from runtime.files import write_whole
from runtime.task import Task

_VERSION = 1
"""Raise it when the same task would be judged otherwise."""
_DECIDES = ("task.toml", "environment", "tests", "solution")


class Screened:
    """Below ``folder``; limits: what else decides (``memory_mib``, the kind of box)."""

    def __init__(self, folder: Path, *, limits: str) -> None:
        self._folder = folder
        self._limits = limits
        self.hits = 0

    def get(self, task: Task) -> tuple[bool, str | None]:
        """Whether a verdict is known, and why the task is not usable."""
        path = self._path(task)
        if path is None:
            return False, None
        try:
            why = json.loads(path.read_bytes())["why"]
        except (OSError, ValueError, KeyError):
            return False, None
        self.hits += 1
        return True, why

    def put(self, task: Task, why: str | None) -> None:
        path = self._path(task)
        if path is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps({"task": task.id, "why": why}).encode())

    def _path(self, task: Task) -> Path | None:
        if task.work.image is None:
            return None
        total = hashlib.sha256(f"{_VERSION}\0{self._limits}\0{task.work.image.digest}\0".encode())
        for name in _DECIDES:
            root = task.path / name
            for path in (root, *sorted(root.rglob("*"))):
                if path.is_symlink():
                    what = b"link\0" + os.fsencode(path.readlink())
                elif path.is_file():
                    what = b"%o\0" % (path.stat().st_mode & 0o777) + hashlib.sha256(path.read_bytes()).digest()
                else:
                    what = b"folder"
                total.update(os.fsencode(path.relative_to(task.path)) + b"\0" + what + b"\0")
        return self._folder / f"{total.hexdigest()[:32]}.json"
