"""Demonstrations that are real trials: the spec's own agent, boxes, proxy and verifier, and a policy that knows.

A trial is kept when it was solved, in one conversation. What was tried in vain is in it as context.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from runtime.agent_loop.services import open_services
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.types import TrialKey, TrialResult
from runtime.config import RuntimeConfig, ShellScaffold
from runtime.demonstrations.conversation import Speaker
from runtime.demonstrations.held_out import package_of
from runtime.demonstrations.solver import Script, Solver, script_of
from runtime.demonstrations.types import Demonstration
from runtime.demonstrations.vain import number_of
from runtime.task import Task

GROUP = "demonstration"


async def demonstrate(
    tasks: Sequence[Task],
    config: RuntimeConfig,
    *,
    speaker: Speaker,
    model_folder: Path,
    state: Path,
    times: int,
    second_try: float,
    concurrency: int,
    on_trial: Callable[[int, int], None] = lambda done, kept: None,
) -> tuple[list[Demonstration], Counter[str]]:
    """``times`` trials of each task, in order of the tasks; and how many gave none, by why. ``second_try``: the chance
    that another edit fails first, and after it one more."""
    scaffold = config.scaffold
    assert isinstance(scaffold, ShellScaffold)
    engine = Solver(speaker)
    settings = config.model_copy(
        update={
            "dump": config.dump.model_copy(update={"trials_every": 0, "work_every": 0}),
            "rollout": config.rollout.model_copy(update={"attempts": 1}),
            "proxy": config.proxy.model_copy(update={"record_journal": False}),
            "environment": config.environment.model_copy(update={"reuse_verdicts": True}),
        }
    )
    why: Counter[str] = Counter()
    wanted: list[tuple[TrialKey, Task, Script]] = []
    for task in tasks:
        for index in range(times):
            key = TrialKey(task=task.id, task_set=GROUP, step=0, group=GROUP, index=index)
            rng = random.Random(f"{config.seed}/{key.trial_id}")
            wrong = number_of(scaffold.max_edits - 1 if scaffold.undo_failed_edits else 0, second_try, rng)
            script = script_of(task, wrong=wrong, rng=rng)
            if isinstance(script, str):
                why[script] += 1
            else:
                wanted.append((key, task, script))
    done, kept = 0, 0
    gate = asyncio.Semaphore(concurrency)
    async with open_services(settings, engine=engine, model_folder=model_folder, state=state) as services:
        runner = TrialRunner(services, settings, trials=state / "trials")

        async def one(key: TrialKey, task: Task, script: Script) -> Demonstration | str:
            nonlocal done, kept
            async with gate:
                engine.scripts[key.trial_id] = script
                result = await runner.run(task, key=key, temperature=0.0)
                del engine.scripts[key.trial_id]
            made = _demonstration(result, script, task)
            done, kept = done + 1, kept + isinstance(made, Demonstration)
            on_trial(done, kept)
            return made

        found = await asyncio.gather(*(one(*each) for each in wanted))
    why.update(made for made in found if isinstance(made, str))
    return [made for made in found if isinstance(made, Demonstration)], why


def _demonstration(result: TrialResult, script: Script, task: Task) -> Demonstration | str:
    if script.why_not is not None:
        return script.why_not
    if result.error is not None or result.reward is None:
        return f"no grade: {result.termination.value}"
    if result.reward < 1:
        return "its own solution is not paid"
    if len(result.samples) != 1:
        return "not one conversation"
    (sample,) = result.samples
    mask = list(_masked(sample.response_mask, script.trained))
    ids = [*sample.prompt_ids, *sample.response_ids]
    return Demonstration(ids, [0] * len(sample.prompt_ids) + mask, package_of(task.id), task.liverl.family, task.id)


def _masked(mask: Sequence[int], trained: Sequence[bool]) -> Iterable[int]:
    """``mask`` without the replies that are not to be imitated: its runs of ones are the replies, in order."""
    reply, before = -1, 0
    for bit in mask:
        reply += bit > before
        yield bit if bit and trained[reply] else 0
        before = bit
