"""Real coding agents on a small real task: scripted tokens below, the real proxy, sandbox and verifier around them.

The engine samples the scripted text in random token splits, each token with a log-probability of its own, so that every
one of them can be found again in what the trainer would get.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runtime.agent_loop.services import Services, open_services
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.types import TrialResult
from runtime.config import AgentScaffold, Terminus2Scaffold
from runtime.errors import MachineError
from runtime.proxy.codec import load_codec
from runtime.proxy.types import Trajectory
from runtime.scaffolds.agents import package
from runtime.scaffolds.install import install
from runtime.task import Task
from tests.runtime.agent_loop.conftest import make_config, make_key
from tests.runtime.proxy.scripted_engine import Call, ScriptedEngine
from tests.toolbox import require_command

RUN_TESTS = "python3 -c 'import calc; assert calc.add(1, 2) == 3; print(\"all good\")'"

Script = Callable[[str], str]
"""The whole prompt as text -> the reply as text."""


def call(name: str, **arguments: Any) -> str:
    """A tool call as a Hermes model writes it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def replies(prompt: str) -> int:
    """How many replies of the policy the conversation holds."""
    return prompt.count("<|im_start|>assistant") - 1


@dataclass
class Play:
    """What one trial gave: its result and trajectory, the engine that was asked, and the trial's folder."""

    result: TrialResult
    trajectory: Trajectory
    engine: ScriptedEngine
    folder: Path
    prompts: list[str] = field(default_factory=list)

    @property
    def log(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted((self.folder / "agent").glob("std*")))


def require(settings: AgentScaffold) -> None:
    """Skip where the agent cannot be installed."""
    if isinstance(settings, Terminus2Scaffold):
        require_command("tmux", package="tmux")
    try:
        install(package(settings))
    except MachineError as error:
        pytest.skip(f"{error}; {error.fix}")


def play(
    settings: AgentScaffold,
    script: Script,
    *,
    task: Task,
    tokenizer: Path,
    folder: Path,
    timeout_sec: float = 280.0,
    disturb: Callable[[Services, ScriptedEngine], Any] | None = None,
    **rollout: Any,
) -> Play:
    """One trial in bubblewrap. ``disturb`` is called with the services as the trial starts."""
    require(settings)
    codec = load_codec(tokenizer, "hermes")
    trajectories: list[Trajectory] = []
    prompts: list[str] = []

    def reply(asked: Call) -> str:
        prompts.append(codec.tokens.decode(asked.prompt_ids))
        return script(prompts[-1])

    engine = ScriptedEngine(codec, reply)
    limits = {"prompt_length": 100_000, "response_length": 100_000, "max_tokens_per_turn": 4000, "attempts": 1}
    config = make_config(
        environment={"type": "bubblewrap", "agent_timeout_sec": timeout_sec, "memory_mib": 1024},
        **{**limits, **rollout},
    ).model_copy(update={"scaffold": settings})

    async def run() -> TrialResult:
        async with open_services(config, engine=engine, model_folder=tokenizer, state=folder / "state") as services:
            close = services.proxy.close_session

            async def kept(session_id: str) -> Trajectory:
                trajectory = await close(session_id)
                trajectories.append(trajectory)
                return trajectory

            services.proxy.close_session = kept  # type: ignore[method-assign]
            if disturb is not None:
                disturb(services, engine)
            return await TrialRunner(services, config, trials=folder / "trials").run(
                task, key=make_key(), temperature=1.0
            )

    result = asyncio.run(run())
    return Play(result, trajectories[0], engine, folder / "trials" / "3" / result.key.trial_id, prompts)


def check_tokens(it: Play) -> None:
    """Every sampled token reached the trainer exactly once, as sampled, or is accounted for."""
    accounting = it.trajectory.accounting
    generations = [call.generation for call in it.engine.calls if call.generation is not None]
    sampled = [
        (token, logprob)
        for generation in generations
        for token, logprob in zip(generation.token_ids, generation.logprobs, strict=True)
    ]
    trained = []
    for sample in it.trajectory.samples:
        lists = (sample.response_ids, sample.response_mask, sample.response_logprobs, sample.weight_versions)
        assert len({len(one) for one in lists}) == 1
        trained += [
            (token, logprob)
            for token, mask, logprob in zip(
                sample.response_ids, sample.response_mask, sample.response_logprobs, strict=True
            )
            if mask
        ]
    assert accounting.sampled == len(sampled)
    assert accounting.trained == len(trained)
    assert accounting.trained + accounting.discarded + accounting.auxiliary + accounting.lost == accounting.sampled
    assert len(set(trained)) == len(trained), "a token was trained twice"
    assert set(trained) <= set(sampled), "a trained token was never sampled like this"
    assert it.trajectory.mismatches == 0 and it.trajectory.failure is None
    _check_prompts(it)


def _check_prompts(it: Play) -> None:
    """What the engine was given for a later turn begins with all it was given and sampled for the turn before."""
    calls = [call for call in it.engine.calls if call.generation is not None]
    for turn in it.trajectory.turns:
        if turn.parent is None:
            continue
        before, now = calls[turn.parent], calls[turn.seq]
        assert before.generation is not None
        known = [*before.prompt_ids, *before.generation.token_ids]
        assert now.prompt_ids[: len(known)] == known
