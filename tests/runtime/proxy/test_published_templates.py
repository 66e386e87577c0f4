"""The chat templates that models are published with, from the PyPI package ``trl``, which ships them for comparison."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from runtime.errors import UserError
from runtime.proxy.append_only import examine
from runtime.proxy.codec import load_codec, open_codec
from runtime.proxy.model_folder import ModelFolder
from tests.runtime.proxy.families import FAMILIES, write_family
from tests.runtime.proxy.family_talk import converse
from tests.runtime.proxy.tiny_model import CHATML_TEMPLATE, write_model
from tests.toolbox import python_tools

pytestmark = pytest.mark.consumers


@pytest.fixture(scope="module")
def templates() -> Path:
    """The folder of templates in the wheel; its requirements (torch and more) are left out."""
    python = python_tools("trl-templates") / "python"
    code = "import importlib.metadata as m; print(m.distribution('trl').locate_file('trl/chat_templates'))"
    return Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.published])
def test_a_conversation_keeps_every_token_under_the_models_own_template(
    templates: Path, tmp_path: Path, name: str
) -> None:
    family = FAMILIES[name]
    template = (templates / f"{family.published}.jinja").read_text()
    codec = load_codec(write_family(tmp_path, family, template=template), family.parser)
    asyncio.run(converse(codec, family))


@pytest.mark.parametrize(
    ("template", "parser", "respells"),
    [
        ("qwen2_5", "hermes", False),
        ("qwen3", "hermes", True),
        ("qwen3_instruct_2507", "hermes", False),
        ("qwen3_5_think", "qwen3_coder", True),
        ("qwen3_6", "qwen3_coder", False),
        ("nemotron_3_nano", "qwen3_coder", True),
        ("glm4moe", "glm45", True),
        ("llama3_1", "llama3_json", False),
        ("llama3_2", "llama3_json", False),
        ("gptoss", "openai", True),
    ],
)
def test_published_templates_are_append_only(
    templates: Path, tmp_path: Path, template: str, parser: str, respells: bool
) -> None:
    family = next((each for each in FAMILIES.values() if each.parser == parser), FAMILIES["qwen3-coder"])
    folder = write_family(tmp_path, family, template=(templates / f"{template}.jinja").read_text())
    load_codec(folder, parser)
    verdict = examine(open_codec(ModelFolder.read(folder), parser))
    assert (verdict.problem, verdict.respells, verdict.reads_calls) == (None, respells, True)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("phi3", "changes the tokens of earlier turns"),
        ("gemma3", "Conversation roles must alternate"),
        ("gemma4", "leaves a message out"),
    ],
)
def test_published_templates_that_are_not_are_refused(templates: Path, tmp_path: Path, template: str, why: str) -> None:
    source = (templates / f"{template}.jinja").read_text()
    control = ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<end_of_turn>", "<start_of_turn>", "<turn|>")
    folder = write_model(tmp_path, family="chatml", template=source, special=control)
    with pytest.raises(UserError, match=why):
        load_codec(folder, "hermes")


def test_the_template_of_the_other_tests_is_the_published_one(templates: Path) -> None:
    def rendered(source: str) -> str:
        from runtime.proxy.messages import Message, ToolCall
        from runtime.proxy.template import ChatTemplate, template_messages

        call = ToolCall("c", "read", '{"path":"a"}')
        told = [Message("user", "u"), Message("assistant", "a", (call,)), Message("tool", "r"), Message("user", "v")]
        tools = json.loads('[{"type": "function", "function": {"name": "read", "parameters": {}}}]')
        return ChatTemplate(source, names={}).render(template_messages(told), tools=tools, generate=True)

    ours, theirs = rendered(CHATML_TEMPLATE), rendered((templates / "qwen2_5.jinja").read_text())
    # Only the words around the tools differ.
    assert ours[ours.index("<|im_start|>user") :] == theirs[theirs.index("<|im_start|>user") :]
