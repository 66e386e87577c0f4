"""The built-in agent for real: its program in a sandbox, through the proxy, with a scripted policy, to a verdict."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.agent_loop.types import TrialResult
from runtime.config import Bubblewrap, Environment, PlainProcess, RuntimeConfig
from runtime.errors import Termination
from runtime.sandboxes import programs
from runtime.scaffolds.shell import free_tools
from tests.runtime.scaffolds.shell_trials import config, free_repair, route, trial

KINDS: dict[str, Environment] = {"process": PlainProcess(), "bubblewrap": Bubblewrap()}


def play(tmp_path: Path, settings: RuntimeConfig, replies: Sequence[str]) -> tuple[TrialResult, dict[str, Any]]:
    return asyncio.run(trial(tmp_path, settings, replies))


@pytest.mark.parametrize("kind", ["process", pytest.param("bubblewrap", marks=pytest.mark.sandbox)])
def test_structured_repair_is_paid(tmp_path: Path, kind: str) -> None:
    words = route()
    result, report = play(tmp_path, config("repair", KINDS[kind]), [f"<call>{word}" for word in words])
    assert (result.reward, result.termination) == (1.0, Termination.COMPLETED)
    assert report["calls"] == words
    assert report["edits"] == 1
    assert result.model_calls == len(words) >= 3
    (sample,) = result.samples
    assert sum(sample.response_mask) == result.completion_tokens


def test_doing_nothing_is_not(tmp_path: Path) -> None:
    result, _ = play(tmp_path, config("repair"), ["<call>run", "<call>submit"])
    assert (result.reward, result.termination) == (0.0, Termination.COMPLETED)


def test_budgets_end_the_trial(tmp_path: Path) -> None:
    result, report = play(tmp_path, config("repair", max_edits=2), ["<call>run", *["<call>swap"] * 9])
    assert (result.reward, result.termination, report["edits"]) == (0.0, Termination.MAX_TURNS, 2)


def test_silence_ends_the_trial(tmp_path: Path) -> None:
    result, report = play(tmp_path, config("repair"), ["hm", "<call>run", "well", "so", "then"])
    assert result.termination is Termination.NO_TOOL
    assert report["calls"] == ["run"]


@pytest.mark.parametrize("kind", ["process", pytest.param("bubblewrap", marks=pytest.mark.sandbox)])
def test_free_text_edit_is_paid(tmp_path: Path, kind: str) -> None:
    result, report = play(tmp_path, config("free", KINDS[kind]), free_repair())
    assert (result.reward, result.termination) == (1.0, Termination.COMPLETED)
    assert report["calls"] == ["read_file", "edit_file", "edit_file", "run_command", "submit"]


@pytest.mark.parametrize("kind", ["process", pytest.param("bubblewrap", marks=pytest.mark.sandbox)])
@pytest.mark.parametrize("kib", [200, pytest.param(2048, marks=pytest.mark.deep)])
def test_an_instruction_may_be_longer_than_an_argument(tmp_path: Path, kind: str, kib: int) -> None:
    """Linux starts no program with an argument or a variable of 128 KiB."""
    settings = config("free", KINDS[kind])
    rollout = settings.rollout.model_copy(update={"prompt_length": 1 << 22})
    instruction = "Repair it. " + "\u00e9 " * (kib << 9)
    result, report = asyncio.run(
        trial(tmp_path, settings.model_copy(update={"rollout": rollout}), free_repair(), instruction=instruction)
    )
    assert (result.reward, result.termination, report["edits"]) == (1.0, Termination.COMPLETED, 1)
    assert result.prompt_tokens > kib << 9


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("run_command", {"command": "true\0"}),
        ("run_command", {"command": "#" * (1 << 18)}),
        ("run_command", {"command": "\ud800"}),
        ("read_file", {"path": "a\0b"}),
        ("write_file", {"path": "\ud800", "content": "x"}),
        ("write_file", {"path": "x", "content": "\ud800"}),
    ],
)
def test_what_no_program_can_be_given_is_an_answer_of_its_tool(
    tmp_path: Path, tool: str, arguments: dict[str, str]
) -> None:
    settings = {"max_edits": 3, "max_observation": 4000, "first_look": None, "test_after_edit": False, "ids": None}
    assert free_tools.FreeTools(str(tmp_path), settings).call(tool, json.dumps(arguments)).startswith("error: ")


def test_a_box_without_the_test_kit_is_no_reward_of_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy had no part in it: its agent must fail before the model is asked, and nothing is graded."""
    monkeypatch.delitem(programs.PROGRAMS, "testkit")
    result, _ = play(tmp_path, config("repair"), ["<call>run", "<call>submit"] * 3)
    assert (result.reward, result.termination, result.model_calls) == (None, Termination.AGENT_CRASHED, 0)
    assert "testkit" in str(result.error)
