from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.proxy.parsers import NAMES, blocks, format_named
from runtime.proxy.parsers.meant import meant_for_a_call
from tests.runtime.proxy.call_texts import EDITOR, MARKERS, WITHOUT_ESCAPES, WRITERS, arguments, texts

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


@pytest.mark.parametrize("family", WRITERS)
@given(data=st.data())
def test_what_a_model_means_is_what_the_agent_gets(family: str, data: st.DataObject) -> None:
    """Any text in any argument; where a format has no escapes, all but its own markers, which the next test is about"""
    given_arguments = data.draw(arguments(texts(markers=family not in WITHOUT_ESCAPES)))
    said = data.draw(st.sampled_from(["", "I look.\n"])) if family != "openai" else ""
    parsed = format_named(family).parser(
        said + WRITERS[family]("editor", given_arguments), {"editor": EDITOR}, complete=True
    )
    assert [(call.name, json.loads(call.arguments)) for call in parsed.tool_calls] == [("editor", given_arguments)]
    assert (parsed.content, parsed.status) == (said.strip(), "ok")


@pytest.mark.parametrize("family", WITHOUT_ESCAPES)
@given(
    before=st.sampled_from(["", "see ", "x\n"]),
    marker=st.sampled_from(MARKERS),
    after=st.sampled_from([" it", "\ny", "."]),
    two=st.booleans(),
)
def test_markers_inside_of_an_argument_are_text(family: str, before: str, marker: str, after: str, two: bool) -> None:
    wanted = {"path": "a", "text": before + marker + after}
    text = "\n".join([WRITERS[family]("editor", wanted)] * (2 if two else 1))
    assert calls(family, text)[1:] == ([("editor", wanted)] * (2 if two else 1), "ok")


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("inner", WRITERS)
def test_a_file_about_tool_calls_can_be_written(family: str, inner: str) -> None:
    example = WRITERS[inner]("editor", {"path": "b", "other": "c"})
    wanted = {"path": "README.md", "text": f"Write\n{example}\nto call."}
    assert calls(family, WRITERS[family]("editor", wanted)) == ("", [("editor", wanted)], "ok")


@pytest.mark.parametrize("family", ["hermes", "qwen3_coder", "glm45"])
@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("reasoning", ["", "Maybe <tool_call> it.\n", "Hm.\n"])
def test_reasoning_is_what_its_markers_enclose(family: str, thinking: bool, reasoning: str) -> None:
    wanted = {"path": "a", "text": "grep -rn '</think>' src; cat <think>"}
    text = WRITERS[family]("editor", wanted)
    if reasoning:
        text = f"{'' if thinking else '<think>'}{reasoning}</think>\n\n{text}"
    parsed = format_named(family).parser(text, {"editor": EDITOR}, complete=True, thinking=thinking)
    assert [json.loads(call.arguments) for call in parsed.tool_calls] == [wanted]
    assert (parsed.content, parsed.reasoning, parsed.status) == ("", reasoning.strip("\n"), "ok")
    answer = format_named(family).parser("Search for `</think>` in it.", {"editor": EDITOR}, complete=True)
    assert (answer.content, answer.reasoning) == ("Search for `</think>` in it.", "")


@pytest.mark.parametrize("family", ["hermes", "qwen3_coder", "glm45"])
def test_reasoning_without_an_end_is_no_answer(family: str) -> None:
    parsed = format_named(family).parser("So I must", {"editor": EDITOR}, complete=True, thinking=True)
    assert (parsed.content, parsed.reasoning, parsed.tool_calls) == ("", "So I must", ())
    spoken = "I call <tool_call> now, then </think> Well."
    parsed = format_named(family).parser(spoken, {"editor": EDITOR}, complete=True, thinking=True)
    assert (parsed.content, parsed.reasoning, parsed.status) == (" Well.", "I call <tool_call> now, then ", "ok")


@pytest.mark.parametrize("family", ["hermes", "qwen3_coder", "glm45", "llama3_json"])
@pytest.mark.parametrize(
    "text", ["Use the `<tool_call>` tag.", "Write <function=NAME> and </function>.", "{x} is a set"]
)
def test_a_marker_that_is_spoken_of_is_no_call(family: str, text: str) -> None:
    parsed = format_named(family).parser(text, {"editor": EDITOR}, complete=True)
    assert (parsed.content, parsed.status, parsed.unread) == (text, "ok", ())


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, '{"name": "x"}', '{"name": "x"}'),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "42", "42"),
        ({"oneOf": [{"type": "null"}, {"$ref": "#/$defs/Mode"}]}, "append", "append"),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": "string", "nullable": True}, "true", "true"),
        ({"type": "string"}, "null", "null"),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"const": "7"}, "7", "7"),
        ({"allOf": [{"type": "string"}, {"minLength": 1}]}, "[1]", "[1]"),
        ({"anyOf": [{"type": "string"}, {"type": "array"}]}, '["a", "b"]', ["a", "b"]),
        ({"anyOf": [{"type": "string"}, {"type": "object"}]}, '{"a": 1}', '{"a": 1}'),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "42", "42"),
        ({}, '{"a": 1}', '{"a": 1}'),
        ({"type": "integer"}, "42", 42),
        ({"type": "integer"}, "42.0", 42),
        ({"type": "integer"}, "forty", "forty"),
        ({"type": "number"}, "1e3", 1000.0),
        ({"type": "number"}, "1e400", "1e400"),
        ({"type": "boolean"}, "True", True),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "None", None),
        ({"type": "object"}, '{"a": "NaN"}', {"a": "NaN"}),
        ({"type": "object"}, '{"a": NaN}', '{"a": NaN}'),
        ({"items": {"type": "integer"}}, "[1, 2]", [1, 2]),
        ({"$ref": "#/$defs/Mode"}, "replace", "replace"),
        ({"$ref": "#/$defs/Itself"}, "7", "7"),
    ],
)
@pytest.mark.parametrize("family", WITHOUT_ESCAPES)
def test_the_schema_says_what_an_argument_is(family: str, schema: object, text: str, value: object) -> None:
    itself = {"anyOf": [{"$ref": "#/$defs/Itself"}, {"type": "string"}]}
    tool = {"$defs": {**EDITOR["$defs"], "Itself": itself}, "properties": {"it": schema}}
    parsed = format_named(family).parser(WRITERS[family]("editor", {"it": text}), {"editor": tool}, complete=True)
    assert json.loads(parsed.tool_calls[0].arguments) == {"it": value}


HARMONY_CALL = '<|channel|>commentary to={} <|constrain|>json<|message|>{{"command":"ls"}}'


@pytest.mark.parametrize(
    ("recipient", "name"),
    [
        ("functions.read", "read"),
        ("read", "read"),
        ("functions.container.exec", "container.exec"),
        ("container.exec", "container.exec"),
        ("functions.functions.read", "functions.read"),
        (" functions.read", "read"),
    ],
)
def test_harmony_calls_the_recipient_however_it_is_written(recipient: str, name: str) -> None:
    assert calls("openai", HARMONY_CALL.format(recipient)) == ("", [(name, {"command": "ls"})], "ok")
    early = f' to={recipient}<|channel|>commentary json<|message|>{{"command":"ls"}}'
    assert calls("openai", early) == ("", [(name, {"command": "ls"})], "ok")


def test_harmony_messages_to_the_parties_are_no_calls() -> None:
    assert calls("openai", HARMONY_CALL.format("user"))[1:] == ([], "ok")


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("hermes", '<tool_call>\n{"name": "read", "arguments": {"path": "a"}}}\n</tool_call>'),
        ("hermes", '<tool_call>\n{"name": "read", "arguments": ["a"]}\n</tool_call>'),
        ("hermes", "<tool_call>\n<function=read>\n</function>\n</tool_call>"),
        ("hermes", '<tool_call>{"name": "read"'),
        ("qwen3_coder", "<tool_call>\n<function=read>\n<parameter=path>\na\n</function>\n</tool_call>"),
        ("qwen3_coder", '<tool_call>\n{"name": "read", "arguments": {"path": "a"}}\n</tool_call>'),
        ("qwen3_coder", "<function=read>\n<parameter=path>\na"),
        ("glm45", "<tool_call>read\n<arg_key>path</arg_key>\n</tool_call>"),
        ("glm45", '<tool_call>{"name": "read"}</tool_call>'),
        ("llama3_json", '{"name": "read", "parameters": {"path": "a"}'),
        ("llama3_json", "<|python_tag|>print(1)"),
        ("llama3_json", '{"type": "function", "function": {"name": "read", "parameters": {}}}'),
        ("openai", "<|channel|>commentary to=functions.read <|constrain|>json<|message|>{broken"),
        ("openai", '<|channel|>commentary to=functions.read <|constrain|>json<|message|>{"path": "a"} and'),
        ("openai", "<|channel|>analysis to=python code<|message|>print(1)"),
        ("openai", '<|channel|>commentary to=functions.read {"path": "a"}'),
        ("openai", '<|channel|>commentary to=functions. json<|message|>{"path": "a"}'),
        ("openai", '<|channel|>commentary <|constrain|>json<|message|>{"path": "a"}'),
        ("hermes", '<tool_call>\n{"name": "read", "arguments": {"size": 1e400}}\n</tool_call>'),
    ],
)
def test_what_was_meant_for_a_call_is_said_to_be_one(family: str, text: str) -> None:
    parsed = format_named(family).parser(text, TOOLS, complete=True)
    assert (parsed.tool_calls, parsed.status, len(parsed.unread)) == ((), "ill_formed", 1)
    good = WRITERS[family]("read", {"path": "b"})
    if family not in ("llama3_json", "openai"):
        parsed = format_named(family).parser(f"{good}\n{text}", TOOLS, complete=True)
        assert (len(parsed.tool_calls), len(parsed.unread)) == (1, 1)


@pytest.mark.parametrize("family", ["hermes", "qwen3_coder", "glm45"])
def test_a_call_in_reasoning_that_never_ends_is_not_lost(family: str) -> None:
    good = WRITERS[family]("read", {"path": "b"})
    for text, called, unread in ((good, 1, 0), (good[: -len(good) // 3], 0, 1)):
        parsed = format_named(family).parser(f"I look.\n{text}", TOOLS, complete=True, thinking=True)
        assert (len(parsed.tool_calls), len(parsed.unread)) == (called, unread)
    if family == "qwen3_coder":  # which leaves the tag out at times
        bare = good.replace("<tool_call>\n", "")
        assert format_named(family).parser(f"I look.\n{bare}", TOOLS, complete=True, thinking=True).tool_calls


BARE = [
    {"name": "read", "arguments": {"path": "a"}},
    {"parameters": {"path": "a"}, "name": "read"},
    {"type": "function", "function": {"name": "read", "arguments": '{"path": "a"}'}},
    {"tool": "read", "input": {"path": "a"}},
]


@given(
    call=st.sampled_from([*BARE, BARE]),
    before=st.sampled_from(["", "I look.\n\n", "Sure:\n  "]),
    fence=st.sampled_from(["", "```", "```json\n"]),
    indent=st.sampled_from([None, 2]),
)
def test_bare_json_that_calls_a_tool_is_no_answer(call: object, before: str, fence: str, indent: int | None) -> None:
    text = f"{before}{fence}{json.dumps(call, indent=indent)}" + "\n```" * bool(fence)
    assert meant_for_a_call(text, TOOLS)
    assert meant_for_a_call(text.replace("read", "left-pad"), TOOLS) is None
    assert meant_for_a_call(text + "\nis what I would write.", TOOLS) is None


def test_another_familys_call_is_no_answer() -> None:
    for family, write in WRITERS.items():
        if family not in ("llama3_json", "openai", "compact"):
            assert meant_for_a_call("I look.\n" + write("read", {"path": "a"}), TOOLS), family
            assert meant_for_a_call("I look.\n" + write("other", {"path": "a"}), TOOLS) is None, family
    assert meant_for_a_call('[read(path="a")]', TOOLS) and meant_for_a_call("[x](read)", TOOLS) is None


def test_llama_answers_in_json_are_answers() -> None:
    package = '{"name": "left-pad", "version": "1.0.0"}'
    assert calls("llama3_json", package) == (package, [], "ok")
    said = 'I look.\n\n{"name": "read", "parameters": {"path": "a"}}'
    assert calls("llama3_json", said) == ("I look.", [("read", {"path": "a"})], "ok")


@pytest.mark.parametrize("family", ["hermes", "llama3_json", "openai"])
def test_half_a_surrogate_pair_in_arguments_becomes_a_character(family: str) -> None:
    text = WRITERS[family]("read", {"path": "HALF"}).replace("HALF", "\\ud83d")
    assert calls(family, text)[1] == [("read", {"path": "\ufffd"})]


@pytest.mark.parametrize("family", WITHOUT_ESCAPES)
def test_markers_without_end_are_read_in_bounded_work(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, following = 0, blocks._Reader._following

    def counted(search: Any, state: Any) -> Iterator[Any]:
        nonlocal steps
        for one in following(search, state):
            steps += 1
            yield one

    monkeypatch.setattr(blocks._Reader, "_following", counted)
    unit = WRITERS[family]("read", {"path": "a"})[len("<tool_call>") :]
    text = WRITERS[family]("read", {"path": unit * 2000}) + "</parameter></arg_value>"
    assert format_named(family).parser(text, TOOLS, complete=True).tool_calls
    assert 0 < steps < 100_000, "every way to read it was tried"


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
