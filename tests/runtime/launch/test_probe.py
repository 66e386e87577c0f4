"""The probe before a run: what it lets pass, and each of the ways in which a run could be worthless."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from runtime.config import ImportedScaffold, PretrainedPolicy, RuntimeConfig
from runtime.errors import RunError
from runtime.launch.probe import probe
from runtime.launch.scripted_policy import ScriptedPolicy
from runtime.proxy.call_text import call_text
from runtime.proxy.codec import load_codec
from runtime.rollouter.engine import SamplingParams
from runtime.run_paths import RunPaths
from runtime.sandboxes import programs
from runtime.scaffolds.base import Rehearsal
from runtime.task import Task
from tests.runtime.agent_loop.conftest import make_task
from tests.runtime.proxy.families import FAMILIES, write_family
from tests.runtime.proxy.family_talk import READ
from tests.runtime.proxy.tiny_model import write_model
from tests.runtime.scaffolds.shell_trials import config


def settings(folder: Path, tools: str, **changes: Any) -> RuntimeConfig:
    model = write_model(folder / "model", family="compact" if tools == "repair" else "chatml")
    made = config(tools)
    rollout = made.rollout.model_copy(update={"max_tokens_per_turn": 64})
    return made.model_copy(update={"policy": PretrainedPolicy(path=str(model)), "rollout": rollout, **changes})


def play(folder: Path, made: RuntimeConfig, task: Task | None = None) -> RunPaths:
    paths = RunPaths(folder / "run")
    paths.policy.parent.mkdir(exist_ok=True)
    paths.policy.unlink(missing_ok=True)
    paths.policy.symlink_to(made.policy.path)  # type: ignore[union-attr]
    made = made.model_copy(update={"policy": PretrainedPolicy(path="OWNER/NAME-of-the-hub")})
    asyncio.run(probe(paths, made, task or make_task(folder / "tasks")))
    return paths


@pytest.mark.parametrize("tools", ["repair", "free"])
def test_a_run_that_can_work_passes(tmp_path: Path, tools: str) -> None:
    paths = play(tmp_path, settings(tmp_path, tools))
    replies = [path.read_text() for path in paths.probe.glob("0/*/agent/stdout.txt")]
    called = {"repair": ["run", "submit"], "free": ["run_command", "submit"]}[tools]
    assert len(replies) == 2 and all(json.loads(reply)["calls"] == called for reply in replies)
    assert not list(paths.state.rglob("owner-*"))


def test_an_agent_of_somebody_else_only_hears_a_closing_word(tmp_path: Path) -> None:
    agent = ImportedScaffold(import_path="tests.runtime.agent_loop.agents:WordAgent")
    play(tmp_path, settings(tmp_path, "free", scaffold=agent))


@pytest.mark.parametrize(
    ("agent", "words"),
    [("DyingAgent", "the agent died: exit code 7"), ("SilentAgent", "without having asked the model anything")],
)
def test_agents_that_cannot_work(tmp_path: Path, agent: str, words: str) -> None:
    scaffold = ImportedScaffold(import_path=f"tests.runtime.agent_loop.agents:{agent}")
    with pytest.raises(RunError, match=words) as caught:
        play(tmp_path, settings(tmp_path, "free", scaffold=scaffold))
    assert "nothing: " in str(caught.value) and "solution: " in str(caught.value)


def test_boxes_without_the_test_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(programs.PROGRAMS, "testkit")
    with pytest.raises(RunError, match="testkit"):
        play(tmp_path, settings(tmp_path, "repair"))


def test_a_solution_that_solves_nothing_and_a_task_that_is_solved_already(tmp_path: Path) -> None:
    task = make_task(tmp_path / "tasks")
    (task.path / "solution" / "solve.sh").write_text("true\n")
    with pytest.raises(RunError, match="solution: reward 0 instead of 1"):
        play(tmp_path, settings(tmp_path, "free"), task)
    (task.repository / "calc.py").write_text("def add(a, b):\n    return a + b\n")
    with pytest.raises(RunError, match="nothing: reward 1 instead of less than 1"):
        play(tmp_path, settings(tmp_path, "free"), task)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_models_is_spoken(tmp_path: Path, name: str) -> None:
    codec = load_codec(write_family(tmp_path, FAMILIES[name]), FAMILIES[name].parser)
    rehearsal = Rehearsal([READ], (("read", {"path": "a.py"}), ("no such tool", {})))
    text = call_text(codec, rehearsal.tools, "read", {"path": "a.py"})
    assert text is not None
    (call,) = codec.parse([*codec.tokens.encode(text), codec.stop_token_ids[0]], [READ]).tool_calls
    assert (call.name, json.loads(call.arguments)) == ("read", {"path": "a.py"})
    said = asyncio.run(ScriptedPolicy(codec, rehearsal).generate([1], SamplingParams(max_tokens=999), session="s"))
    assert said.finish_reason == "stop" and len(said.token_ids) == len(said.logprobs) == len(said.weight_versions)
