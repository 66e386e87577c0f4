"""Chooses what of an agent's work the verifier takes over: what is declared, never tests or test configuration.

It knows the work as a difference of two trees; special files were left out when the sandbox was read.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from runtime.grading import stand_ins
from runtime.grading.named import imports_of, is_looked_for, is_named, plugins_of, words_of
from runtime.sandboxes.entries import Entry, Link, Removed, marked, size

if TYPE_CHECKING:
    from runtime.task import Task

_MODULE_SUFFIXES = (".py", ".pyc", ".so")
_MAX_FOLDERS = 500
"""So many are looked through for a module; of more it is assumed that one is there."""
MAX_FILES = 5_000
MAX_FILE_BYTES = 8 << 20
MAX_TOTAL_BYTES = 64 << 20

PROTECTED_NAMES = frozenset(
    [
        "conftest.py",
        "pytest.ini",
        ".pytest.ini",
        "pytest.toml",
        ".pytest.toml",
        "tox.ini",
        "setup.cfg",
        "pyproject.toml",
        "sitecustomize.py",
        "usercustomize.py",
    ]
)
"""They steer the test run itself; where the verdict comes from test ids, the repository's own are used."""

_TEST_FOLDERS = frozenset({"test", "tests", "testing"})
_TEST_FOLDERS_ELSEWHERE = _TEST_FOLDERS | {"spec", "specs", "__tests__"}
"""Of other languages than Python, where folders of such names may be a package's own."""
_WORDS = frozenset(
    {
        *("test", "tests", "testing", "testsuite", "testsuites", "testcase", "testcases", "testdata"),
        *("unittest", "unittests"),
    }
)
"""Of which a folder above declared tests is called, however else (``unit_tests``, ``python-tests``)."""
_WORDS_BESIDE = frozenset({"check", "checks", "spec", "specs", "t", "unit", "integration", "functional", "regression"})
"""The same, of the folder alone in which a declared test lies: further up they may be a package's own."""
_CALLED_LIKE_TESTS = ("test_*.py", "*_test.py")
_FOR_TESTS = frozenset(
    {"testing", "testutil", "testutils", "testhelper", "testhelpers", "testlib", "testsupport", "testkit", "testcases"}
)
"""What a module or folder is called that helps tests wherever it lies."""


@dataclass(frozen=True)
class Selection:
    """``files`` by absolute path inside the verifier's sandbox: the agent's, then the task's tests over them.
    ``refused``: path below the work directory -> why it is not taken, although the rest is."""

    files: Mapping[str, Entry] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None
    """Why nothing can be taken over; the trial is then unsolved."""


def select(task: Task, artifacts: Mapping[str, Entry]) -> Selection:
    """What must be made of the pristine repository before the tests run; what equals it is left out."""
    workdir = PurePosixPath(task.config.environment.workdir)
    chosen: dict[str, Entry] = {}
    refused: dict[str, str] = {}
    total = 0
    named = _Named(task) if task.suite is None or task.suite.language == "python" else _StandsFor(task)
    for name, entry in artifacts.items():
        path = PurePosixPath(name)
        if ".." in path.parts or not any(path.is_relative_to(root) for root in task.handed_in):
            continue
        relative = path
        if path.is_relative_to(workdir):
            relative = path.relative_to(workdir)
            if not _taken(task, relative) or named.has(relative) or _same(task.repository / relative, entry):
                continue
            if isinstance(entry, Link) and not _stays_inside(relative, entry.target, workdir):
                refused[str(relative)] = "a link that leads out of the work directory"
                continue
        elif not isinstance(entry, bytes):
            refused[str(path)] = "not a plain file, outside of the work directory"
            continue
        elif task.expected_ids and (path.name in PROTECTED_NAMES or path.suffix == ".pth"):
            continue
        total += size(entry)
        if size(entry) > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES or len(chosen) >= MAX_FILES:
            return Selection(problem=f"artifacts over the limit at {relative}")
        chosen[str(path)] = entry
    for name, entry in chosen.items():
        if not PurePosixPath(name).is_relative_to(workdir):
            continue
        relative = PurePosixPath(name).relative_to(workdir)
        if not isinstance(entry, Removed) and _stands_in_the_way(task.repository, relative, workdir, chosen):
            return Selection(problem=f"{relative} stands where the repository has a folder, a link or a file above it")
    for relative, content in _test_files(task):
        name = str(workdir / relative)
        chosen.pop(name, None)
        if not _same(task.repository / relative, content):
            chosen[name] = content
    return Selection(files=chosen, refused=refused)


class _Named:
    """Files from which the tests of a task take what they expect; looked for once, where an agent has changed any."""

    def __init__(self, task: Task) -> None:
        self._task = task if task.expected_ids and not task.by_log else None
        self._words: frozenset[str] | None = None

    def has(self, path: PurePosixPath) -> bool:
        task = self._task
        if task is None or str(path) in task.liverl.source_files:
            return False
        if self._words is None:
            self._words = words_of(own_sources(task))
            self._touched = [PurePosixPath(one) for one in _touched(task)]
            self._tests = [PurePosixPath(test) for test in test_paths(task)]
            self._plugins = _plugins(task)
        if str(path) in self._plugins or self._is_called_like_a_test(path):
            return True
        new = is_looked_for(path, self._words, task.repository, self._touched, self._tests)
        return new or is_named(path, self._words, task.repository, self._touched)

    def _is_called_like_a_test(self, path: PurePosixPath) -> bool:
        """Data beside a test, in a file or folder of its name."""
        if path.suffix == ".py" or path in self._touched:
            return False
        stems = {test.with_suffix("") for test in self._tests}
        return path.with_suffix("") in stems or any(folder in stems for folder in path.parents)


def _plugins(task: Task) -> set[str]:
    """Modules of the repository that its tests, or a conftest.py above them, register as plug-ins, and that the known
    solution leaves alone."""
    touched = _touched(task)
    if not touched:
        return set()
    conftests = [path.read_bytes() for path in _conftests(task)]
    names = plugins_of([*test_sources(task).values(), *conftests])
    files = {file for name in names for file in _files_of(task, PurePosixPath(), 0, name)}
    return {str(file) for file in files} - set(touched) - set(task.liverl.source_files)


def _conftests(task: Task) -> list[Path]:
    """Those that pytest reads for its tests."""
    folders = {folder for test in test_paths(task) for folder in PurePosixPath(test).parents}
    return sorted(path for folder in folders if (path := task.repository / folder / "conftest.py").is_file())


def _files_of(task: Task, folder: PurePosixPath, level: int, name: str) -> list[PurePosixPath]:
    """Files of the repository that an import may mean, in a file of ``folder``."""
    starts = [PurePosixPath(), PurePosixPath("src"), *map(PurePosixPath, task.liverl.python_path), folder]
    if level:
        starts = [[folder, *folder.parents][min(level - 1, len(folder.parents))]]
    parts = [part for part in name.split(".") if part]
    found = []
    for start in starts:
        for end in range(1, len(parts) + 1):
            base = start.joinpath(*parts[:end])
            found += [
                one for one in (base.with_suffix(".py"), base / "__init__.py") if (task.repository / one).is_file()
            ]
    return found


class _StandsFor:
    """Files that would stand for something else when tests of another language run (``stand_ins.py``)."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._known: tuple[list[bytes], set[str], tuple[str, ...]] | None = None

    def has(self, path: PurePosixPath) -> bool:
        task = self._task
        assert task.suite is not None
        if str(path) in task.liverl.source_files:
            return False
        if self._known is None:
            known = (task.path / "solution" / "files").is_dir()
            commands = stand_ins.started_by(task.liverl.test_command, task.repository, known=known)
            sources = list(test_sources(task).values())
            self._known = (
                sources,
                set(_touched(task)),
                (*commands, *stand_ins.builds(task.suite.language, task.repository)),
            )
        tests, touched, patterns = self._known
        root, language = task.repository, task.suite.language
        return (
            (str(path) not in touched and stand_ins.is_one_of(path, patterns))
            or stand_ins.is_expected(path, root, tests, touched)
            or stand_ins.stands_beside(path, root, test_paths(task), _TEST_FOLDERS_ELSEWHERE)
            or (language == "java" and stand_ins.stands_for_class(path, root, tests, touched))
            or (language == "c" and stand_ins.stands_for_header(path, root, tests, touched))
        )


def own_sources(task: Task) -> list[bytes]:
    """The text of the tests, of what lies beside them, of each conftest.py above, and of helpers that these import."""
    tests = test_sources(task)
    folders = {(task.repository / name).parent for name in tests}
    beside = {path for folder in folders if folder != task.repository for path in folder.glob("*.py")}
    files = {path for path in (*beside, *_conftests(task)) if path.is_file()}
    names = test_paths(task)
    found = {PurePosixPath(name): text for name, text in tests.items()}
    pending = list(found)
    for path in sorted(files):
        relative = PurePosixPath(path.relative_to(task.repository).as_posix())
        if relative not in found:
            found[relative] = path.read_bytes()
            pending.append(relative)
    plugins = _plugins(task)
    while pending:
        one = pending.pop()
        for level, name in imports_of(found[one]):
            for file in _files_of(task, one.parent, level, name):
                if file not in found and (str(file) in plugins or _steers_tests(task, file, names)):
                    found[file] = (task.repository / file).read_bytes()
                    pending.append(file)
    return list(found.values())


def _taken(task: Task, path: PurePosixPath) -> bool:
    if path == PurePosixPath("."):
        return False
    tests = test_paths(task)
    if any(path.is_relative_to(test) or PurePosixPath(test).is_relative_to(path) for test in tests):
        return False
    if task.by_log:
        return not _steers_set(task, path)
    if not task.expected_ids:
        return True  # a script judges what there is, down to the history of the repository
    if _steers_tests(task, path, tests):
        return False
    if task.suite is not None:
        own = str(path) in task.liverl.source_files
        return own or not (task.suite.steers(str(path)) or ".git" in path.parts or "__pycache__" in path.parts)
    if path.name in PROTECTED_NAMES or path.suffix == ".pth":
        return False
    return ".git" not in path.parts and "__pycache__" not in path.parts


def _steers_set(task: Task, path: PurePosixPath) -> bool:
    """Whether a file would steer the test run of a published set, and its own solution leaves it alone. The
    repository's own files in folders of declared tests stay as they are; folders of such names elsewhere may be a
    package's own (``django/test``). Nothing does in sets without repositories, whose tests lie in ``/tests``."""
    assert task.liverl.published is not None
    if not task.liverl.published.repo:
        return False
    if ".git" in path.parts or "__pycache__" in path.parts:
        return True
    if str(path) in task.liverl.source_files:
        return False
    if path.name in PROTECTED_NAMES or path.suffix == ".pth":
        return True
    helps = any(path.is_relative_to(folder) for folder in _folders_of_tests(task.liverl.test_files))
    return helps and (task.repository / path).is_file()


def _folders_of_tests(tests: Iterable[str]) -> set[PurePosixPath]:
    """The outermost folder above each test that is called so."""
    found = set()
    for test in tests:
        above = [folder for folder in reversed(PurePosixPath(test).parents) if folder.name in _TEST_FOLDERS]
        found |= set(above[:1])
    return found


def _stays_inside(link: PurePosixPath, target: str, workdir: PurePosixPath) -> bool:
    """Whether a link names something below the work directory, as far as its text says."""
    place = PurePosixPath(target) if target.startswith("/") else workdir / link.parent / target
    parts: list[str] = []
    for part in place.parts:
        if part != "..":
            parts.append(part)
        elif len(parts) > 1:
            parts.pop()
    return PurePosixPath(*parts).is_relative_to(workdir)


def test_paths(task: Task) -> set[str]:
    """Files below the work directory that hold the tests: those declared and those that the expected ids name."""
    if task.suite is not None and not task.suite.ids_name_files:
        return set(task.liverl.test_files)
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
    found = {name for name in tests if name.endswith(".py")} | _plugins(task)
    for file in task.repository.rglob("*.py"):
        path = PurePosixPath(file.relative_to(task.repository).as_posix())
        if path.name in PROTECTED_NAMES or _steers_tests(task, path, tests):
            found.add(str(path))
    return tuple(sorted(found))


def own_modules(task: Task) -> tuple[str, ...]:
    """Names at the top that the pristine repository, its tests or the task's own solution have. No other name may stand
    in for a module that the tests import.
    """
    import_folders = {"", "src", *task.liverl.python_path}
    import_folders |= {str(PurePosixPath(test).parent) for test in test_paths(task)}
    solution = task.path / "solution" / "files"
    names: set[str] = set()
    for folder in import_folders:
        for root in (task.repository, task.tests / "files", solution):
            names |= _modules_in(root / folder)
    return tuple(sorted(names))


def source_modules(task: Task) -> tuple[str, ...]:
    """Names at the top of the pristine repository's own modules, but for what lies beside its tests. No release that is
    installed stands in for one that an agent has taken away."""
    folders = {"", "src", *task.liverl.python_path}
    return tuple(sorted(set[str]().union(*(_modules_in(task.repository / folder) for folder in folders))))


def _modules_in(folder: Path) -> set[str]:
    """Names that can be imported from there. A file or folder that is no module makes no name the repository's."""
    if not folder.is_dir():
        return set()
    named = ((entry, entry.name.partition(".")[0]) for entry in folder.iterdir())
    return {name for entry, name in named if name.isidentifier() and _is_module(entry, name)}


def _is_module(entry: Path, name: str) -> bool:
    if not entry.is_dir():
        return entry.suffix in _MODULE_SUFFIXES
    if entry.name != name:
        return False
    if name in sys.stdlib_module_names:  # which stands before every folder that is no package
        return any((entry / f"__init__{suffix}").exists() for suffix in _MODULE_SUFFIXES)
    for number, (_, folders, files) in enumerate(os.walk(entry)):
        if number >= _MAX_FOLDERS or any(file.endswith(_MODULE_SUFFIXES) for file in files):
            return True
        folders.sort()
    return False


def _steers_tests(task: Task, path: PurePosixPath, tests: set[str]) -> bool:
    """The repository's own helpers beside its tests stay as they are; new files there are the agent's business, but
    for those that make a package of a folder of tests, which renames its modules. A helper that an agent may write
    would be asked, in the place of its test, whether the work is right.
    """
    folders = {folder for test in tests for folder in PurePosixPath(test).parents} - {PurePosixPath(".")}
    if path.name == "__init__.py" and (path.parent in folders or path.parent == PurePosixPath(".")):
        return str(path) not in task.liverl.source_files  # a package whose tests lie among its own modules
    python = task.suite is None or task.suite.language == "python"
    if python and _stands_before(task, path, tests):
        return True
    if python and path.suffix == ".py" and path.with_suffix("") in folders and not (task.repository / path).exists():
        return str(path) not in task.liverl.source_files  # a new module that stands for a folder of tests
    names = _TEST_FOLDERS if task.suite is None else _TEST_FOLDERS_ELSEWHERE
    own = str(path) in task.liverl.source_files
    if not (task.repository / path).is_file() or (own and task.suite is not None):
        return False
    return not names.isdisjoint(path.parts[:-1]) or (not own and _helps_tests(task, path, tests, folders))


def _stands_before(task: Task, path: PurePosixPath, tests: set[str]) -> bool:
    """Whether a package or a compiled module would be imported in the place of a test or of its helper."""
    compiled = path.suffix in (".so", ".pyc")
    places = [folder.with_name(f"{folder.name}.py") for folder in path.parents if folder.name]
    places += [path.with_name(f"{path.name.partition('.')[0]}.py")] if compiled else []
    return any(
        str(place) in tests or ((task.repository / place).is_file() and _steers_tests(task, place, tests))
        for place in places
    )


def _helps_tests(task: Task, path: PurePosixPath, tests: set[str], folders: set[PurePosixPath]) -> bool:
    """Whether a file of the repository lies in a folder of tests of another name, or is called like a test or a help
    for tests, and the known solution leaves that folder or file alone. ``folders``: above declared tests."""
    above = []
    for folder in path.parents:
        words = set(re.split(r"[^a-z]+", folder.name.lower())) if folder in folders else set()
        beside = not _WORDS_BESIDE.isdisjoint(words) and any(PurePosixPath(test).parent == folder for test in tests)
        if beside or not _WORDS.isdisjoint(words):
            above.append(folder)
    above += [place for place in (path.with_suffix(""), *path.parents) if place.name.lower().strip("_") in _FOR_TESTS]
    if task.suite is None and any(path.match(pattern) for pattern in _CALLED_LIKE_TESTS):
        above.append(path)
    touched = [PurePosixPath(one) for one in _touched(task)] if above else []
    return any(not any(one.is_relative_to(place) or one == path for one in touched) for place in above)


def _touched(task: Task) -> list[str]:
    """Files that the known solution changes, below the work directory."""
    root = task.path / "solution" / "files"
    files = [path for path in root.rglob("*") if path.is_file()] if root.is_dir() else []
    names = [(path, path.relative_to(root).as_posix()) for path in files]
    return [name for path, name in names if not _same(task.repository / name, path.read_bytes())]


def _stands_in_the_way(
    repository: Path, path: PurePosixPath, workdir: PurePosixPath, chosen: Mapping[str, Entry]
) -> bool:
    """Whether something cannot be made at ``path`` over the pristine repository without following a link, or removing
    what the agent has not removed or may not remove.
    """

    def gone(inside: Path) -> bool:
        return isinstance(chosen.get(str(workdir / inside.relative_to(repository).as_posix())), Removed)

    place = repository / path
    if place.is_dir() and not place.is_symlink():
        return not all(gone(inner) for inner in place.rglob("*"))
    above = [repository / folder for folder in path.parents if folder != PurePosixPath(".")]
    blocking = [folder for folder in above if folder.is_symlink() or (folder.exists() and not folder.is_dir())]
    return not all(gone(folder) for folder in blocking)


def _test_files(task: Task) -> Iterator[tuple[PurePosixPath, bytes]]:
    root = task.tests / "files"
    if root.is_dir():
        for path in sorted(root.rglob("*")):
            if path.is_file():
                yield PurePosixPath(path.relative_to(root).as_posix()), path.read_bytes()


def _same(pristine: Path, entry: Entry) -> bool:
    kind, content = marked(entry)
    try:
        if kind == "-":
            return not pristine.is_symlink() and not pristine.exists()
        if kind == "l" or pristine.is_symlink():
            return kind == "l" and pristine.is_symlink() and os.fsencode(pristine.readlink()) == content
        if kind == "d":
            return pristine.is_dir()
        status = pristine.stat()
        if (kind == "x") != bool(status.st_mode & 0o100) or status.st_size != len(content):
            return False
        return pristine.read_bytes() == content
    except OSError:
        return False
