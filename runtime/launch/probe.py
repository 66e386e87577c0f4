"""The probe before a run: two trials of a scripted policy through the spec's own scaffold, boxes and verifier.

In one the policy does nothing, and the reward must be below 1; in the other the task's own solution is applied where
the agent worked, and the reward must be 1. What would make every trial of the run worthless shows here, within seconds.
Knows no model: ``ScriptedPolicy`` answers.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from runtime.agent_loop.services import Services, make_scaffold, open_services
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.types import TrialKey, TrialResult
from runtime.config import RuntimeConfig
from runtime.errors import RunError, Termination, TrialError
from runtime.grading.task_scripts import run_script
from runtime.launch.scripted_policy import ScriptedPolicy
from runtime.proxy.codec import load_codec
from runtime.run_paths import RunPaths
from runtime.sandboxes.base import TASK_FILES, Mount, Sandbox
from runtime.scaffolds.base import AgentOutcome, ModelEndpoint, Needs, Scaffold, needs_of, rehearsal_of
from runtime.task import Task

NOTHING, SOLUTION = "nothing", "solution"
_FOLDER = "/solution"


class Solving:
    """A scaffold after whose agent the task's own solution is applied in the same box."""

    def __init__(self, inner: Scaffold, solution: Path) -> None:
        self._inner = inner
        self._solution = solution

    @property
    def mounts(self) -> tuple[Mount, ...]:
        return (*self._inner.mounts, Mount(self._solution.parent, f"{TASK_FILES}{_FOLDER}"))

    @property
    def needs(self) -> Needs:
        return needs_of(self._inner)

    async def run(self, task: Task, sandbox: Sandbox, endpoint: ModelEndpoint, *, timeout_sec: float) -> AgentOutcome:
        outcome = await self._inner.run(task, sandbox, endpoint, timeout_sec=timeout_sec)
        workdir = task.config.environment.workdir
        script = f"{_FOLDER}/{self._solution.name}"
        env = task.config.solution.env
        done = await run_script(sandbox, script, env=env, cwd=workdir, timeout_sec=timeout_sec)
        if done.exit_code != 0:
            said = done.stderr.decode(errors="replace").strip()[-300:]
            why = f"{self._solution}: ended with {done.exit_code}: {said}"
            raise TrialError(Termination.TASK_INVALID, why, host_fault=True)  # the task's, not the agent's
        return outcome


async def probe(paths: RunPaths, config: RuntimeConfig, task: Task) -> None:
    """Play both trials on ``task``; their records lie in ``paths.probe``. Raises ``RunError`` saying what is wrong."""
    kept = config.model_copy(update={"dump": config.dump.model_copy(update={"trials_every": 1, "work_every": 0})})
    engine = ScriptedPolicy(
        load_codec(paths.policy, config.rollout.tool_parser), rehearsal_of(make_scaffold(config.scaffold))
    )
    async with open_services(kept, engine=engine, model_folder=paths.policy, state=paths.probe_state) as services:
        trials = [_trial(services, kept, task, NOTHING, paths.probe)]
        solution = task.path / "solution" / "solve.sh"
        if solution.is_file():
            solving = replace(services, scaffold=Solving(services.scaffold, solution))
            trials.append(_trial(solving, kept, task, SOLUTION, paths.probe))
        results = await asyncio.gather(*trials)
    if problems := [problem for result in results if (problem := problem_of(result)) is not None]:
        raise RunError(
            f"the probe trial failed, so every trial of the run would: {'; '.join(problems)} "
            f"(task {task.path}, records {paths.probe})"
        )


async def _trial(services: Services, config: RuntimeConfig, task: Task, what: str, out: Path) -> TrialResult:
    key = TrialKey(task=task.id, task_set="probe", step=0, group=f"probe-{what}", index=0, validation=True)
    return await TrialRunner(services, config, trials=out).run(task, key=key, temperature=0.0)


def problem_of(result: TrialResult) -> str | None:
    """What is wrong with a finished probe trial, or None."""
    what = result.key.group.removeprefix("probe-")
    ended = result.error or result.cause or ""
    if result.termination is Termination.AGENT_DIED:
        return f"{what}: the agent died: {ended}"
    if result.reward is None:
        return f"{what}: {result.termination.value}: {ended}"
    if result.model_calls == 0:
        return f"{what}: the agent ended ({result.termination.value}) without having asked the model anything"
    # Doing nothing may be worth a part of a point, never all of it.
    if (result.reward >= 1.0) is (what == NOTHING):
        outcomes = ", ".join(f"{name} {outcome}" for name, outcome in result.outcomes.items()) or result.verdict
        wanted = "less than 1" if what == NOTHING else "1"
        return f"{what}: reward {result.reward:g} instead of {wanted} ({outcomes})"[:500]
    return None
