"""Surveys tasks in sandboxes of their own: for repositories whose code must not run in this process.

Knows the survey program; does not know what surveys are used for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from runtime.agent_loop.visits import ask, visit
from runtime.config import Environment
from runtime.laptop.policy.demonstrations import Ground
from runtime.sandboxes.base import Sandbox
from runtime.scaffolds.shell import LIVERL, ShellScaffold
from runtime.task import Task

SURVEY_SEC: Final = 180.0


def survey_tasks(
    tasks: Sequence[Task],
    scaffold: ShellScaffold,
    *,
    environment: Environment,
    on_progress: Callable[[str], None] = lambda text: None,
) -> list[Ground | None]:
    """One survey per task, in order; None where it failed (the failure is said through ``on_progress``)."""
    program = LIVERL / scaffold.settings.tools / "survey.py"

    async def look(sandbox: Sandbox, task: Task) -> Ground:
        survey = await ask(sandbox, task, scaffold, program, timeout_sec=SURVEY_SEC)
        return Ground(task.instruction.strip(), survey, task.liverl.family)

    return visit(tasks, scaffold, look, environment=environment, done="surveyed", say=on_progress)
