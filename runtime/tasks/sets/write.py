"""Writes an imported task as a directory in Harbor's format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from runtime.grading.log_verifier import STATUSES
from runtime.task import LOG
from runtime.task_format.published import Published
from runtime.task_format.repository import BUG
from runtime.tasks.sets.scripts import SOLVE_FILES_SH, SOLVE_SH, TEST_SH
from runtime.tasks.sets.types import BadRow, SetTask
from runtime.tasks.write import NAME, check_path, publish, toml_value

_OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
"""Scripts of sets install the repository again; without a network, of what the image has."""
_AGENT_SEC, _VERIFIER_SEC = 3600.0, 1800.0
"""No set says any; a run's own limits count where they are shorter. SWE-bench's harness gives tests 1,800 s."""


def write_set_task(out: Path, task: SetTask) -> Path:
    """Write ``out/NAME`` whole, and return it. Raises ``BadRow``, ``ValueError``, ``FileExistsError``."""
    name = task.name.lower()
    if not NAME.fullmatch(name):
        raise BadRow(f"its name {task.name!r} is no name of a folder ({NAME.pattern})")
    for path in (*task.files, *task.tests):
        check_path(path)
    if "\0" in task.instruction:
        raise BadRow("its issue holds a NUL, which no agent can be given")
    files = {
        "task.toml": _toml(name, task).encode(),
        "instruction.md": (task.instruction.strip() + "\n").encode(),
        "environment/.gitkeep": b"",
        "tests/test.sh": TEST_SH.format(workdir=task.workdir).encode(),
        "tests/eval.sh": task.script.encode(),
        **{f"tests/{path}": content for path, content in task.tests.items()},
    }
    if task.statuses:
        files[f"tests/{STATUSES}"] = json.dumps(dict(task.statuses), indent=1, ensure_ascii=False).encode() + b"\n"
    if task.bug:
        files[f"environment/{BUG}"] = _whole(task.bug)
    if task.files:
        files["solution/solve.sh"] = SOLVE_FILES_SH.format(workdir=task.workdir).encode()
        files |= {f"solution/files/{path}": content for path, content in task.files.items()}
    elif task.solution:
        reverse = " --reverse" if task.backwards else ""
        files["solution/solve.sh"] = SOLVE_SH.format(workdir=task.workdir, reverse=reverse).encode()
        files["solution/solution.patch"] = _whole(task.solution)
    return publish(out, name, files)


def _whole(patch: str) -> bytes:
    return (patch if patch.endswith("\n") else patch + "\n").encode()


def _toml(name: str, task: SetTask) -> str:
    facts = task.published
    liverl: dict[str, object] = {
        "fail_to_pass": task.fail_to_pass,
        "pass_to_pass": task.pass_to_pass,
        "test_files": task.test_files,
        "source_files": task.source_files,
        "split_key": facts.repo,
    }
    tables: dict[str, dict[str, object]] = {
        "agent": {"timeout_sec": _AGENT_SEC},
        "verifier": {"timeout_sec": _VERIFIER_SEC},
        "verifier.env": dict(_OFFLINE),
        "environment": {"workdir": task.workdir},
        "metadata": {"difficulty": facts.difficulty, "license": facts.licence},
    }
    return document(name, facts, tables, {key: value for key, value in liverl.items() if value != ()})


def document(
    name: str, facts: Published, tables: Mapping[str, Mapping[str, object]], liverl: Mapping[str, object]
) -> str:
    """``task.toml`` of a task that is judged by the log of its set's own tests."""
    whole: dict[str, Mapping[str, object]] = {
        "": {"schema_version": "1.4"},
        "task": {"name": f"{facts.set}/{name}", "description": f"{facts.set}: {facts.instance}"},
        **tables,
        "metadata.liverl": {"source": facts.set, "runner": LOG, **liverl},
        "metadata.liverl.published": facts.model_dump(exclude_defaults=True),
    }
    lines: list[str] = []
    for table, values in whole.items():
        if table:
            lines += ["", f"[{table}]"]
        lines += [f"{key} = {toml_value(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"
