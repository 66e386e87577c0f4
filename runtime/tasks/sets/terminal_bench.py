"""Terminal-Bench's own format (``task.yaml``), of before Harbor: folders with a Dockerfile and pytest.

Format: the bench's documentation and its tasks. Later editions of the bench are in Harbor's format and need no import.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from runtime.errors import RunError, UserError
from runtime.task_format import keys
from runtime.task_format.published import Published
from runtime.tasks.directories import OnProblem
from runtime.tasks.sets.types import BadRow
from runtime.tasks.sets.write import document
from runtime.tasks.write import NAME, publish

NAME_OF_SET = "terminal-bench"
_MARK = "task.yaml"
_COMPOSE = ("docker-compose.yaml", "docker-compose.yml")
_NOT_CONTEXT = {_MARK, *_COMPOSE, "solution.sh", "solution.yaml", "run-tests.sh", "tests"}
_SERVICE = {"build", "image", "container_name", "command", "environment", "volumes", "tty", "stdin_open", "init"}
_BENCH = re.compile(r"\$\{T_BENCH_\w+\}")
_MAX_BYTES = 64 << 20
_TEST_SH = """#!/bin/sh
# Runs the task's own tests. LiveRL reads how they ended from the log.
mkdir -p /logs/verifier
export TEST_DIR=/tests
if command -v bash > /dev/null; then shell=bash; else shell=sh; fi
"$shell" /tests/run-tests.sh > /logs/verifier/test_output.txt 2>&1
exit 0
"""


def import_folders(
    path: Path,
    out: Path,
    *,
    instances: tuple[str, ...] = (),
    limit: int | None = None,
    on_problem: OnProblem,
) -> list[Path]:
    """Write the tasks among the folders at ``path`` below ``out``. Raises ``UserError`` where there are none,
    ``RunError`` where none could be taken."""
    folders = [path] if (path / _MARK).is_file() else sorted(one.parent for one in path.glob(f"*/{_MARK}"))
    if not folders:
        raise UserError(f"{path}: no {_MARK} in it or in its folders; give a folder of Terminal-Bench's tasks")
    absent = sorted(set(instances) - {folder.name for folder in folders})
    if absent:
        raise UserError(f"{path}: no task {', '.join(absent)}")
    made: list[Path] = []
    for folder in folders:
        if instances and folder.name not in instances:
            continue
        if limit is not None and len(made) >= limit:
            break
        try:
            made.append(_write(folder, out))
        except (BadRow, FileExistsError) as why:
            on_problem(f"{folder}: {why}")
        except (OSError, yaml.YAMLError, TypeError, ValueError, AttributeError, RecursionError) as error:
            on_problem(f"{folder}: not in the form of {NAME_OF_SET}: {' '.join(str(error).split())}")
    if not made:
        raise RunError(f"{path}: no task of {NAME_OF_SET} could be made")
    return made


def _write(folder: Path, out: Path) -> Path:
    name = folder.name.lower()
    if not NAME.fullmatch(name):
        raise BadRow(f"its name is no name of a task ({NAME.pattern})")
    _check_content(folder)
    task = yaml.safe_load((folder / _MARK).read_text(encoding="utf-8"))
    if not isinstance(task, dict):
        raise BadRow(f"{_MARK} is no table")
    if (parser := task.get("parser_name", "pytest")) != "pytest":
        raise BadRow(f"{_MARK}: parser_name: {parser}: pytest's output alone is read here")
    if not (folder / "run-tests.sh").is_file():
        raise BadRow("no run-tests.sh")
    _check_compose(folder)
    if not (folder / "Dockerfile").is_file():
        raise BadRow("no Dockerfile")
    files = {"tests/test.sh": _TEST_SH.encode(), "tests/run-tests.sh": (folder / "run-tests.sh").read_bytes()}
    files |= {f"environment/{path}": content for path, content in _content(folder, _NOT_CONTEXT)}
    if (folder / "tests").is_dir():
        files |= {f"tests/{path}": content for path, content in _content(folder / "tests", set())}
    solution = _solution(folder)
    if solution is not None:
        files["solution/solve.sh"] = solution
    files["instruction.md"] = (_instruction(task).strip() + "\n").encode()
    facts = Published(
        set=NAME_OF_SET,
        instance=folder.name,
        origin=folder.parent.name,
        difficulty=_word(task, "difficulty"),
        licence="Apache-2.0",
        log_parser="pytest-summary",
        rule="all",
    )
    tables: dict[str, dict[str, object]] = {
        "agent": {"timeout_sec": _seconds(task, "max_agent_timeout_sec", 600)},
        "verifier": {"timeout_sec": _seconds(task, "max_test_timeout_sec", 180)},
        "metadata": {"category": _word(task, "category"), "difficulty": facts.difficulty},
    }
    files["task.toml"] = document(name, facts, tables, {}).encode()
    return publish(out, name, files)


def _instruction(task: Mapping[str, Any]) -> str:
    """Also of the older form, of several descriptions."""
    text = task.get("instruction")
    listed = task.get("descriptions")
    if text is None and isinstance(listed, list):
        named = {one.get("key"): one.get("description") for one in listed if isinstance(one, dict)}
        text = named.get("base")
    if not isinstance(text, str) or not text.strip():
        raise BadRow(f"{_MARK}: no instruction")
    return text


def _solution(folder: Path) -> bytes | None:
    if (folder / "solution.sh").is_file():
        text = (folder / "solution.sh").read_bytes()
        return text if text.startswith(b"#!") else b"#!/bin/bash\n" + text
    if (folder / "solution.yaml").is_file():
        steps = yaml.safe_load((folder / "solution.yaml").read_text(encoding="utf-8"))
        commands = [step["command"] if isinstance(step, dict) else step for step in steps or []]
        if not all(isinstance(one, str) for one in commands):
            raise BadRow("solution.yaml: a step that is no command")
        return "\n".join(["#!/bin/bash", *commands, ""]).encode()
    return None


def _check_compose(folder: Path) -> None:
    """The bench's own Compose file says nothing that a box is not; others are refused by what they ask for."""
    found = [folder / name for name in _COMPOSE if (folder / name).is_file()]
    if not found:
        return
    text = _BENCH.sub("bench", found[0].read_text(encoding="utf-8"))
    services = (yaml.safe_load(text) or {}).get("services")
    if not isinstance(services, dict) or len(services) != 1:
        names = ", ".join(services) if isinstance(services, dict) else "none"
        raise BadRow(f"{found[0].name}: a task has one box; its services are {names}")
    ((name, service),) = services.items()
    more = sorted(set(service or {}) - _SERVICE)
    mounts = [str(one) for one in (service or {}).get("volumes") or [] if not str(one).startswith("bench")]
    if more or mounts:
        raise BadRow(f"{found[0].name}: services.{name}: {', '.join([*more, *mounts])}: not done here")


def _word(task: Mapping[str, Any], key: str) -> str:
    value = task.get(key) or ""
    if not isinstance(value, str):
        raise BadRow(f"{_MARK}: {key} is no text")
    return value


def _seconds(task: Mapping[str, Any], key: str, usual: float) -> float:
    value = task.get(key) or usual
    if why := keys.NUMBERS["agent.timeout_sec"].problem(value):
        raise BadRow(f"{_MARK}: {key} = {value!r}: {why}")
    return float(value)


def _check_content(folder: Path) -> None:
    """Links would show files of this host, in a task's solution too; sizes are known before anything is read."""
    total = 0
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise BadRow(f"{path.relative_to(folder)} is a link")
        total += path.stat().st_size if path.is_file() else 0
    if total > _MAX_BYTES:
        raise BadRow(f"its files are more than {_MAX_BYTES >> 20} MiB")


def _content(root: Path, without: set[str]) -> Iterator[tuple[str, bytes]]:
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if parts[0] not in without and ".git" not in parts and "__pycache__" not in parts and path.is_file():
            yield "/".join(parts), path.read_bytes()
