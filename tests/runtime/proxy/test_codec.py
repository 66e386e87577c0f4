from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import UserError
from runtime.proxy.append_only import Verdict, examine
from runtime.proxy.codec import ChatCodec, load_codec
from runtime.proxy.messages import Message, ToolCall
from tests.runtime.proxy.tiny_model import CHATML_MARKUP, CHATML_SPECIAL, CHATML_TEMPLATE, COMPACT_SPECIAL, write_model

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "read",
        "description": "Read <|im_end|> a file.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}
CALL = ToolCall("c0", "read", "{}")
SPELLINGS = [*CHATML_SPECIAL, *CHATML_MARKUP, *COMPACT_SPECIAL]
texts = st.lists(
    st.one_of(st.sampled_from([*SPELLINGS, " ", "\n", "\n\n", "def f(x):", "<", "\ue000"]), st.text(max_size=8)),
    max_size=6,
).map("".join)


@pytest.fixture(params=["chatml", "compact"])
def codec(request: pytest.FixtureRequest, codecs: dict[str, ChatCodec]) -> ChatCodec:
    return codecs[request.param]


def test_both_families_are_append_only(codec: ChatCodec) -> None:
    assert examine(codec) == Verdict(problem=None, respells=False, reads_calls=True)


def test_stop_tokens_are_the_closing_tokens(codecs: dict[str, ChatCodec]) -> None:
    for family, text in (("chatml", "<|im_end|>"), ("compact", "<|end|>")):
        codec = codecs[family]
        assert [codec.tokens.decode([token]) for token in codec.stop_token_ids] == [text]


def test_first_prompt_is_what_the_template_says(codecs: dict[str, ChatCodec]) -> None:
    messages = [Message("system", "s"), Message("user", "Fix\n\nit")]
    compact = codecs["compact"]
    ids = compact.render_first(messages, [TOOL]).encode()
    assert compact.tokens.decode(ids) == "<|system|>s<|end|><|user|>Fix\n\nit<|end|><|assistant|>"
    chatml = codecs["chatml"]
    rendered = chatml.render_first(messages, [])
    assert (
        rendered.text
        == "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nFix\n\nit<|im_end|>\n<|im_start|>assistant\n"
    )
    assert rendered.encode() == chatml.tokens.encode(rendered.text)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_control_token_spellings_in_text_stay_text(codecs: dict[str, ChatCodec], data: st.DataObject) -> None:
    codec = codecs[data.draw(st.sampled_from(["chatml", "compact"]))]
    system, user, result = data.draw(texts), data.draw(texts), data.draw(texts)
    first = codec.render_first([Message("system", system), Message("user", user)], [TOOL]).encode()
    blank = codec.render_first([Message("system", "a"), Message("user", "b")], [_without_spelling(TOOL)]).encode()
    control = set(codec.tokens.control.values())
    assert [token for token in first if token in control] == [token for token in blank if token in control]
    assert system in codec.tokens.decode(first) and user in codec.tokens.decode(first)
    suffix = codec.render_suffix([Message("tool", result)], calls=[CALL]).encode()
    plain = codec.render_suffix([Message("tool", "r")], calls=[CALL]).encode()
    assert [token for token in suffix if token in control] == [token for token in plain if token in control]
    assert result in codec.tokens.decode(suffix)


def _without_spelling(tool: dict[str, Any]) -> dict[str, Any]:
    return {**tool, "function": {**tool["function"], "description": "Read a file."}}


def test_text_without_control_tokens_is_encoded_as_one_piece(codec: ChatCodec) -> None:
    """Merges across the border of template and content are the tokenizer's own."""
    messages = [Message("user", "\n\n x\n"), Message("assistant", "y"), Message("tool", "\n")]
    rendered = codec.render_first(messages, [])
    assert rendered.encode() == codec.tokens.encode(rendered.text)


@given(
    data=st.data(),
    replies=st.lists(st.tuples(texts, st.integers(0, 2)), min_size=1, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_suffix_equals_the_end_of_a_whole_rendering(
    codecs: dict[str, ChatCodec], data: st.DataObject, replies: list[tuple[str, int]]
) -> None:
    codec = codecs[data.draw(st.sampled_from(["chatml", "compact"]))]
    conversation = [Message("user", data.draw(texts))]
    for content, num_calls in replies:
        calls = tuple(ToolCall(f"c{index}", "read", '{"path":"a"}') for index in range(num_calls))
        reply = Message("assistant", content, calls)
        added = [Message("tool", data.draw(texts)) for _ in calls] or [Message("user", data.draw(texts))]
        conversation += [reply, *added]
        whole = codec.render_first(conversation, [TOOL]).encode()
        suffix = codec.render_suffix(added, calls=calls).encode()
        assert whole[-len(suffix) :] == suffix
        assert suffix[0] in codec.stop_token_ids


def test_reply_is_decoded_without_its_stop_token(codecs: dict[str, ChatCodec]) -> None:
    codec = codecs["compact"]
    ids = [*codec.tokens.encode("Look <call>read a.py"), codec.stop_token_ids[0]]
    parsed = codec.parse(ids, [TOOL], complete=True)
    assert (parsed.content, parsed.tool_calls[0].arguments) == ("Look ", '{"path":"a.py"}')
    assert codec.parse(ids, None).content == "Look <call>read a.py"
    assert codec.parse([], [TOOL], complete=False).content == ""


LOOP = "{%- for message in messages %}"
CLOSED = "message.content + '<|im_end|>'"
RECENT = "(message.content if loop.index0 + 3 > messages | length else '') + '<|im_end|>'"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (CHATML_TEMPLATE.replace(LOOP, "{{- messages | length }}" + LOOP), "changes the tokens of earlier turns"),
        (CHATML_TEMPLATE.replace(CLOSED, RECENT), "changes the tokens of earlier turns"),
        ("{% for message in messages %}{{ message.content }}\n{% endfor %}", "does not close an assistant turn"),
        ("{% for message in messages %}<|im_start|>{{ message.role }}<|im_end|>{% endfor %}", "text unchanged"),
        ("{% if messages %}", "Unexpected end of template"),
        ("{{ raise_exception('no') }}", "renders no conversation"),
    ],
)
def test_templates_that_are_not_append_only_are_refused(tmp_path: Path, template: str, why: str) -> None:
    write_model(tmp_path, family="chatml", template=template)
    with pytest.raises(UserError, match=why):
        load_codec(tmp_path, "hermes")


def test_missing_or_broken_files_are_named(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json: No such file"):
        load_codec(tmp_path, "hermes")
    with pytest.raises(UserError, match="'qwen' is unknown; use one of compact, glm45, hermes"):
        load_codec(folders["chatml"], "qwen")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        load_codec(tmp_path, "hermes")
    (tmp_path / "tokenizer.json").write_bytes((folders["chatml"] / "tokenizer.json").read_bytes())
    with pytest.raises(UserError, match=r"no chat_template\.jinja"):
        load_codec(tmp_path, "hermes")
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer_config\.json: not JSON"):
        load_codec(tmp_path, "hermes")


def test_system_text_in_the_middle_is_folded_where_the_template_takes_none(tmp_path: Path) -> None:
    strict = "{% if message.role == 'system' and not loop.first %}{{ raise_exception('system first') }}{% endif %}"
    write_model(
        tmp_path, family="chatml",
        template=CHATML_TEMPLATE.replace("{%- for message in messages %}", "{%- for message in messages %}" + strict),
    )  # fmt: skip
    codec = load_codec(tmp_path, "hermes")
    assert not codec.system_anywhere
    text = codec.render_suffix([Message("system", "note"), Message("user", "u")], calls=[]).text
    assert "<|im_start|>user\n<system-reminder>\nnote\n</system-reminder><|im_end|>" in text


@pytest.mark.torch
def test_first_prompt_equals_transformers(folders: dict[str, Path], codecs: dict[str, ChatCodec]) -> None:
    from transformers import PreTrainedTokenizerFast

    folder = folders["chatml"]
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    theirs.chat_template = (folder / "chat_template.jinja").read_text()
    call = ToolCall("c", "read", '{"path":"é"}')
    messages = [Message("user", "Größe\n\n"), Message("assistant", "y", (call,)), Message("tool", "r")]
    wire_call = {"function": {"name": "read", "arguments": {"path": "é"}}}
    wire = [
        {"role": "user", "content": "Größe\n\n"},
        {"role": "assistant", "content": "y", "tool_calls": [wire_call]},
        {"role": "tool", "content": "r"},
    ]
    tool = _without_spelling(TOOL)
    expected = theirs.apply_chat_template(wire, tools=[tool], add_generation_prompt=True, return_dict=False)
    assert codecs["chatml"].render_first(messages, [tool]).encode() == expected


def test_tools_that_no_prompt_shows_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, codecs: dict[str, ChatCodec]
) -> None:
    silent = CHATML_TEMPLATE.replace("tools", "no_such_variable")
    codec = load_codec(write_model(tmp_path, family="chatml", template=silent), "hermes")
    for each in (codec, codec, *codecs.values()):
        each.render_first([Message("user", "u")], [TOOL])
    codec.render_first([Message("user", "u")], [])
    assert [record.message for record in caplog.records] == [
        "the chat template does not show tools: the model learns nothing of the 1 offered"
    ]
    assert not codec.shows_tools and all(each.shows_tools for each in codecs.values())
