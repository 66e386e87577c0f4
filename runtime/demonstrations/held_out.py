"""What no demonstration may show: validation tasks, their packages, and copies of their functions in other packages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runtime.config.tasks import canonical
from runtime.task import Task
from runtime.tasks.generate.functions import functions_of, lines_of
from runtime.tasks.generate.package_tasks import top_folders
from runtime.tasks.generate.sources import Package

_DIGEST = re.compile(r"-[0-9a-f]{12}$")


@dataclass(frozen=True)
class HeldOut:
    """``names``: of distributions and import packages, normalised; ``functions``: digests of their functions' texts;
    ``tasks`` and ``split_keys``: of validation tasks; ``trained``: packages that are trained on as well, where tasks
    are split by function."""

    names: frozenset[str] = frozenset()
    functions: frozenset[bytes] = field(default=frozenset(), repr=False)
    tasks: frozenset[str] = frozenset()
    split_keys: frozenset[str] = frozenset()
    trained: frozenset[str] = frozenset()

    @classmethod
    def of(cls, tasks: Iterable[Task] = (), packages: Iterable[Package] = (), trained: Iterable[str] = ()) -> HeldOut:
        """``tasks``: of validation; ``packages``: those that validation tasks are made of; ``trained``: names of those
        that training tasks are made of."""
        names: set[str] = set()
        functions: set[bytes] = set()
        ids: set[str] = set()
        keys: set[str] = set()
        for task in tasks:
            ids.add(task.id)
            keys |= {task.liverl.split_key} - {""}
            package, sources = canonical(package_of(task.id)), task.liverl.source_files
            if package not in names:
                names |= {package, *_import_names(sources, task.liverl.python_path)}
                functions |= {one for path in sources for one in _digests(task.repository / path)}
        for found in packages:
            names |= {canonical(found.name), *_import_names(found.source_files, found.python_path)}
            functions |= {one for path in found.source_files for one in _digests(found.root / path)}
        both = frozenset(map(canonical, trained))
        return cls(frozenset(names), frozenset(functions), frozenset(ids), frozenset(keys), both)

    def has_path(self, path: str) -> bool:
        """Whether a part of a path is a held-out package, its copy in another one included."""
        return any(canonical(part) in self.names for part in path.removesuffix(".py").split("/"))

    def has_function(self, text: str) -> bool:
        return digest(text) in self.functions

    def why_not(self, task: Task) -> str | None:
        """Why a task may not be demonstrated; None: it may."""
        package = canonical(package_of(task.id))
        if task.id in self.tasks:
            return "it is a validation task"
        if package in self.names and package not in self.trained:
            return "its package is held out"
        return "its function is held out" if task.liverl.split_key in self.split_keys else None


def package_of(task_id: str) -> str:
    """``toolz-0123456789ab`` -> ``toolz`` (``runtime/tasks/generate/package_tasks.py``)."""
    return _DIGEST.sub("", task_id)


def _import_names(sources: Iterable[str], python_path: tuple[str, ...]) -> set[str]:
    tops = top_folders(tuple(sources), python_path)
    return {canonical(top.rpartition("/")[2].removesuffix(".py")) for top in tops}


def _digests(file: Path) -> Iterator[bytes]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    lines = lines_of(text)
    for function in functions_of(file.name, text):
        yield digest("".join(lines[function.start - 1 : function.end]))


def digest(text: str) -> bytes:
    """Of a function's text without its indentation, empty lines and comments that stand alone."""
    lines = (line.strip() for line in text.splitlines())
    kept = "\n".join(line for line in lines if line and not line.startswith("#"))
    return hashlib.blake2b(kept.encode(errors="replace"), digest_size=12).digest()
