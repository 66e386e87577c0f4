"""Others' hand-written renderers against our codecs, over the chat templates that models are published with.

``renderers`` (PyPI) covers Qwen 3, Qwen 3.6, GLM 4.5 and Llama 3; verl's Continuous Token builders cover Qwen, GLM and
gpt-oss. Random conversations, the same tokenizer, the same ids.
"""

from __future__ import annotations

import json
import random
import subprocess
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.proxy.codec import ChatCodec, load_codec
from runtime.proxy.messages import Message, ToolCall
from runtime.proxy.template import template_messages
from tests.runtime.proxy.families import FAMILIES, XML_CALL, Family, write_family
from tests.runtime.proxy.family_talk import READ
from tests.runtime.proxy.test_published_templates import templates  # noqa: F401 - a fixture
from tests.runtime.proxy.tiny_model import CHATML_MARKUP, CHATML_SPECIAL
from tests.toolbox import python_tools

QWEN = Family(
    parser="hermes", template="", control=(*CHATML_SPECIAL, *CHATML_MARKUP), answer="Done.", answer_stop="<|im_end|>",
    call="<think>\nLook.\n</think>\n\n<tool_call>\n"
    '{"name": "read", "arguments": {"path": "a.py", "n": 1}}\n</tool_call>',
    call_stop="<|im_end|>", after_call="", after_answer="", published="qwen3",
)  # fmt: skip
_CODER = FAMILIES["qwen3-coder"]
QWEN36 = replace(
    _CODER,
    control=(*_CODER.control, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    # The prompt ends in <think>.
    call=f"Look.\n</think>\n\n{XML_CALL}",
    answer="Well.\n</think>\n\nDone.",
)
BY_RENDERER: dict[str, tuple[Family, str]] = {
    "qwen3": (QWEN, "qwen3"),
    "qwen3_6": (QWEN36, "qwen3_6"),
    "glm45": (FAMILIES["glm"], "glm4moe"),
    "llama3": (FAMILIES["llama3"], "llama3_1"),
}
WORDS = ["x = 1", "\n", "\n\n", "  ", "def f(x):\n    return x", "größer", "\t", '{"a": "b"}', "日本", "'", "<", "|>"]


class Conversation:
    """A random conversation of an agent that calls ``read`` or answers, and what its model sampled."""

    def __init__(self, seed: int, codec: ChatCodec, family: Family) -> None:
        self.random = random.Random(seed)
        self.messages = [Message("user", "u" + self.text())]
        if self.random.random() < 0.5:
            self.messages.insert(0, Message("system", "s" + self.text()))
        self.tools = [READ] if self.random.random() < 0.7 else []
        self.prompt = codec.render_first(self.messages, self.tools).encode()
        called = self.random.random() < 0.6
        text = family.call + family.call_stop if called else family.answer + family.answer_stop
        self.completion = codec.tokens.encode(text)
        self.calls = (ToolCall("call_1", "read", '{"path":"a.py","n":1}'),) if called else ()
        self.reply = Message("assistant", "" if called else "Done.", self.calls)
        self.added = [Message("tool", "r" + self.text() + "e", tool_call_id="call_1")] if called else []
        if not called or self.random.random() < 0.3:
            self.added.append(Message("user", "v" + self.text() + "e"))

    def text(self) -> str:
        return "".join(self.random.choice(WORDS) for _ in range(self.random.randrange(8)))

    def extended(self, codec: ChatCodec) -> list[int]:
        suffix = array("i", codec.render_suffix(self.added, calls=self.calls).encode())
        return [*self.prompt, *self.completion, *codec.extends(self.completion, suffix)]


@pytest.mark.consumers
@pytest.mark.parametrize("renderer", BY_RENDERER)
def test_renderers_makes_the_same_prompts_suffixes_and_calls(
    templates: Path,  # noqa: F811
    tmp_path: Path,
    renderer: str,
) -> None:
    family, template = BY_RENDERER[renderer]
    folder = write_family(tmp_path, family, template=(templates / f"{template}.jinja").read_text())
    codec = load_codec(folder, family.parser)
    told = [Conversation(seed, codec, family) for seed in range(60)]
    jobs: list[dict[str, Any]] = []
    for each in told:
        tools = each.tools or None
        jobs.append({"do": "render", "messages": template_messages(each.messages), "tools": tools})
        added = template_messages(each.added)
        jobs.append({"do": "bridge", "prompt": each.prompt, "completion": each.completion, "messages": added})
        jobs.append({"do": "parse", "prompt": each.prompt, "completion": each.completion, "tools": [READ]})
    made = _renderers(folder, renderer, jobs)
    for number, each in enumerate(told):
        prompt, bridged, parsed = made[3 * number : 3 * number + 3]
        assert each.prompt == prompt
        assert each.extended(codec) == bridged
        ours = codec.parse(each.completion, [READ])
        calls = [[call.name, call.parsed(), "OK"] for call in ours.tool_calls]
        # White space around what is said is the format's; which package keeps how much of it differs.
        assert [ours.content.strip(), ours.reasoning.strip(), calls] == [*map(str.strip, parsed[:2]), parsed[2]]


def _renderers(folder: Path, renderer: str, jobs: list[dict[str, Any]]) -> list[Any]:
    python = python_tools("renderers") / "python"
    config: dict[str, Any] = {"thinking_retention": "all"}
    if renderer == "qwen3_6":
        config = {"preserve_thinking": True, "enable_thinking": True}
    program = Path(__file__).with_name("renderers_oracle.py")
    work = {"tokenizer": str(folder / "tokenizer.json"), "renderer": renderer, "config": config, "jobs": jobs}
    done = subprocess.run([python, program], input=json.dumps(work), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    made: list[Any] = json.loads(done.stdout)
    return made


@pytest.mark.torch
@pytest.mark.parametrize("name", ["qwen3-coder", "glm", "gpt-oss"])
def test_verls_continuous_token_builders_make_the_same_prompts(tmp_path: Path, name: str) -> None:
    from transformers import PreTrainedTokenizerFast
    from verl.utils.tokenizer.continuous_token import (
        GLMContinuousTokenBuilder,
        GptOssContinuousTokenBuilder,
        QwenContinuousTokenBuilder,
    )

    builders = {
        "qwen3-coder": QwenContinuousTokenBuilder,
        "glm": GLMContinuousTokenBuilder,
        "gpt-oss": GptOssContinuousTokenBuilder,
    }
    family = FAMILIES[name]
    folder = write_family(tmp_path, family)
    codec = load_codec(folder, family.parser)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer.chat_template = (folder / "chat_template.jinja").read_text()
    builder = builders[name](tokenizer)
    for seed in range(40):
        each = Conversation(seed, codec, family)
        before = template_messages([*each.messages, each.reply])
        after = [*before, *template_messages(each.added)]
        assert builder.build_initial_tokens(before[:-1], tools=each.tools or None) == each.prompt
        stored = builder.merge_assistant_tokens(each.prompt, each.completion).token_ids
        merged = builder.merge_context_tokens(before, after, stored)
        ours = each.extended(codec)
        if merged.removed_prefix_token_count:  # verl takes the opener away and writes it again; we keep the sampled one
            assert merged.token_ids[len(stored) - 1] == stored[-1]
        assert merged.token_ids == ours
