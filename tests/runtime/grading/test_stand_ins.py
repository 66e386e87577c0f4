"""What of an agent's work in other languages is not taken: what would stand for a helper, a header, a framework, the
command of the tests, or what they expect. Everything else is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.grading.artifacts import select
from runtime.task import load_task
from tests.attacks.languages import SUBJECTS

BUILDS = {
    "Makefile": "check:\n\t./scripts/run.sh\n",
    "scripts/run.sh": "exit 0\n",
    "Cargo.toml": '[package]\nname = "calc"\nbuild = "tools/generate.rs"\n',
    "settings.gradle": "includeBuild('conventions')\n",
    "src/main/java/com/acme/Old.java": "package com.acme;\n",
}
TAKEN = {
    "mocha": ["test/other.js", "lib/helper.js", "lib/helper/index.ts", "src/golden.js", "golden/new.txt", "calc.d.ts"],
    "ctest": ["include/new.h", "src/assertions.h", "docs/stdio.h.md"],
    "junit": [
        "src/main/java/org/example/parts/A.java",
        "src/main/java/com/acme/New.java",
        "src/main/java/net/fresh/New.java",
        "src/main/resources/META-INF/services/com.acme.Old",
    ],
    "go": ["parts/parts.go"],
    "cargo": ["src/parts.rs", "tools/other.rs"],
}
LEFT = {
    "mocha": ["test/helper.js", "test/helper.json", "golden/page.txt", ".tool-versions", "Makefile", "scripts/run.sh"],
    "ctest": ["include/assert.h", "include/string.h", "golden/page.txt"],
    "junit": [
        "src/main/java/org/junit/jupiter/api/Assertions.java",
        "core/src/main/kotlin/org/opentest4j/AssertionFailedError.kt",
        "src/main/resources/META-INF/services/javax.annotation.processing.Processor",
        "src/main/resources/META-INF/services/org.junit.platform.launcher.TestExecutionListener",
        "conventions/src/main/groovy/build.groovy",
        "golden/page.txt",
    ],
    "go": ["golden/page.txt", "mise.toml"],
    "cargo": ["golden/page.txt", "tools/generate.rs"],
}


@pytest.mark.parametrize("runner", TAKEN)
def test_what_stands_for_something_else_is_left_out(runner: str, tmp_path: Path) -> None:
    subject = SUBJECTS[runner]
    subject = replace(subject, others={**BUILDS, **subject.others, **BUILDS})
    command = subject.command or "make -s check && ./scripts/run.sh"
    task = load_task(replace(subject, command=command).write(tmp_path / "calc"))
    work = dict.fromkeys([*TAKEN[runner], *LEFT[runner], subject.source], b"x")
    files = select(task, {f"/app/{name}": entry for name, entry in work.items()}).files
    assert {name.removeprefix("/app/") for name in files} == {*TAKEN[runner], subject.source}


@pytest.mark.parametrize(
    ("command", "taken"),
    [
        ("grep -q new word && echo '<testsuite/>' > $REPORT/x.xml", {"word", "calc.rb", "run.sh", "Makefile"}),
        ("ruby calc.rb < word", {"word", "calc.rb", "run.sh", "Makefile"}),
        ("if ./run.sh; then true; fi", {"word", "calc.rb", "Makefile"}),
        ("A=1 timeout 5 sh -e run.sh calc.rb", {"word", "calc.rb", "Makefile"}),
        ("cat word\nmake check", {"word", "calc.rb", "run.sh"}),
    ],
)
def test_what_a_command_only_looks_at_may_be_what_is_to_be_repaired(
    command: str, taken: set[str], tmp_path: Path
) -> None:
    """Where a script is the known solution, and nobody knows what it changes."""
    names = ("word", "calc.rb", "run.sh", "Makefile")
    for name in names:
        (tmp_path / "environment/repo").mkdir(parents=True, exist_ok=True)
        (tmp_path / "environment/repo" / name).write_text("old\n")
    (tmp_path / "instruction.md").write_text("Repair it.\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test.sh").write_text("exit 1\n")
    (tmp_path / "task.toml").write_text(
        "[metadata.liverl]\nrunner = 'junit'\nfail_to_pass = ['w::new']\n" + f"test_command = {json.dumps(command)}\n"
    )
    files = select(load_task(tmp_path), {f"/app/{name}": b"new\n" for name in names}).files
    assert {name.removeprefix("/app/") for name in files} == taken


def test_what_the_known_solution_brings_or_the_task_gives_is_the_agents(tmp_path: Path) -> None:
    root = SUBJECTS["mocha"].write(tmp_path / "calc")
    own = root / "solution/files/golden/page.txt"
    own.parent.mkdir(parents=True)
    own.write_text("other\n")
    task = load_task(root)
    assert "/app/golden/page.txt" in select(task, {"/app/golden/page.txt": b"x"}).files
    table = root / "task.toml"
    table.write_text(
        table.read_text().replace("[metadata.liverl]", '[metadata.liverl]\nsource_files = ["test/helper.js"]')
    )
    assert "/app/test/helper.js" in select(load_task(root), {"/app/test/helper.js": b"x"}).files
