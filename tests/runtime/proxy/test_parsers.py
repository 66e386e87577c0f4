from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.proxy.parsers import NAMES, format_named

TOOLS = {
    "read": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    "edit": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "line": {"type": "integer"}},
        "required": ["line", "text"],
    },
    "submit": {"type": "object", "properties": {}},
}


def calls(parser: str, text: str, *, complete: bool = True) -> tuple[str, list[tuple[str, object]], str]:
    parsed = format_named(parser).parser(text, TOOLS, complete=complete)
    return parsed.content, [(call.name, json.loads(call.arguments)) for call in parsed.tool_calls], parsed.status


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", ("plain", [], "ok")),
        ("<call>read a.py", ("", [("read", {"path": "a.py"})], "ok")),
        ("I look <call>read  a.py \n", ("I look ", [("read", {"path": "a.py"})], "ok")),
        ("<call>edit 7 x", ("", [("edit", {"line": 7, "text": "x"})], "ok")),
        ("<call>edit seven x", ("", [("edit", {"line": "seven", "text": "x"})], "ok")),
        ("<call>submit", ("", [("submit", {})], "ok")),
        ("<call>submit now", ("<call>submit now", [], "ill_formed")),
        ("<call>fly away", ("<call>fly away", [], "ill_formed")),
        ("<call>", ("<call>", [], "ill_formed")),
    ],
)
def test_compact_words_fill_required_parameters_in_order(text: str, expected: object) -> None:
    assert calls("compact", text) == expected


def test_compact_call_that_was_cut_is_no_call() -> None:
    assert calls("compact", "<call>read a", complete=False) == ("<call>read a", [], "ill_formed")


def test_hermes_reads_parallel_calls_and_keeps_text() -> None:
    text = (
        'Let me look.\n<tool_call>\n{"name": "read", "arguments": {"path": "a"}}\n</tool_call>\n'
        '<tool_call>{"name": "submit"}</tool_call>'
    )
    assert calls("hermes", text) == ("Let me look.", [("read", {"path": "a"}), ("submit", {})], "ok")


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{broken</tool_call>",
        '<tool_call>{"name": "read"',
        '<tool_call>["read"]</tool_call>',
        '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
    ],
)
def test_hermes_keeps_malformed_calls_as_text(text: str) -> None:
    assert calls("hermes", text) == (text, [], "ill_formed")


def test_hermes_splits_reasoning_off() -> None:
    parsed = format_named("hermes").parser("<think>\nhm\n</think>\n\nDone.", TOOLS, complete=True)
    assert (parsed.reasoning, parsed.content) == ("hm", "Done.")


PIECES = ["<call>", "<tool_call>", "</tool_call>", "<function=read>", "</function>", "<parameter=path>"]
PIECES += ["</parameter>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<|python_tag|>", "<|message|>"]
PIECES += ["{", "}", '"name":', '"read"', ";", "read ", "é", "\n", "functions.read", " to="]


@given(
    parser=st.sampled_from(sorted(NAMES)),
    text=st.lists(st.sampled_from(PIECES)),
    complete=st.booleans(),
)
def test_no_text_makes_a_parser_fail_or_lose_text_without_a_call(parser: str, text: list[str], complete: bool) -> None:
    parsed = format_named(parser).parser("".join(text), TOOLS, complete=complete)
    if not parsed.tool_calls and "<|message|>" not in text:
        # Only the newlines around reasoning, which are glue of the format, are left out.
        told = f"<think>{parsed.reasoning}</think>{parsed.content}" if parsed.reasoning else parsed.content
        assert told.replace("\n", "") == "".join(text).removeprefix("<think></think>").replace("\n", "")
