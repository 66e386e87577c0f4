"""Scripts that rival the built-in agent with free tools, on one generated repository."""

from __future__ import annotations

import shutil
from pathlib import Path

from runtime.agent_loop.rivals import NAMES, score
from runtime.config import PlainProcess, ShellScaffold
from runtime.laptop.policy.fieldwork import survey_tasks
from runtime.laptop.policy.memory import MemoryWorkspace
from runtime.laptop.synth import write
from runtime.laptop.tools.survey import survey
from runtime.parts import part
from runtime.scaffolds.shell import ShellScaffold as Shell
from runtime.task import load_task
from tests.runtime.scaffolds.shell_trials import REPOSITORY


def test_scripts_have_the_agents_budget_and_solve_by_running_the_tests(tmp_path: Path) -> None:
    task = load_task(write(REPOSITORY, "train", 4, out=tmp_path))
    before = {path: path.read_bytes() for path in task.repository.rglob("*.py")}
    assert part("baselines", "free") is score
    tables = {
        edits: score(
            [task], Shell(ShellScaffold(tools="free", max_turns=400, max_edits=edits)), environment=PlainProcess()
        )
        for edits in (1, 200)
    }
    assert [row["name"] for row in tables[1]["rows"]] == list(NAMES)
    assert tables[200] == {
        "tasks": 1,
        "max_edits": 200,
        "rows": [{"name": name, "solved": 1, "rate": 1.0} for name in NAMES],
    }, "with edits enough each finds the one bug"
    assert sum(row["solved"] for row in tables[1]["rows"]) < 3, "one edit is a guess"
    assert before == {path: path.read_bytes() for path in task.repository.rglob("*.py")}
    assert score([], Shell(ShellScaffold(tools="free", max_turns=4, max_edits=1)))["rows"] == []


def test_a_survey_in_a_box_finds_what_one_in_memory_finds(tmp_path: Path) -> None:
    task = load_task(write(REPOSITORY, "train", 4, out=tmp_path))
    shell = Shell(ShellScaffold(tools="repair", max_turns=4, max_edits=1))
    unfit = load_task(write(REPOSITORY, "train", 5, out=tmp_path))
    shutil.rmtree(unfit.repository)
    said: list[str] = []
    found, nothing = survey_tasks([task, unfit], shell, environment=PlainProcess(), on_progress=said.append)
    assert found is not None and found.survey == survey(MemoryWorkspace.of_task(task))
    assert nothing is None and len(said) == 1 and "not surveyed" in said[0]
