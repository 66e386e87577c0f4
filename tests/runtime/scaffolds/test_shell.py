"""The built-in agent for real: its program in a sandbox, through the proxy, with a scripted policy, to a verdict."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.agent_loop.services import open_services
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.types import TrialKey, TrialResult
from runtime.config import (
    Bubblewrap,
    DirectorySource,
    PretrainedPolicy,
    Proxy,
    RuntimeConfig,
    ShellScaffold,
    TaskSet,
    TorchRollout,
)
from runtime.errors import Termination
from runtime.laptop.policy.memory import MemoryWorkspace
from runtime.laptop.synth import write
from runtime.laptop.synth.repository import build
from runtime.laptop.tools.survey import survey
from runtime.proxy.codec import load_codec
from runtime.task import Task, load_task
from tests.runtime.proxy.scripted_engine import ScriptedEngine
from tests.runtime.proxy.tiny_model import write_model

REPOSITORY = build("train", seed=11, number=4)
KINDS = ["process", pytest.param("bubblewrap", marks=pytest.mark.sandbox)]


def config(tools: str, environment: str, **scaffold: int) -> RuntimeConfig:
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
        environment=Bubblewrap(**{"type": environment}),
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


def play(tmp_path: Path, settings: RuntimeConfig, replies: Sequence[str]) -> tuple[TrialResult, dict[str, Any]]:
    """One trial on ``REPOSITORY`` with scripted replies; the result and what the agent's program reported."""
    repair = settings.rollout.tool_parser == "compact"
    model = write_model(tmp_path / "model", family="compact" if repair else "chatml")
    task: Task = load_task(write(REPOSITORY, "train", 4, out=tmp_path / "tasks"))

    async def run() -> TrialResult:
        engine = ScriptedEngine(load_codec(model, settings.rollout.tool_parser), replies)
        async with open_services(settings, engine=engine, model_folder=model, state=tmp_path / "state") as services:
            runner = TrialRunner(services, settings, trials=tmp_path / "trials")
            key = TrialKey(task=task.id, task_set="train", step=1, group="g", index=0)
            return await runner.run(task, key=key, temperature=1.0)

    result = asyncio.run(run())
    (log,) = (tmp_path / "trials").glob("1/*/agent/stdout.txt")
    return result, json.loads(log.read_text().splitlines()[-1])


def route() -> list[str]:
    """The shortest way to the repair: on to its line, the repair, submit."""
    stops = survey(MemoryWorkspace.of(REPOSITORY))["stops"]
    at, tool = next((at, tool) for at, stop in enumerate(stops) for tool, ok in stop["repairs"].items() if ok)
    return ["run", *["next"] * at, tool, "submit"]


@pytest.mark.parametrize("kind", KINDS)
def test_structured_repair_is_paid(tmp_path: Path, kind: str) -> None:
    words = route()
    result, report = play(tmp_path, config("repair", kind), [f"<call>{word}" for word in words])
    assert (result.reward, result.termination) == (1.0, Termination.COMPLETED)
    assert report["calls"] == words
    assert report["edits"] == 1
    assert result.model_calls == len(words) >= 3
    (sample,) = result.samples
    assert sum(sample.response_mask) == result.completion_tokens


def test_doing_nothing_is_not(tmp_path: Path) -> None:
    result, _ = play(tmp_path, config("repair", "process"), ["<call>run", "<call>submit"])
    assert (result.reward, result.termination) == (0.0, Termination.COMPLETED)


def test_budgets_end_the_trial(tmp_path: Path) -> None:
    result, report = play(tmp_path, config("repair", "process", max_edits=2), ["<call>run", *["<call>swap"] * 9])
    assert (result.reward, result.termination, report["edits"]) == (0.0, Termination.MAX_TURNS, 2)


def test_silence_ends_the_trial(tmp_path: Path) -> None:
    result, report = play(tmp_path, config("repair", "process"), ["hm", "<call>run", "well", "so", "then"])
    assert result.termination is Termination.NO_TOOL
    assert report["calls"] == ["run"]


def hermes(name: str, **arguments: str) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.mark.parametrize("kind", KINDS)
def test_free_text_edit_is_paid(tmp_path: Path, kind: str) -> None:
    (path,) = REPOSITORY.repaired
    broken, right = (
        text.split("\n")[REPOSITORY.line - 1] for text in (REPOSITORY.broken[path], REPOSITORY.repaired[path])
    )
    context = REPOSITORY.broken[path].split("\n")[REPOSITORY.line - 2]
    replies = [
        hermes("read_file", path=path),
        hermes("edit_file", path=path, old="no such text", new=""),
        hermes("edit_file", path=path, old=f"{context}\n{broken}", new=f"{context}\n{right}"),
        hermes("run_command", command="ls; sleep 100 & echo done"),
        hermes("submit"),
    ]
    result, report = play(tmp_path, config("free", kind), replies)
    assert (result.reward, result.termination) == (1.0, Termination.COMPLETED)
    assert report["calls"] == ["read_file", "edit_file", "edit_file", "run_command", "submit"]
