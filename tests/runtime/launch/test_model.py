"""A model whose tokens could not be kept is found before anything starts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runtime.config import (
    ClaudeCodeScaffold,
    PretrainedPolicy,
    RuntimeConfig,
    Scaffold,
    ShellScaffold,
    Terminus2Scaffold,
)
from runtime.errors import UserError
from runtime.launch.model import check_model, check_policy, check_weights
from tests.runtime.proxy.families import FAMILIES, write_family


@pytest.mark.parametrize("name", FAMILIES)
def test_the_fitting_format_is_named(tmp_path: Path, name: str) -> None:
    check = check_model(write_family(tmp_path, FAMILIES[name]), tool_parser=None)
    assert check.ok and f"append-only, tool_parser {FAMILIES[name].parser}" in check.found
    assert ("drops reasoning" in check.found) == (name in ("glm", "gpt-oss"))


def test_what_is_wrong_comes_with_what_to_do(tmp_path: Path) -> None:
    glm = write_family(tmp_path / "glm", FAMILIES["glm"])
    check = check_model(glm, tool_parser="hermes")
    assert not check.ok and check.fix == "set rollout.tool_parser to glm45"
    check = check_model(tmp_path, tool_parser=None)
    assert not check.ok and "tokenizer.json: No such file" in check.found


def test_a_run_with_such_a_policy_is_refused(tmp_path: Path, quickstart_config: RuntimeConfig) -> None:
    def config(path: str, parser: str) -> RuntimeConfig:
        rollout = quickstart_config.rollout.model_copy(update={"tool_parser": parser})
        return quickstart_config.model_copy(update={"policy": PretrainedPolicy(path=path), "rollout": rollout})

    llama = FAMILIES["llama3"]
    folder = write_family(tmp_path, llama, template=llama.template.replace("(message.content | tojson)", "''"))
    with pytest.raises(UserError, match=r"policy\.path: .* leaves a message out") as raised:
        check_policy(config(str(folder), llama.parser))
    assert len(raised.value.problems) == 1
    with pytest.raises(UserError, match="neither a folder here, nor taken in"):
        check_policy(config("Qwen/Qwen3-8B", "hermes"))
    check_policy(quickstart_config)


@pytest.mark.parametrize("path", ["Qwen/Qwen3-8B", "./nowhere", "~/nowhere", "/nowhere"])
def test_no_run_starts_for_weights_that_are_not_here(
    path: str, tmp_path: Path, quickstart_config: RuntimeConfig
) -> None:
    def config(path: str, **rollout: str) -> RuntimeConfig:
        changed = quickstart_config.rollout.model_copy(update=rollout)
        return quickstart_config.model_copy(update={"policy": PretrainedPolicy(path=path), "rollout": changed})

    with pytest.raises(UserError, match=rf"policy\.path: {re.escape(path)}: (no such folder|neither a folder here)"):
        check_weights(config(path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"policy\.path: .*: no config\.json there"):
        check_weights(config(str(tmp_path / "empty")))
    check_weights(config(path, import_path="package.module:Engine"))  # may fetch what it likes
    check_weights(quickstart_config)


def test_weights_below_the_home_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quickstart_config: RuntimeConfig
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    check_weights(quickstart_config.model_copy(update={"policy": PretrainedPolicy(path="~/model")}))


CODER = FAMILIES["qwen3-coder"]
PLAIN = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
"""Messages and no word of tools, as many fine-tunes are published."""
FOREIGN = CODER.template.replace("<function=", "<invoke ").replace("</function>", "</invoke>")
"""Tools are shown; their calls have a form of their own."""
CLAUDE_CODE = ClaudeCodeScaffold(version="2.1.197", max_turns=5)
TERMINUS = Terminus2Scaffold(version="0.1", max_turns=5, max_replies_without_tool=2, parser="json")
SHELL = ShellScaffold(tools="free", max_turns=5, max_edits=5)


@pytest.mark.parametrize(
    ("template", "lack", "note"),
    [
        (PLAIN, "does not show the model which tools there are", "it does not show tools"),
        (FOREIGN, "in a form that no tool_parser reads", "no tool_parser reads its tool calls"),
    ],
)
def test_agents_that_need_tools_are_refused_a_template_without(
    tmp_path: Path, quickstart_config: RuntimeConfig, template: str, lack: str, note: str
) -> None:
    folder = write_family(tmp_path, CODER, template=template)
    check = check_model(folder, tool_parser=None)
    assert check.ok and note in check.found
    rollout = quickstart_config.rollout.model_copy(update={"tool_parser": "hermes"})
    policy = PretrainedPolicy(path=str(folder))

    def config(scaffold: Scaffold) -> RuntimeConfig:
        return quickstart_config.model_copy(update={"policy": policy, "rollout": rollout, "scaffold": scaffold})

    for scaffold in (CLAUDE_CODE, SHELL):
        check = check_model(folder, tool_parser="hermes", scaffold=scaffold)
        assert not check.ok and lack in check.found
        with pytest.raises(UserError, match=f"policy.path: .*{lack}"):
            check_policy(config(scaffold))
    assert check_model(folder, tool_parser="hermes", scaffold=TERMINUS).ok
    check_policy(config(TERMINUS))
