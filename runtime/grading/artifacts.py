"""Chooses what of an agent's work the verifier takes over: declared regular files, never tests or test configuration.

It knows files and paths only; links and special files were left out when the sandbox was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.task import Task

MAX_FILES = 5_000
MAX_FILE_BYTES = 8 << 20
MAX_TOTAL_BYTES = 64 << 20

PROTECTED_NAMES = frozenset(
    [
        "conftest.py",
        "pytest.ini",
        ".pytest.ini",
        "tox.ini",
        "setup.cfg",
        "pyproject.toml",
        "sitecustomize.py",
        "usercustomize.py",
    ]
)
"""They steer the test run itself; where the verdict comes from test ids, the repository's own are used."""


@dataclass(frozen=True)
class Selection:
    """``files`` by absolute path inside the verifier's sandbox: the agent's, then the task's tests over them."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    problem: str | None = None
    """Why nothing can be taken over; the trial is then unsolved."""


def select(task: Task, artifacts: Mapping[str, bytes]) -> Selection:
    """What must be written over the pristine repository before the tests run; files that equal it are left out."""
    workdir = PurePosixPath(task.config.environment.workdir)
    chosen: dict[str, bytes] = {}
    total = 0
    for name, content in artifacts.items():
        path = PurePosixPath(name)
        if ".." in path.parts or not any(path.is_relative_to(root) for root in task.handed_in):
            continue
        relative = path
        if path.is_relative_to(workdir):
            relative = path.relative_to(workdir)
            if not _taken(task, relative) or _same(task.repository / relative, content):
                continue
            if _stands_in_the_way(task.repository, relative):
                why = f"{relative} stands where the repository has a folder, a link or a file above it"
                return Selection(problem=why)
        total += len(content)
        if len(content) > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES or len(chosen) >= MAX_FILES:
            return Selection(problem=f"artifacts over the limit at {relative}")
        chosen[str(path)] = content
    for relative, content in _test_files(task):
        name = str(workdir / relative)
        chosen.pop(name, None)
        if not _same(task.repository / relative, content):
            chosen[name] = content
    return Selection(files=chosen)


def _taken(task: Task, path: PurePosixPath) -> bool:
    if path == PurePosixPath("."):
        return False
    tests = test_paths(task)
    if any(path.is_relative_to(test) or PurePosixPath(test).is_relative_to(path) for test in tests):
        return False
    if task.expected_ids and _steers_tests(task, path, tests):
        return False
    if task.expected_ids and (path.name in PROTECTED_NAMES or path.suffix == ".pth"):
        return False
    return ".git" not in path.parts and "__pycache__" not in path.parts


def test_paths(task: Task) -> set[str]:
    """Files below the work directory that hold the tests: those declared and those that the expected ids name."""
    return {*task.liverl.test_files, *(test_id.partition("::")[0] for test_id in task.expected_ids)}


def test_sources(task: Task) -> dict[str, bytes]:
    """Path below the work directory -> content of every test file as the verifier runs it."""
    found = {str(path): content for path, content in _test_files(task)}
    for name in test_paths(task) - set(found):
        path = task.repository / name
        if path.is_file():
            found[name] = path.read_bytes()
    return found


def tests_own_modules(task: Task) -> tuple[str, ...]:
    """Python files of the repository that are the tests' own: never an agent's, so that the process that judges may
    import them. Paths below the work directory.
    """
    tests = test_paths(task)
    found = {name for name in tests if name.endswith(".py")}
    for file in task.repository.rglob("*.py"):
        path = PurePosixPath(file.relative_to(task.repository).as_posix())
        if path.name in PROTECTED_NAMES or _steers_tests(task, path, tests):
            found.add(str(path))
    return tuple(sorted(found))


def _steers_tests(task: Task, path: PurePosixPath, tests: set[str]) -> bool:
    """The repository's own helpers beside its tests stay as they are; new files there are the agent's business, but
    for those that make a package of a folder of tests, which renames its modules.
    """
    folders = {folder for test in tests for folder in PurePosixPath(test).parents} - {PurePosixPath(".")}
    if path.name == "__init__.py" and path.parent in folders:
        return True
    in_tests = any(part in ("test", "tests", "testing") for part in path.parts[:-1])
    return in_tests and (task.repository / path).is_file()


def _stands_in_the_way(repository: Path, path: PurePosixPath) -> bool:
    """Whether a file cannot be written at ``path`` over the pristine repository without following or removing more
    than a file.
    """
    if (repository / path).is_dir() and not (repository / path).is_symlink():
        return True
    above = [repository / folder for folder in path.parents if folder != PurePosixPath(".")]
    return any(folder.is_symlink() or (folder.exists() and not folder.is_dir()) for folder in above)


def _test_files(task: Task) -> Iterator[tuple[PurePosixPath, bytes]]:
    root = task.tests / "files"
    if root.is_dir():
        for path in sorted(root.rglob("*")):
            if path.is_file():
                yield PurePosixPath(path.relative_to(root).as_posix()), path.read_bytes()


def _same(pristine: Path, content: bytes) -> bool:
    try:
        return pristine.stat().st_size == len(content) and pristine.read_bytes() == content
    except OSError:
        return False
