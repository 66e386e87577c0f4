"""Finds and loads task directories; what is unusable is named and left out. Does not know where the directories came
from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

from runtime.errors import TrialError, UserError
from runtime.task import Task, load_task
from runtime.task_format import packed

OnProblem = Callable[[str], None]
"""Told, for each task that is left out, where it is and what is wrong with it."""

_MARKS = ("task.toml", "task.yaml")
"""Of Harbor's format, and of Terminal-Bench's older one, which is then refused by name."""
_PARTS = ("task.toml", "instruction.md", "environment", "tests", "solution")


def find_task_directories(paths: Sequence[Path]) -> list[Path]:
    """The task directories among ``paths``: each a task itself, or a folder of tasks (in order of name).

    A folder that has parts of a task counts as one, so that a missing ``task.toml`` is reported and not passed over.
    Raises ``UserError`` for paths that do not exist or hold no task.
    """
    found: list[Path] = []
    problems: list[str] = []
    for path in paths:
        with suppress(OSError, BadZipFile):  # then it is said below that there is none
            packed.unpack(path)
        if not path.is_dir():
            problems.append(f"{path}: no such folder; give task directories or folders of task directories")
            continue
        tasks = [path] if _looks_like_task(path) else list(_children(path))
        if not tasks:
            problems.append(f"{path}: no task in it; a task directory has a task.toml and an instruction.md")
        found += tasks
    if problems:
        raise UserError(*problems)
    return list(dict.fromkeys(found))


def _looks_like_task(path: Path) -> bool:
    return any((path / mark).exists() for mark in _MARKS) or sum((path / part).exists() for part in _PARTS) >= 2


def _children(folder: Path) -> Iterator[Path]:
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith(".") and _looks_like_task(child):
            yield child


def load_tasks(directories: Sequence[Path], *, on_problem: OnProblem) -> list[Task]:
    """The usable tasks of ``directories``. Raises ``UserError`` when two have the same id: their scores would mix."""
    tasks: dict[str, Task] = {}
    twice: list[str] = []
    for directory in directories:
        try:
            task = load_task(directory)
        except TrialError as error:
            on_problem(str(error))
            continue
        if task.id in tasks:
            twice.append(
                f"{directory}: task id {task.id!r} is taken by {tasks[task.id].path}; rename one of the folders"
            )
        tasks[task.id] = task
    if twice:
        raise UserError(*twice)
    return list(tasks.values())
