"""Where packages come from: a repository folder, or a pinned source distribution fetched with pip and cached by its
digest.

Reads which modules, tests and import folders a package has. Does not run any of its code itself; pip does run the
distribution's own build backend to read its name and version, which is why only files with a pinned SHA-256 are
fetched.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from runtime.config import PackagePin
from runtime.errors import MachineError, UserError
from runtime.tasks.generate import git

MAX_FILE_BYTES = 1 << 20
"""Larger files are data that a repair does not need; they are left out of the tasks' repositories."""

_SKIP_FOLDERS = {
    ".git",
    ".hg",
    ".tox",
    ".nox",
    ".venv",
    "venv",
    "__pycache__",
    "node_modules",
    "build",
    "dist",
    ".eggs",
}
_COMPILED = (".pyc", ".so", ".pyd")
_SECRET = re.compile(
    r"\.git|\.env(\..+)?|\.envrc|\.netrc|\.pypirc|\.npmrc|\.git-credentials|id_[a-z0-9]+|.*\.(pem|key)"
)
"""Where no git says what belongs to a package: what links a worktree, and what is a secret by its name."""
_TEST_FOLDERS = {"test", "tests", "testing"}
_NOT_MODULES = {"setup.py", "conftest.py", "noxfile.py", "tasks.py", "fabfile.py"}
_NOT_PACKAGES = {"benchmark", "benchmarks", "doc", "docs", "example", "examples", "scripts", "tools"}
_TEST_FILE = re.compile(r"test_.*\.py|.*_test\.py|conftest\.py|tests\.py")


@dataclass(frozen=True)
class Package:
    """A package's pristine files at ``root``; ``name`` and ``version`` label its tasks."""

    name: str
    version: str
    root: Path
    tracked: tuple[str, ...] | None = None
    """Paths that git knows; None: ``root`` is no repository, and all that lies there is the package's."""

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Everything that belongs into a task's repository, by path below ``root``: of a git repository what git
        tracks, of another folder all but what tools make and what is a secret by its name."""
        return self._read[0]

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Files of the package that do not get into its tasks, and why; what does not belong to it is not among
        them."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[dict[str, bytes], dict[str, str]]:
        found: dict[str, bytes] = {}
        left_out: dict[str, str] = {}
        for path in sorted(_paths(self.root) if self.tracked is None else self.tracked, key=_order):
            file = self.root / path
            if file.suffix in _COMPILED or not (file.is_file() or file.is_symlink()):
                continue  # a tracked file that was removed, or a submodule that is not checked out
            why = "a link" if _through_link(self.root, path) else why_left_out(path, size=file.stat().st_size)
            if why is not None:
                left_out[path] = why
            else:
                found[path] = file.read_bytes()
        return found, left_out

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all paths and contents."""
        whole = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            whole.update(f"{path}\0{len(content)}\0".encode() + content)
        return whole.hexdigest()

    @cached_property
    def test_files(self) -> tuple[str, ...]:
        """Files that belong to the tests, helpers and data beside them included."""
        return tuple(path for path in self.files if is_test(path))

    @cached_property
    def python_path(self) -> tuple[str, ...]:
        """``("src",)`` for a ``src`` layout, else ()."""
        return ("src",) if any(path.startswith("src/") and path.endswith(".py") for path in self.files) else ()

    @cached_property
    def source_files(self) -> tuple[str, ...]:
        """The package's own modules: below an import package, or a module at the import root. A folder of ``src`` may
        do without ``__init__.py`` (a namespace), and one at the root where there is nothing else to import."""
        base = f"{self.python_path[0]}/" if self.python_path else ""
        modules = [path.removeprefix(base) for path in self.files if path.startswith(base) and path.endswith(".py")]
        below = [path for path in modules if "/" in path and not is_test(f"{base}{path}")]
        roots = {path.split("/")[0] for path in below if base or re.fullmatch("[^/]+/__init__.py", path)}
        if not roots and not any(self._is_own(path, roots) and not is_test(path) for path in modules):
            packages = {path.split("/")[0] for path in below if path.endswith("/__init__.py")}
            roots = packages - _NOT_PACKAGES
        return tuple(
            path
            for path in self.files
            if path.endswith(".py")
            and path.startswith(base)
            and not is_test(path)
            and self._is_own(path[len(base) :], roots)
        )

    @staticmethod
    def _is_own(path: str, roots: set[str]) -> bool:
        first, _, rest = path.partition("/")
        return first in roots if rest else path not in _NOT_MODULES

    def text(self, path: str) -> str | None:
        """The text of a module; None for one that is not in UTF-8, in which nothing is changed."""
        try:
            return self.files[path].decode("utf-8")
        except UnicodeDecodeError:
            return None


def _paths(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = [
            name
            for name in folders
            if name not in _SKIP_FOLDERS
            and not name.endswith(".egg-info")
            and not (here / name / "pyvenv.cfg").exists()
        ]
        yield from ((here / name).relative_to(root).as_posix() for name in names if not _SECRET.fullmatch(name))


def _order(path: str) -> list[tuple[bool, str]]:
    """A folder's files before its folders, each by name."""
    *folders, name = path.split("/")
    return [*((True, folder) for folder in folders), (False, name)]


def _through_link(root: Path, path: str) -> bool:
    parts = Path(path).parts
    return any(root.joinpath(*parts[:count]).is_symlink() for count in range(1, len(parts) + 1))


def why_left_out(path: str, *, size: int) -> str | None:
    """Why a file cannot be in a task's repository; None for those that can."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is no UTF-8"
    if not path.isprintable() or "\\" in path:
        return "its name has characters that names in tasks cannot have"
    if ".git" in path.split("/"):
        return "it belongs to git"
    return f"larger than {MAX_FILE_BYTES >> 20} MiB" if size > MAX_FILE_BYTES else None


def is_test(path: str) -> bool:
    """Whether a path belongs to the tests: in a folder of tests, or by its name."""
    *folders, name = path.split("/")
    return bool(_TEST_FOLDERS.intersection(folders)) or _TEST_FILE.fullmatch(name) is not None


def repository_name(path: Path) -> str:
    """What a repository's tasks are called: its folder's name, as far as a task's name can hold it."""
    return re.sub(r"[^a-z0-9]+", "-", path.resolve().name.lower()).strip("-") or "package"


def open_repository(path: Path) -> Package:
    """The package in a folder. Raises ``UserError`` when there is none with tests."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give a repository's root folder or NAME==VERSION with --sha256")
    if (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir():
        raise UserError(f"{path}: a repository without its files (bare, or a .git folder); give the folder of a clone")
    tracked = git.tracked(path)
    package = Package(
        name=repository_name(path), version="", root=path, tracked=None if tracked is None else tuple(tracked)
    )
    problems = []
    if not package.source_files:
        problems.append(
            f"{path}: no Python package; a folder with __init__.py (or src/<package>) or a module is needed"
        )
    if not package.test_files:
        problems.append(f"{path}: no tests; files named test_*.py or *_test.py are needed to verify a bug")
    if problems:
        raise UserError(*problems)
    return package


def fetch(pin: PackagePin, *, cache: Path) -> Package:
    """The unpacked source distribution of ``pin``, fetched once per digest.

    Raises ``UserError`` when the pin does not match what the index has, ``MachineError`` when pip cannot reach it.
    """
    folder = cache / "sdists" / pin.sha256
    name = pin.name.lower().replace("_", "-")
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as temporary:
            archive = _download(pin, Path(temporary))
            unpacked = Path(temporary) / "unpacked"
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
            roots = list(unpacked.iterdir())
            root = roots[0] if len(roots) == 1 and roots[0].is_dir() else unpacked
            try:
                root.rename(folder)
            except OSError:
                if not folder.is_dir():  # another process was first: its copy has the same digest
                    raise
    return Package(name=name, version=pin.version, root=folder)


def _download(pin: PackagePin, into: Path) -> Path:
    requirements = into / "requirements.txt"
    requirements.write_text(f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}\n")
    files = into / "files"
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"),
        *(
            "--no-deps",
            "--require-hashes",
            "--no-binary",
            pin.name,
            "--dest",
            str(files),
            "--requirement",
            str(requirements),
        ),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    archives = [*files.glob("*.tar.gz"), *files.glob("*.tar.bz2")] if files.is_dir() else []
    if result.returncode == 0 and len(archives) == 1:
        return archives[0]
    shutil.rmtree(files, ignore_errors=True)
    lines = [line.strip() for line in result.stderr.splitlines() if line.startswith("ERROR")] or [result.stderr.strip()]
    what = f"{pin.name}=={pin.version} (sha256 {pin.sha256[:12]}…)"
    if "DO NOT MATCH THE HASHES" in result.stderr or "No matching distribution" in result.stderr:
        raise UserError(f"{what}: {lines[0]}; correct the version or the sha256 of its source distribution in the spec")
    raise MachineError(
        f"pip cannot fetch {what}: {lines[-1]}", fix=" ".join([*command[:-4], f"{pin.name}=={pin.version}"])
    )
