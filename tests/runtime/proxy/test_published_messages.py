"""Every message, block, item and tool of the published schemas is read, and what a block says or is reaches the
policy."""

from __future__ import annotations

import json
import typing
from typing import Any, get_args

import pytest
from anthropic import types as anthropic
from anthropic.types import beta
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import chat, responses

from runtime.proxy.chat import ChatRequest
from runtime.proxy.dialects import ANTHROPIC, DIALECTS, OPENAI, RESPONSES
from runtime.proxy.dialects.anthropic import _read_tools as anthropic_tools
from runtime.proxy.dialects.anthropic import normalise as from_anthropic
from runtime.proxy.dialects.openai import _read_tools as openai_tools
from runtime.proxy.dialects.openai import normalise as from_openai
from runtime.proxy.dialects.response_tools import read_tools
from runtime.proxy.dialects.responses import _turns
from runtime.proxy.dialects.responses import normalise as from_responses
from runtime.proxy.messages import Message
from runtime.proxy.refusal import Refusal
from tests.runtime.proxy.published_messages import samples


def said(messages: tuple[Message, ...]) -> bool:
    return all(one.content or one.tool_calls or one.reasoning for one in messages)


def both(kind: Any) -> list[Any]:
    return [value for full in (True, False) for value in samples(kind, full=full)]


def test_anthropic() -> None:
    """Wherever it stands: blocks that one role alone may send, too."""
    kinds: set[str] = set()
    for kind in (anthropic.MessageParam, beta.BetaMessageParam):
        for message in both(kind):
            content = message.get("content")
            for block in content if isinstance(content, list) else ():
                kinds.add(block["type"])
                result = {"type": "tool_result", "tool_use_id": "x", "content": [block]}
                for role, blocks in (("user", [block]), ("assistant", [block]), ("user", [result])):
                    assert said(from_anthropic({"role": role, "content": blocks})) or block.get("content") is None
    assert {"redacted_thinking", "server_tool_use", "web_search_tool_result", "mcp_tool_use", "compaction"} <= kinds
    assert len(kinds) >= 20


def test_openai() -> None:
    messages = both(chat.ChatCompletionMessageParam)
    assert len(messages) > 20 and {one["role"] for one in messages} >= {"developer", "function", "tool"}
    for message in messages:
        assert said(from_openai(message)) or not any(value for key, value in message.items() if key not in _LABELS)
    for field in ({"refusal": "no"}, {"audio": {"id": "x"}}, {"function_call": {"name": "f", "arguments": "{}"}}):
        assert said(from_openai({"role": "assistant", **field}))


_LABELS = ("role", "name", "tool_call_id")


def test_responses() -> None:
    items = both(responses.ResponseInputItemParam)
    kinds = {item.get("type") for item in items}
    assert len(kinds) >= 25
    for item in items:
        if item.get("type", "item_reference" if "role" not in item else "") in ("item_reference", None):
            with pytest.raises(Refusal, match="nothing is stored here"):
                [from_responses(turn) for turn in _turns([item])]
            continue
        for turn in _turns([item]):
            assert isinstance(from_responses(turn), tuple)


def test_tools() -> None:
    """Those of a provider are left out."""
    for kind in (anthropic.ToolUnionParam, beta.BetaToolUnionParam):
        found = [anthropic_tools([tool]) for tool in both(kind)]
        assert any(found) and not all(found)
    assert any(list(read_tools([tool])) for tool in both(responses.ToolParam))
    assert all(openai_tools([tool]) for tool in both(chat.ChatCompletionToolUnionParam))


PARAMETERS = {
    "anthropic": (ANTHROPIC, (*get_args(anthropic.MessageCreateParams), *get_args(beta.MessageCreateParams))),
    "openai": (OPENAI, get_args(chat.CompletionCreateParams)),
    "responses": (RESPONSES, get_args(responses.ResponseCreateParams)),
}
REFUSED = {
    "anthropic": {"compaction", "thread"},
    "openai": {"functions", "logprobs", "modalities", "n", "response_format", "tool_choice", "top_logprobs"},
    "responses": {
        *("background", "conversation", "include", "previous_response_id", "prompt", "text", "tool_choice"),
        "top_logprobs",
    },
}
"""Fields of which some published value is refused; every value of all others is taken."""
LAST = {"role": "user", "content": "go"}


def asked(dialect: Any, **more: Any) -> ChatRequest:
    return dialect.parse({"model": "policy", "max_tokens": 5, dialect.messages_field: [LAST], **more})


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    """A field is read, changes nothing that anybody would miss, or is refused by its name."""
    dialect, kinds = PARAMETERS[name]
    # What messages and tools hold is tried above.
    values = {
        (field, json.dumps(value, sort_keys=True)): value
        for kind in kinds
        for full in (True, False)
        for field, hint in typing.get_type_hints(kind, include_extras=True).items()
        if field not in ("messages", "input", "tools", "system")
        for value in samples(hint, full=full)
    }
    assert len(values) > 60
    refused: set[str] = set()
    for (field, _), value in values.items():
        try:
            asked(dialect, **{field: value})
        except Refusal as refusal:
            assert refusal.param is not None and refusal.param.partition(".")[0] == field
            refused.add(field)
    assert refused == REFUSED[name]


@pytest.mark.parametrize(
    "helper",
    [
        {
            "tool_choice": {"type": "tool", "name": "web_search"},
            "tools": [{"type": "web_search_20250305", "name": "web_search"}],
        },
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        {"output_format": {"type": "json_schema", "schema": {"type": "object"}}},
    ],
)
def test_what_claude_code_s_helpers_force_is_no_error(helper: dict[str, Any]) -> None:
    assert asked(ANTHROPIC, **helper).parse_tools


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.sampled_from(["", "x", "auto"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "format", "name", "mode", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = sorted(
    {"n", "stop", "stream_options", "output_format", *(field for each in REFUSED.values() for field in each)}
)


@given(st.sampled_from(DIALECTS), st.sampled_from(FIELDS), JSON)
def test_what_may_be_refused_may_be_of_any_type(dialect: Any, field: str, value: Any) -> None:
    try:
        asked(dialect, **{field: value})
    except Refusal as refusal:
        assert (refusal.param or "").startswith(field)


ITEMS = {
    "anthropic": [one for kind in (anthropic.MessageParam, beta.BetaMessageParam) for one in samples(kind, full=True)],
    "openai": samples(chat.ChatCompletionMessageParam, full=True),
    "responses": samples(responses.ResponseInputItemParam, full=True),
}


def _spots(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(spot for key, child in inside for spot in _spots(child, (*at, key)))]


def _with(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[at[0]] = _with(changed[at[0]], at[1:], new)
    return changed


@settings(max_examples=600)
@given(st.data())
def test_a_field_of_another_type_is_refused_or_read(data: st.DataObject) -> None:
    """Anywhere in any message that is published."""
    dialect = data.draw(st.sampled_from(DIALECTS))
    item = data.draw(st.sampled_from(ITEMS[dialect.name]))
    changed = _with(item, data.draw(st.sampled_from(_spots(item))), data.draw(JSON))
    try:
        request = dialect.parse({"model": "policy", "max_tokens": 5, dialect.messages_field: [changed, LAST]})
        read = [message for sent in request.wire for message in request.normalise(sent)]
    except Refusal:
        return
    for message in read:
        assert isinstance(message.content, str) and isinstance(message.reasoning, str)
        assert message.tool_call_id is None or isinstance(message.tool_call_id, str)
