"""Datasets of a Harbor registry: which tasks a name and version stand for, and their directories, fetched with git.

A registry is a JSON list of datasets, each a name, a version and tasks with git address, commit and path below the
repository, or a path alone for a folder of this machine (Harbor 0.24.0, ``harbor/models/registry.py`` and
``harbor/tasks/client.py``). A registry of this machine may name folders and repositories of this machine; one from
elsewhere may not. What cannot be taken is named and left out. Does not know how tasks run.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from runtime.config import HarborSource
from runtime.errors import MachineError, UserError
from runtime.tasks.directories import OnProblem
from runtime.tasks.kept import kept

MAX_REGISTRY_BYTES = 256 << 20
_REGISTRY_SEC = 120.0
_GIT_SEC = 1800.0
_ADDRESS = re.compile(r"(https://|ssh://|file://|git@|/).+")
_LOCAL = re.compile(r"file:|[/~.]")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class _Entry(BaseModel):
    """Harbor adds keys between versions; unknown ones (metrics) are none of our business."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class DatasetTask(_Entry):
    """One task of a dataset. Without ``git_url``, ``path`` is a folder of this machine."""

    name: str
    git_url: str | None = None
    git_commit_id: str | None = None
    """None, or a name such as ``HEAD``: whatever it is when it is fetched."""
    path: str


class Dataset(_Entry):
    name: str
    version: str
    tasks: tuple[DatasetTask, ...] = Field(min_length=1)
    left_out: tuple[str, ...] = ()
    """Tasks that may not be taken, and why."""


class _Listed(_Entry):
    name: str
    version: str


def read_registry(source: HarborSource) -> bytes:
    """The registry's text. Raises ``UserError`` for a missing file, ``MachineError`` for an address that does not
    answer."""
    if "://" not in source.registry:
        path = Path(source.registry).expanduser()
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; give the file or address of a Harbor registry") from error
    if not source.registry.startswith("https://"):
        raise UserError(f"{source.registry}: not an https:// address; give that, or a file")
    try:
        with urllib.request.urlopen(source.registry, timeout=_REGISTRY_SEC) as answer:
            text: bytes = answer.read(MAX_REGISTRY_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # holds the connection
        raise MachineError(
            f"the registry {source.registry} cannot be read: {error}",
            fix=f"curl -fL {source.registry} -o registry.json",
        ) from error
    if len(text) > MAX_REGISTRY_BYTES:
        raise UserError(f"{source.registry}: more than {MAX_REGISTRY_BYTES >> 20} MiB; give a registry's address")
    return text


def find_dataset(text: bytes, source: HarborSource) -> Dataset:
    """The named dataset of a registry, with the chosen tasks only. Raises ``UserError`` saying what there is."""
    try:
        rows = TypeAdapter(list[dict[str, object]]).validate_json(text)
        listed = [_Listed.model_validate(row) for row in rows]
        found = [
            Dataset.model_validate(row)
            for row, one in zip(rows, listed, strict=True)
            if (one.name, one.version) == (source.dataset, source.version)
        ]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{source.registry}: {where}: {first['msg']}; give a Harbor registry, a JSON list of datasets"
        ) from error
    if not found:
        versions = sorted(one.version for one in listed if one.name == source.dataset)
        names = sorted({one.name for one in listed})
        there = (
            f"there are versions {', '.join(versions)}"
            if versions
            else f"no dataset has this name; there are {', '.join(names[:20])}"
            + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        )
        raise UserError(f"{source.registry}: no dataset {source.dataset} of version {source.version}: {there}")
    tasks = tuple(task for task in found[0].tasks if _chosen(task.name, source))
    if not tasks:
        raise UserError(
            f"{source.registry}: none of the {len(found[0].tasks)} tasks of {source.dataset} {source.version} is "
            f"chosen; correct task_names or exclude_task_names (the first is called {found[0].tasks[0].name})"
        )
    twice = [name for name, count in Counter(folder_name(task) for task in tasks).items() if count > 1]
    if twice:
        raise UserError(f"{source.registry}: {source.dataset} {source.version} has two tasks called {twice[0]}")
    left_out: list[str] = []
    if "://" in source.registry:
        left_out = [
            f"{source.registry}: {task.name}: {task.git_url or task.path} is of this machine, which a registry from "
            "elsewhere cannot name"
            for task in tasks
            if task.git_url is None or _LOCAL.match(task.git_url)
        ]
        tasks = tuple(task for task in tasks if task.git_url is not None and not _LOCAL.match(task.git_url))
        if not tasks:
            raise UserError(*left_out)
    return found[0].model_copy(update={"tasks": tasks[: source.limit], "left_out": tuple(left_out)})


def _chosen(name: str, source: HarborSource) -> bool:
    def matches(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    return (not source.task_names or matches(source.task_names)) and not matches(source.exclude_task_names)


def folder_name(task: DatasetTask) -> str:
    """What a task's folder is called: its name, with what a task's id cannot hold replaced."""
    return re.sub(r"[^A-Za-z0-9._-]", "__", task.name).lstrip(".-") or "task"


def local_folders(dataset: Dataset) -> list[Path]:
    """The folders of tasks that are on this machine already."""
    return [Path(task.path).expanduser() for task in dataset.tasks if task.git_url is None]


class _Unusable(Exception):
    """Why one entry cannot become a task."""


def fetch_tasks(dataset: Dataset, out: Path, *, on_progress: Callable[[str], None]) -> list[str]:
    """Write a directory per task with a git address below ``out``; one repository and commit after the other. Returns
    which tasks were left out, and why.

    Git runs with the user's settings (credentials, proxies), without hooks and without filters that a repository could
    ask for. Raises ``MachineError`` when git cannot fetch.
    """
    left_out: list[str] = []
    groups: dict[tuple[str, str], list[DatasetTask]] = {}
    for task in dataset.tasks:
        if task.git_url is not None:
            groups.setdefault((task.git_url, task.git_commit_id or "HEAD"), []).append(task)
    for (url, commit), tasks in groups.items():
        on_progress(f"fetching {len(tasks)} tasks from {url} at {commit[:12]}")
        paths: dict[str, PurePosixPath] = {}
        for task in tasks:
            try:
                _check_address(url, commit)
                paths[task.name] = _path_of(task)
            except _Unusable as why:
                left_out.append(f"{dataset.name} {dataset.version}: {task.name}: {why}")
        if not paths:
            continue
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=out) as folder:
            work = Path(folder) / "work"
            _check_out(url, commit, [str(path) for path in paths.values()], work)
            for task in (task for task in tasks if task.name in paths):
                try:
                    _take(work, paths[task.name], out / folder_name(task))
                except _Unusable as why:
                    left_out.append(f"{url}: {paths[task.name]}: {why}")
    return left_out


def _path_of(task: DatasetTask) -> PurePosixPath:
    path = PurePosixPath(task.path.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or path.parts[:1] in ((), (".git",)) or "\n" in task.path:
        raise _Unusable(f"{task.path!r} is no path below a repository")
    return path


def _check_address(url: str, commit: str) -> None:
    if not _ADDRESS.fullmatch(url) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", commit):
        raise _Unusable(f"{url} at {commit}: not an address and commit that git fetches")


def _check_out(url: str, commit: str, paths: Sequence[str], work: Path) -> None:
    """The chosen paths of one commit, without history, and without the contents of other paths where the server can
    leave them out."""
    _git("init", "--quiet", "--template=", str(work))
    _git("config", "remote.origin.url", url, folder=work)
    # Patterns of sparse checkouts are those of .gitignore: what has a meaning there is meant as it is.
    patterns = "".join("/" + re.sub(r"([\\*?\[\]!#])", r"\\\1", path) + "/\n" for path in paths)
    _git("sparse-checkout", "set", "--no-cone", "--stdin", folder=work, stdin=patterns)
    # Hugging Face's server cannot send left-out contents later, as Harbor found out.
    partial = [] if "huggingface.co" in url else ["--filter=blob:none"]
    _git("fetch", "--quiet", "--depth=1", "--no-tags", *partial, "origin", commit, folder=work, about=url)
    _git("checkout", "--quiet", "--detach", "FETCH_HEAD", folder=work, about=url)


def _git(*arguments: str, folder: Path | None = None, stdin: str = "", about: str = "") -> str:
    command = [
        *("git", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "protocol.ext.allow=never"),
        *("-c", "submodule.recurse=false", "-c", "core.autocrlf=false"),
        *(["-C", str(folder)] if folder is not None else []),
        *arguments,
    ]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # of a hook that we may have been called from
        environment.pop(name, None)
    cure = f"git ls-remote {about}" if about else "git --version"
    try:
        done = subprocess.run(
            command, env=environment, input=stdin, capture_output=True, text=True, timeout=_GIT_SEC, check=False
        )
    except FileNotFoundError as error:
        raise MachineError("git is missing", fix="apt-get install -y git") from error
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"{about}: git {arguments[0]} took longer than {_GIT_SEC:.0f} s", fix=cure) from error
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise MachineError(f"{about or folder}: git {arguments[0]}: {said[0]}", fix=cure)
    return done.stdout


def _take(work: Path, path: PurePosixPath, target: Path) -> None:
    """Copy one task out of a checkout, once nothing in it points elsewhere."""
    source = work / path
    if not source.is_dir() or any((work / parent).is_symlink() for parent in [path, *path.parents]):
        raise _Unusable("no such folder in the repository")
    root = source.resolve()
    for folder, folders, names in os.walk(source):
        for name in [*folders, *names]:
            entry = Path(folder) / name
            if entry.is_symlink():
                outside = entry.readlink().is_absolute() or not entry.resolve().is_relative_to(root)
                if outside:
                    raise _Unusable(f"{entry.relative_to(source)}: a link out of the task")
            elif entry.is_file():
                with entry.open("rb") as file:
                    if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                        raise _Unusable(f"{entry.relative_to(source)}: lies in Git LFS, which is not fetched")
    shutil.copytree(source, target, symlinks=True)


def task_directories(
    source: HarborSource, *, cache: Path, say: Callable[[str], None], on_problem: OnProblem
) -> list[Path]:
    """The task directories of a Harbor dataset. A registry elsewhere is read once: its word is kept with the tasks, so
    that a run can be resumed without it, and so are the names of what was left out."""

    def look_up() -> str:
        say(f"looking up {source.dataset} {source.version}")
        return find_dataset(read_registry(source), source).model_dump_json()

    if "://" in source.registry:
        description = json.dumps(
            {"source": source.model_dump(mode="json", exclude_none=True), "version": "1"}, sort_keys=True
        )
        name = "dataset.json"
        answers = kept(cache, "registry", description, lambda out: _write(out / name, look_up()))
        text = (answers / name).read_text(encoding="utf-8")
    else:
        text = look_up()
    dataset = Dataset.model_validate_json(text)
    fetched: list[Path] = []
    left_out = list(dataset.left_out)
    if any(task.git_url is not None for task in dataset.tasks):
        name = "left-out.json"
        folder = kept(
            cache,
            "harbor",
            text,
            lambda out: _write(out / name, json.dumps(fetch_tasks(dataset, out, on_progress=say))),
        )
        left_out += json.loads((folder / name).read_text(encoding="utf-8"))
        fetched = sorted(path for path in folder.iterdir() if path.is_dir())
    for problem in left_out:
        on_problem(problem)
    return [*fetched, *local_folders(dataset)]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
