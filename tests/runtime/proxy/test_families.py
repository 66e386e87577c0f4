"""Codecs of the model families that write neither ChatML with JSON calls nor the small policy's format."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import UserError
from runtime.proxy.append_only import examine
from runtime.proxy.codec import ChatCodec, load_codec
from runtime.proxy.messages import Message, ToolCall
from runtime.proxy.parsers import NAMES
from tests.runtime.proxy.driver import GO, TOOL, chat, known, openai, suffix
from tests.runtime.proxy.families import FAMILIES, Family, write_family
from tests.runtime.proxy.family_talk import READ, converse, talk


@pytest.fixture(scope="module")
def family_codecs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatCodec]:
    root = tmp_path_factory.mktemp("families")
    return {name: load_codec(write_family(root / name, family), family.parser) for name, family in FAMILIES.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_conversation_keeps_every_token(family_codecs: dict[str, ChatCodec], name: str) -> None:
    asyncio.run(converse(family_codecs[name], FAMILIES[name]))


@pytest.mark.parametrize(("name", "respells"), [("qwen3-coder", False), ("glm", True), ("llama3", False)])
def test_templates_that_drop_reasoning_are_append_only_between_the_replies(
    family_codecs: dict[str, ChatCodec], name: str, respells: bool
) -> None:
    verdict = examine(family_codecs[name])
    assert (verdict.problem, verdict.respells, verdict.reads_calls) == (None, respells, True)


def test_stop_tokens_are_the_familys(family_codecs: dict[str, ChatCodec]) -> None:
    stops = {
        name: {codec.tokens.decode([token]) for token in codec.stop_token_ids} for name, codec in family_codecs.items()
    }
    assert stops["glm"] == {"<|user|>", "<|observation|>"}
    assert stops["llama3"] == {"<|eot_id|>", "<|eom_id|>"}
    # <|end|> closes the analysis in mid-reply: a model that stopped there would never act.
    assert stops["gpt-oss"] == {"<|return|>", "<|call|>"}


def test_a_closed_turn_is_not_closed_twice_by_another_token(family_codecs: dict[str, ChatCodec]) -> None:
    """Llama ends a call in <|eom_id|> where its template writes <|eot_id|>; gpt-oss an answer in <|return|>, not
    <|end|>. (``converse`` compares the whole suffix.) Where the closing token opens the next message it must stay."""
    family = FAMILIES["glm"]

    async def main() -> None:
        # The model announces a tool result, but the agent has a question instead.
        async with talk(family_codecs["glm"], family.call + family.call_stop, "x<|user|>") as it:
            said = await openai(it, chat([GO], tools=[READ]))
            await openai(it, chat([GO, said, {"role": "user", "content": "No."}], tools=[READ]))
            assert suffix(it, 1, 0) == "<|user|>\nNo.<|assistant|>"

    asyncio.run(main())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cut_reply_is_closed_by_the_template(family_codecs: dict[str, ChatCodec], name: str) -> None:
    async def main() -> None:
        async with talk(family_codecs[name], "Let me", "x") as it:
            it.engine._queue = [it.engine.generation(it.engine.split("Let me"), "length"), "x"]
            said = await openai(it, chat([GO], tools=[READ]))
            await openai(it, chat([GO, said, GO], tools=[READ]))
            codec = family_codecs[name]
            added = it.engine.calls[1].prompt_ids[len(known(it, 0)) :]
            assert added[0] in {*codec.stop_token_ids, codec.tokens.control.get("<|end|>")}

    asyncio.run(main())


def test_several_calls_in_one_reply_go_on_where_the_template_knows_one(family_codecs: dict[str, ChatCodec]) -> None:
    codec = family_codecs["llama3"]
    with pytest.raises(Exception, match="single calls only"):
        codec.render_first([Message("user", "u"), Message("assistant", "", (CALL, CALL)), Message("user", "v")], [])
    results = [Message("tool", "one"), Message("tool", "two")]
    assert (
        codec.render_suffix(results, calls=[CALL, CALL]).encode() == codec.render_suffix(results, calls=[CALL]).encode()
    )


CALL = ToolCall("c", "read", "{}")


def test_the_name_of_the_called_tool_stands_in_gpt_oss_results(family_codecs: dict[str, ChatCodec]) -> None:
    codec = family_codecs["gpt-oss"]
    text = codec.render_suffix([Message("tool", "r")], calls=[ToolCall("c", "edit<|end|>", "{}")]).encode()
    assert codec.tokens.decode(text).startswith("<|call|><|start|>functions.edit<|end|> to=assistant")
    assert text.count(codec.tokens.control["<|end|>"]) == 1


def test_system_text_that_a_template_would_drop_is_folded(family_codecs: dict[str, ChatCodec]) -> None:
    codec = family_codecs["gpt-oss"]
    assert not codec.system_anywhere
    text = codec.render_suffix([Message("system", "note"), Message("user", "u")], calls=[]).text
    assert "<|start|>user<|message|><system-reminder>\nnote\n</system-reminder><|end|>" in text


def test_the_wrong_format_is_refused_with_the_right_one(tmp_path: Path) -> None:
    for name, family in FAMILIES.items():
        folder = write_family(tmp_path / name, family)
        with pytest.raises(UserError, match=f"use tool_parser {family.parser}$"):
            load_codec(folder, "hermes")


DROPS_RESULTS = FAMILIES["llama3"].template.replace("(message.content | tojson)", "'...'")
COUNTS = FAMILIES["llama3"].template.replace("bos_token", "bos_token ~ messages | length")
LATE = FAMILIES["glm"].template.replace(
    "'|>\\n' +", "'|>\\n' + ('' if loop.index0 + 4 > messages | length else 'old ') +"
)


@pytest.mark.parametrize(
    ("family", "template", "why"),
    [
        ("llama3", DROPS_RESULTS, "a tool result after a call leaves a message out"),
        ("llama3", COUNTS, "a user message after an answer changes the tokens of earlier turns"),
        ("glm", LATE, "changes the tokens of earlier turns"),
    ],
)
def test_what_is_not_append_only_is_named(tmp_path: Path, family: str, template: str, why: str) -> None:
    assert template != FAMILIES[family].template
    with pytest.raises(UserError, match=why):
        load_codec(write_family(tmp_path, FAMILIES[family], template=template), FAMILIES[family].parser)


def test_formats_are_those_of_the_spec() -> None:
    from typing import get_args

    from runtime.config.base import ToolCalls

    assert sorted(get_args(ToolCalls)) == sorted(NAMES)


@pytest.mark.parametrize("name", FAMILIES)
def test_without_tools_nothing_is_read_as_a_call(family_codecs: dict[str, ChatCodec], name: str) -> None:
    family: Family = FAMILIES[name]
    codec = family_codecs[name]
    ids: list[Any] = codec.tokens.encode(family.call + family.call_stop)
    assert codec.parse(ids, None).tool_calls == ()
    assert codec.parse(ids[:-1], [TOOL], complete=False).status in ("ok", "ill_formed")
