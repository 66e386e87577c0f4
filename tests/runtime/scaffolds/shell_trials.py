"""Trials of the built-in agent with a scripted policy on one generated repository: what every backend must hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.agent_loop.services import open_services
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.types import TrialKey, TrialResult
from runtime.config import (
    DirectorySource,
    Environment,
    PlainProcess,
    PretrainedPolicy,
    Proxy,
    RuntimeConfig,
    ShellScaffold,
    TaskSet,
    TorchRollout,
)
from runtime.grading.make import make_verifier
from runtime.laptop.policy.memory import MemoryWorkspace
from runtime.laptop.synth import write
from runtime.laptop.synth.repository import build
from runtime.laptop.tools.survey import survey
from runtime.proxy.codec import load_codec
from runtime.sandboxes.base import SandboxProvider
from runtime.task import Task, load_task
from tests.runtime.proxy.scripted_engine import ScriptedEngine
from tests.runtime.proxy.tiny_model import write_model

REPOSITORY = build("train", seed=11, number=4)


def config(tools: str, environment: Environment | None = None, **scaffold: int) -> RuntimeConfig:
    source = DirectorySource(paths=("unused",))
    return RuntimeConfig(
        experiment="test",
        seed=0,
        target="local",
        policy=PretrainedPolicy(path="policy"),
        train=(TaskSet(name="train", source=source),),
        validation=(),
        baselines=False,
        scaffold=ShellScaffold(**{"tools": tools, "max_turns": 20, "max_edits": 3, **scaffold}),
        environment=environment or PlainProcess(),
        rollout=TorchRollout(
            replicas=1,
            slots=4,
            prompt_length=2048,
            response_length=8192,
            max_tokens_per_turn=1024,
            temperature=1.0,
            tool_parser="compact" if tools == "repair" else "hermes",
            concurrency=2,
        ),
        proxy=Proxy(record_journal=False),
    )


async def trial(
    folder: Path,
    settings: RuntimeConfig,
    replies: Sequence[str],
    *,
    provider: SandboxProvider | None = None,
    instruction: str | None = None,
) -> tuple[TrialResult, dict[str, Any]]:
    """One trial on ``REPOSITORY`` with scripted replies; the result and what the agent's program reported. provider:
    in place of the one that the settings name."""
    repair = settings.rollout.tool_parser == "compact"
    model = write_model(folder / "model", family="compact" if repair else "chatml")
    task: Task = load_task(write(REPOSITORY, "train", 4, out=folder / "tasks"))
    if instruction is not None:
        task = task.model_copy(update={"instruction": instruction})
    engine = ScriptedEngine(load_codec(model, settings.rollout.tool_parser), replies)
    key = TrialKey(task=task.id, task_set="train", step=1, group="g", index=0)
    async with open_services(settings, engine=engine, model_folder=model, state=folder / "state") as services:
        if provider is not None:
            verifier = make_verifier(settings.environment, provider)
            services = replace(services, provider=provider, verifier=verifier)
        runner = TrialRunner(services, settings, trials=folder / "trials")
        result = await runner.run(task, key=key, temperature=1.0)
        if provider is not None:
            await verifier.close()
    logs = list((folder / "trials").glob("1/*/agent/stdout.txt"))
    return result, json.loads(logs[0].read_text().splitlines()[-1]) if logs else {}


def route() -> list[str]:
    """The shortest way to the repair: on to its line, the repair, submit."""
    stops = survey(MemoryWorkspace.of(REPOSITORY))["stops"]
    at, tool = next((at, tool) for at, stop in enumerate(stops) for tool, ok in stop["repairs"].items() if ok)
    return ["run", *["next"] * at, tool, "submit"]


def hermes(name: str, **arguments: str) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def free_repair() -> list[str]:
    """The same repair by free text, after a vain attempt."""
    (path,) = REPOSITORY.repaired
    broken, right = (
        text.split("\n")[REPOSITORY.line - 1] for text in (REPOSITORY.broken[path], REPOSITORY.repaired[path])
    )
    context = REPOSITORY.broken[path].split("\n")[REPOSITORY.line - 2]
    return [
        hermes("read_file", path=path),
        hermes("edit_file", path=path, old="no such text", new=""),
        hermes("edit_file", path=path, old=f"{context}\n{broken}", new=f"{context}\n{right}"),
        hermes("run_command", command="ls; sleep 100 & echo done"),
        hermes("submit"),
    ]


async def both_tool_sets_are_paid(folder: Path, environment: Environment, *, provider: SandboxProvider | None) -> None:
    """The built-in agent's two kinds solve the task in boxes of ``environment``, its own test runs included."""
    for tools, replies in (("repair", [f"<call>{word}" for word in route()]), ("free", free_repair())):
        result, report = await trial(folder / tools, config(tools, environment), replies, provider=provider)
        assert result.error is None
        assert (result.reward, result.termination.value) == (1.0, "agent_completed"), tools
        assert report["edits"] >= 1 and result.model_calls == len(replies)
