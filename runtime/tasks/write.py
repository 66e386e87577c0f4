"""Writes one task directory in Harbor's format: the one writer behind every generator.

The directory works under LiveRL and under plain Harbor: ``environment/Dockerfile`` builds the work directory,
``tests/test.sh`` restores the tests, runs the expected ones with pytest and writes ``/logs/verifier/reward.txt``. Does
not know how tasks are made or graded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from runtime.task import LiverlTable
from runtime.tasks.git_directory import git_directory, is_executable

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,119}")
"""Task names are folder names, trial ids and score labels."""
_LONGEST, _LONGEST_PART = 2048, 255

PYTEST_PINS = ("pytest==9.2.0", "hypothesis==6.170.15")
_NONE: Mapping[str, bytes] = MappingProxyType({})


def write_task(
    out: Path,
    *,
    name: str,
    instruction: str,
    repository: Mapping[str, bytes],
    solution: Mapping[str, bytes],
    tests: Mapping[str, bytes],
    liverl: LiverlTable,
    git_history: bool = True,
    commit_message: str = "Import",
    description: str = "",
    workdir: str = "/app",
    docker_image: str = "python:3.11-slim",
    requirements: tuple[str, ...] = PYTEST_PINS,
    agent_timeout_sec: float = 600.0,
    verifier_timeout_sec: float = 600.0,
    memory_mb: int = 1024,
    honest: Mapping[str, bytes] = _NONE,
    cheat: Mapping[str, bytes] = _NONE,
) -> Path:
    """Write the task ``out/name`` and return its path; the folder appears whole or not at all.

    Args:
        out: folder that receives the task's folder; made if missing.
        name: folder name, matching ``NAME``.
        instruction: what the agent is asked (``instruction.md``).
        repository: the broken work directory, path below it -> content. ``tests`` are added to it: the agent sees them.
        solution: the files that the repair replaces, path below the work directory -> content.
        tests: the test files, path below the work directory -> content; also kept in ``tests/files`` to be restored
            before grading.
        liverl: ``[metadata.liverl]``; an empty ``test_files`` becomes the paths of ``tests``.
        git_history: give the work directory a git history of one commit.
        requirements: what the Dockerfile installs with pip.
        honest, cheat: scripts (file name -> content) that ``liverl tasks verify`` runs as the agent and expects to
            score 1 and 0.

    Raises ValueError for a bad name or path, FileExistsError when the task is already there.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"task name {name!r}: must match {NAME.pattern}")
    if not liverl.test_files:
        liverl = liverl.model_copy(update={"test_files": tuple(sorted(tests))})
    work = {**repository, **tests}
    for path in (*work, *solution):
        check_path(path)
    files: dict[str, bytes] = {f"environment/repo/{path}": content for path, content in work.items()}
    if git_history:
        git = git_directory(work, message=commit_message)
        files.update((f"environment/repo/{path}", content) for path, content in git.items())
    files.update((f"tests/files/{path}", content) for path, content in tests.items())
    files.update((f"solution/files/{path}", content) for path, content in solution.items())
    files.update((f"honest/{path}", content) for path, content in honest.items())
    files.update((f"cheat/{path}", content) for path, content in cheat.items())
    ids = liverl.fail_to_pass + liverl.pass_to_pass
    texts = {
        "task.toml": _toml(
            name=name,
            description=description,
            workdir=workdir,
            agent_timeout_sec=agent_timeout_sec,
            verifier_timeout_sec=verifier_timeout_sec,
            memory_mb=memory_mb,
            liverl=liverl,
        ),
        "instruction.md": instruction.rstrip() + "\n",
        "environment/Dockerfile": _dockerfile(docker_image, requirements, workdir),
        "tests/test.sh": _TEST_SH.format(workdir=workdir, python_path=":".join((".", *liverl.python_path))),
        "tests/expected.txt": "".join(f"{test_id}\n" for test_id in ids),
        "solution/solve.sh": _SOLVE_SH.format(workdir=workdir),
    }
    files.update((path, text.encode()) for path, text in texts.items())
    return publish(out, name, files)


def check_path(path: str) -> None:
    """Raises ``ValueError`` for a path that a task's folder cannot have below one of its own."""
    parts = path.split("/")
    if "\\" in path or "\0" in path or any(part in ("", ".", "..", ".git") for part in parts):
        raise ValueError(f"path {path!r}: must be relative, with /, and without '.', '..' or '.git' parts")
    if len(path.encode()) > _LONGEST or any(len(part.encode()) > _LONGEST_PART for part in parts):
        raise ValueError(f"path {path[:40]!r}…: too long for a file")


def publish(out: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """Write the folder ``out/name`` whole or not at all. Raises ``FileExistsError``."""
    out.mkdir(parents=True, exist_ok=True)
    target = out / name
    if target.exists():
        raise FileExistsError(f"{target} already exists")
    staging = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=out))
    try:
        staging.chmod(0o755)
        made: set[str] = set()
        root = str(staging)
        for path, content in files.items():
            full = f"{root}/{path}"
            folder = full.rpartition("/")[0]
            if folder not in made:
                os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - a Path per file doubles the time of a task
                made.add(folder)
            handle = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755 if is_executable(content) else 0o644)
            with os.fdopen(handle, "wb", buffering=0) as file:
                file.write(content)
        staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return target


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that other processes read: whole or not at all, whatever ends this process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def toml_value(value: object) -> str:
    """A TOML value on one line; strings as basic strings (JSON's escapes are a subset of TOML's, but for DEL)."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        if len(value) < 2:
            return "[" + ", ".join(toml_value(item) for item in value) + "]"
        return "[\n" + "".join(f"  {toml_value(item)},\n" for item in value) + "]"
    raise TypeError(f"no TOML form for {type(value).__name__}")


def _toml(
    *,
    name: str,
    description: str,
    workdir: str,
    agent_timeout_sec: float,
    verifier_timeout_sec: float,
    memory_mb: int,
    liverl: LiverlTable,
) -> str:
    tables: dict[str, dict[str, object]] = {
        "": {"schema_version": "1.4"},
        "task": {"name": f"liverl/{name}", "description": description},
        "agent": {"timeout_sec": agent_timeout_sec},
        "verifier": {"timeout_sec": verifier_timeout_sec},
        "environment": {"cpus": 1, "memory_mb": memory_mb, "workdir": workdir},
        "metadata.liverl": liverl.model_dump(exclude_defaults=True),
    }
    lines: list[str] = []
    for table, values in tables.items():
        if table:
            lines += ["", f"[{table}]"]
        lines += [f"{key} = {toml_value(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _dockerfile(image: str, requirements: tuple[str, ...], workdir: str) -> str:
    install = f"RUN pip install --no-cache-dir {' '.join(requirements)}\n" if requirements else ""
    return f"FROM {image}\n{install}WORKDIR {workdir}\nCOPY repo/ {workdir}/\n"


_TEST_SH = """#!/bin/sh
# Restores the tests, runs the expected ones, and writes the reward where Harbor reads it.
here=$(cd "$(dirname "$0")" && pwd)
logs=${{LIVERL_LOGS:-/logs/verifier}}
mkdir -p "$logs"
echo 0 > "$logs/reward.txt"
cd "${{LIVERL_WORKDIR:-{workdir}}}" || exit 1
cp -R "$here/files/." .
export PYTHONPATH="{python_path}${{PYTHONPATH:+:$PYTHONPATH}}"
if python3 -m pytest -q -p no:cacheprovider -o addopts= "@$here/expected.txt"; then
    echo 1 > "$logs/reward.txt"
fi
"""

_SOLVE_SH = """#!/bin/sh
# Applies the known repair.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cp -R "$here/files/." "${{LIVERL_WORKDIR:-{workdir}}}/"
"""
