"""What a task and a program of ``languages.py`` are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtime.task import Task, load_task
from tests.toolbox import node_tools


@dataclass(frozen=True)
class Subject:
    """A task: ``right`` and ``wrong`` are the source without and with the mistakes; ids: to be mended, then those that
    pass."""

    runner: str
    source: str
    right: str
    wrong: str
    tests: Mapping[str, str]
    mended: tuple[str, ...]
    passing: tuple[str, ...]
    others: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    """Of a task that brings its own."""
    honest: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Other work that is right, with the files that it leaves."""

    def write(self, root: Path) -> Path:
        files = {f"environment/repo/{self.source}": self.wrong, f"solution/files/{self.source}": self.right}
        files |= {f"environment/repo/{name}": text for name, text in {**self.others, **self.tests}.items()}
        files |= {f"tests/files/{name}": text for name, text in self.tests.items()}
        files |= {"tests/test.sh": "exit 1\n", "instruction.md": "Repair order, even and page.\n"}
        keys = {
            "runner": self.runner,
            "fail_to_pass": list(self.mended),
            "pass_to_pass": list(self.passing),
            "test_files": list(self.tests),
            **({"test_command": self.command} if self.command else {}),
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in keys.items()]
        lines += ["[verifier.env]", *(f"{name} = {json.dumps(value)}" for name, value in self.variables.items()), ""]
        files["task.toml"] = "\n".join(["[metadata.liverl]", *lines])
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return root


def task_of(subject: Subject, root: Path) -> Task:
    """The task, with what its runner needs and a box of this machine does not show."""
    task = load_task(subject.write(root))
    elsewhere: list[tuple[Path, str]] = []
    if task.suite is not None and task.suite.language == "javascript":
        elsewhere.append((node_tools("suites").parent, "/node_modules"))
    if subject.runner == "junit":  # where Debian has a part of each Java
        elsewhere += [(folder, str(folder)) for folder in Path("/etc").glob("java-*-openjdk")]
    return task.model_copy(update={"work": replace(task.work, elsewhere=tuple(elsewhere))})


NEEDS = {"rspec": "rspec", "phpunit": "phpunit", "go": "go", "cargo": "cargo", "ctest": "cmake", "junit": "javac"}
"""Runner -> a command of the system that it needs; all else needs node."""


@dataclass(frozen=True)
class Program:
    family: str
    runner: str
    name: str
    files: Mapping[str, str]


PAGE = "1\n2\n"
GOLDEN = {"golden/page.txt": PAGE}
