"""Published agents in a spec: each preset compiles into what the runtime reads, and what cannot work is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compiler import SpecError, compile_spec
from compiler.check import check
from compiler.errors import dotted
from compiler.plan import make_plan
from compiler.validate import validate
from runtime.config import (
    ClaudeCodeScaffold,
    MiniSweAgentScaffold,
    OpenCodeScaffold,
    OpenHandsSdkScaffold,
    RuntimeConfig,
    Terminus2Scaffold,
)
from tests.compiler.golden_cases import spec_path

SPEC = """
local liverl = import 'liverl.libsonnet';
(import 'quickstart.jsonnet') + {
  name: 'agents',
  policy: { type: 'pretrained', path: 'Qwen/Qwen2.5-Coder-7B-Instruct' },
  rollout+: { tool_parser: 'hermes', prompt_length: 24576 },
  scaffold: liverl.scaffold.%s,
  tasks+: { baselines: false },
}
"""


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("claude_code", ClaudeCodeScaffold(version="2.1.197", max_turns=100)),
        (
            "claude_code { tools: ['Bash', 'Read'], compact_tokens: 60000 }",
            ClaudeCodeScaffold(version="2.1.197", max_turns=100, tools=("Bash", "Read"), compact_tokens=60000),
        ),
        (
            "openhands_sdk { max_turns: 50 }",
            OpenHandsSdkScaffold(
                version="1.57.0",
                max_turns=50,
                max_replies_without_tool=3,
                tools=("terminal", "file_editor", "task_tracker"),
            ),
        ),
        (
            "terminus_2 { parser: 'xml', compact_tokens: 60000, max_replies_without_tool: 1 }",
            Terminus2Scaffold(
                version="0.24.0", max_turns=100, max_replies_without_tool=1, parser="xml", compact_tokens=60000
            ),
        ),
        ("opencode", OpenCodeScaffold(version="1.18.33", max_turns=100)),
        (
            "opencode { tools: ['bash', 'edit'], compact_tokens: 40000, max_turns: 7 }",
            OpenCodeScaffold(version="1.18.33", max_turns=7, tools=("bash", "edit"), compact_tokens=40000),
        ),
        (
            "mini_swe_agent",
            MiniSweAgentScaffold(version="2.4.6", max_turns=100, max_replies_without_tool=3, command_timeout_sec=60),
        ),
    ],
)
def test_a_published_agent_is_selected_in_a_spec(tmp_path: Path, preset: str, settings: Any) -> None:
    spec = tmp_path / "agents.jsonnet"
    (tmp_path / "quickstart.jsonnet").write_text(spec_path("quickstart").read_text())
    spec.write_text(SPEC % preset)
    bundle = compile_spec(spec, out=tmp_path / "bundle")
    config = RuntimeConfig.model_validate_json(bundle.files["runtime.json"])
    assert config.scaffold == settings
    assert f"{settings.type} {settings.version}, {settings.max_turns} turns" in bundle.files["SUMMARY.md"]


def found(quickstart: Any, scaffold: dict[str, Any], **environment: Any) -> dict[str, str]:
    quickstart["scaffold"] = scaffold
    quickstart["environment"] = {**quickstart["environment"], **environment}
    return {dotted(problem.path): problem.severity for problem in check(make_plan(validate(quickstart)))}


def test_an_image_brings_the_agent_into_pods_alone(quickstart: Any) -> None:
    agent = {"type": "claude-code", "version": "2.1.197", "max_turns": 5}
    pods = {"type": "kubernetes", "kubernetes": {"image": "box:1"}}
    place = "scaffold.runtime_image"
    assert found(quickstart, {**agent, "runtime_image": "agents:1"})[place] == "fatal"
    assert found(quickstart, {**agent, "runtime_image": "agents"}, **pods)[place] == "fatal"
    assert found(quickstart, agent, **pods)[place] == "warn"
    assert place not in found(quickstart, {**agent, "runtime_image": "agents:1"}, **pods)


def test_what_cannot_work_is_refused(quickstart: Any) -> None:
    agent = {"type": "claude-code", "version": "2.1.197", "max_turns": 5}
    problems = found(quickstart, agent, type="process")
    assert problems["environment.type"] == "fatal" and problems["scaffold.type"] == "fatal"
    assert problems["rollout.prompt_length"] == "warn"
    assert "scaffold.compact_tokens" not in problems
    agent["compact_tokens"] = 90_000
    assert found(quickstart, agent)["scaffold.compact_tokens"] == "warn"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "latest"}, "not an exact version"),
        ({"version": "^2.1"}, "not an exact version"),
        ({"max_turns": 0}, "allowed: >= 1"),
        ({"tools": ["Bash,Read"]}, "not the name of a tool"),
        ({"compact_tokens": 5}, "allowed: >= 10000"),
        ({"type": "claude"}, "claude-code"),
        ({"max_replies_without_tool": 3}, "max_replies_without_tool"),
        ({"type": "mini-swe-agent", "max_replies_without_tool": 0, "command_timeout_sec": 9}, "allowed: >= 1"),
        ({"type": "mini-swe-agent"}, "command_timeout_sec"),
        ({"type": "opencode", "tools": ["bash read"]}, "not the name of a tool"),
    ],
)
def test_a_wrong_setting_is_explained(quickstart: Any, changes: dict[str, Any], said: str) -> None:
    quickstart["scaffold"] = {"type": "claude-code", "version": "2.1.197", "max_turns": 5, **changes}
    with pytest.raises(SpecError, match=said):
        validate(quickstart)


@pytest.mark.parametrize(
    ("scaffold", "said"),
    [
        ({"type": "openhands", "version": "1.16.0", "max_turns": 5}, "use openhands-sdk, the agent itself"),
        ({"type": "terminus", "version": "0.1.2", "max_turns": 5}, "use terminus-2"),
        ({"type": "openhands-sdk", "version": "1.57.0", "max_turns": 5, "tools": ["browser"]}, "terminal, file_editor"),
        ({"type": "openhands-sdk", "version": "1.57.0", "max_turns": 5, "tools": []}, "too few elements"),
        ({"type": "terminus-2", "version": "0.24.0", "max_turns": 5, "parser": "yaml"}, "json, xml"),
        ({"type": "terminus-2", "version": "2", "max_turns": 5}, "not an exact version"),
        (
            {"type": "terminus-2", "version": "0.24.0", "max_turns": 5, "max_replies_without_tool": 0},
            "allowed: >= 1",
        ),
    ],
)
def test_an_agent_that_is_a_library(quickstart: Any, scaffold: dict[str, Any], said: str) -> None:
    quickstart["scaffold"] = scaffold
    with pytest.raises(SpecError, match=said):
        validate(quickstart)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"tools": "repair", "first_look": {"functions": 3, "max_chars": 6000}}, "scaffold.first_look"),
        ({"tools": "repair", "test_after_edit": True}, "scaffold.test_after_edit"),
        ({"tools": "free", "first_look": {"functions": 3, "max_chars": 60_000}}, "scaffold.first_look.max_chars"),
        ({"tools": "free", "first_look": {}, "test_after_edit": True}, None),
    ],
)
def test_a_first_look_is_of_the_free_tools_and_fits(
    quickstart: Any, changes: dict[str, Any], place: str | None
) -> None:
    quickstart["policy"] = {"type": "pretrained", "path": "/model"}
    quickstart["scaffold"] = {"type": "shell", "max_turns": 9, "max_edits": 3, **changes}
    quickstart["rollout"] |= {"tool_parser": "hermes", "prompt_length": 4096, "response_length": 4096}
    found = [problem for problem in check(make_plan(validate(quickstart))) if problem.severity == "fatal"]
    about = [dotted(problem.path) for problem in found if problem.path[0] == "scaffold"]
    assert about == ([] if place is None else [place]), found
