"""What published agents send that is no text: pictures, documents, halves of characters, tools in namespaces. Nothing
of it is an error, and the policy reads that something was there."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.proxy.bodies import Bodies
from runtime.proxy.dialects.anthropic import normalise as from_anthropic
from runtime.proxy.dialects.blocks import not_shown, shown_text
from runtime.proxy.dialects.openai import normalise as from_openai
from runtime.proxy.dialects.responses import normalise as from_responses
from runtime.proxy.refusal import Refusal
from tests.runtime.proxy.conftest import Run
from tests.runtime.proxy.driver import GO, TOOL, chat, claude, send, suffix

PNG = base64.b64encode(b"\x89PNG" + bytes(66)).decode()
TEXT = {"type": "text", "text": "spoken"}
ANTHROPIC_BLOCKS: list[tuple[dict[str, Any], str]] = [
    (
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        "[image/png, 70 bytes: not shown]",
    ),
    ({"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}, "[image, https://x/y.png: not shown]"),
    ({"type": "image", "source": {"type": "file", "file_id": "file_1"}}, "[image, file_1: not shown]"),
    (
        {
            "type": "document",
            "title": "a.pdf",
            "source": {"type": "base64", "media_type": "application/pdf", "data": PNG},
        },
        "[application/pdf, 70 bytes, a.pdf: not shown]",
    ),
    ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hello"}}, "hello"),
    ({"type": "document", "source": {"type": "content", "content": [TEXT, TEXT]}}, "spoken\nspoken"),
    (
        {"type": "search_result", "source": "https://x", "title": "T", "content": [{"type": "text", "text": "found"}]},
        "found",
    ),
    ({"type": "tool_reference", "tool_name": "Edit"}, "[tool_reference, Edit: not shown]"),
    ({"type": "audio", "data": PNG, "mimeType": "audio/wav"}, "[audio/wav, 70 bytes: not shown]"),
    ({"type": "resource_link", "uri": "mcp://x/y"}, "[resource_link, mcp://x/y: not shown]"),
    ({"type": "container_upload", "file_id": "file_2"}, "[container_upload, file_2: not shown]"),
    ({"type": "of a year to come", "odd": [1, None]}, "[of a year to come: not shown]"),
]
OPENAI_PARTS: list[tuple[dict[str, Any], str]] = [
    (
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{PNG}", "detail": "auto"}},
        "[image/jpeg, 70 bytes: not shown]",
    ),
    ({"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}}, "[input_audio, wav, 70 bytes: not shown]"),
    (
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PNG}", "filename": "größe x.pdf"}},
        "[application/pdf, 70 bytes, größe x.pdf: not shown]",
    ),
]
RESPONSES_PARTS: list[tuple[dict[str, Any], str]] = [
    ({"type": "input_image", "image_url": f"data:image/gif;base64,{PNG}"}, "[image/gif, 70 bytes: not shown]"),
    ({"type": "input_file", "file_data": PNG, "filename": "x.bin"}, "[input_file, 70 bytes, x.bin: not shown]"),
]


@pytest.mark.parametrize(("block", "line"), ANTHROPIC_BLOCKS)
def test_claude_code_may_read_anything(running: Run, block: dict[str, Any], line: str) -> None:
    """In a tool result, beside one, in the assistant's own turn, and in the system text."""

    async def main() -> None:
        async with running(["a", "b", "c"]) as it:
            call = {"type": "tool_use", "id": "t", "name": "read", "input": {}}
            result = {"type": "tool_result", "tool_use_id": "t", "content": [TEXT, block]}
            told = [GO, {"role": "assistant", "content": [block, call]}, {"role": "user", "content": [result, block]}]
            status, answer = await send(it, "/v1/messages", claude(told, system=[TEXT, block]))
            assert status == 200, answer
            prompt = it.engine.codec.tokens.decode(it.engine.calls[0].prompt_ids)
            assert prompt.count(line) == 4 and f"<tool_response>\nspoken\n{line}\n</tool_response>" in prompt
            told += [{"role": "assistant", "content": json.loads(answer)["content"]}, GO]
            assert (await send(it, "/v1/messages", claude(told, system=[TEXT, block])))[0] == 200
            assert suffix(it, 1, 0).endswith("go<|im_end|>\n<|im_start|>assistant\n")
            assert (await send(it, "/v1/messages/count_tokens", claude(told)))[0] == 200

    asyncio.run(main())


@pytest.mark.parametrize(("part", "line"), OPENAI_PARTS)
def test_chat_agents_may_send_anything(running: Run, part: dict[str, Any], line: str) -> None:
    async def main() -> None:
        async with running(["a"]) as it:
            call = {"id": "c", "type": "function", "function": {"name": "read", "arguments": "{}"}}
            said = {"role": "assistant", "content": None, "tool_calls": [call]}
            told = [{"role": "user", "content": [TEXT, part]}, said]
            told.append({"role": "tool", "tool_call_id": "c", "content": [part]})
            status, answer = await send(it, "/v1/chat/completions", chat(told))
            assert status == 200, answer
            assert it.engine.codec.tokens.decode(it.engine.calls[0].prompt_ids).count(line) == 2

    asyncio.run(main())


@pytest.mark.parametrize(("part", "line"), RESPONSES_PARTS)
def test_codex_may_send_anything(running: Run, part: dict[str, Any], line: str) -> None:
    async def main() -> None:
        async with running(["a"]) as it:
            items = [
                {"type": "message", "role": "user", "content": [part]},
                {"type": "reasoning", "summary": [], "encrypted_content": "zzz"},
                {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search"}},
                {"type": "function_call", "call_id": "c", "name": "read", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": [part]},
                {"type": "compaction", "encrypted_content": "zzz"},
                {"type": "ghost_snapshot", "ghost_commit": {"id": "abc"}},
                {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "on"}]},
            ]
            status, answer = await send(it, "/v1/responses", {"model": "m", "input": items})
            assert status == 200, answer
            prompt = it.engine.codec.tokens.decode(it.engine.calls[0].prompt_ids)
            assert prompt.count(line) == 2
            assert "[web_search_call: not shown]" in prompt and "[compaction: not shown]" in prompt

    asyncio.run(main())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda more: (
            st.lists(more)
            | st.dictionaries(
                st.sampled_from(["type", "source", "content", "text", "data", "url", "name", "media_type"]), more
            )
        ),
    )
)
def test_no_block_is_a_fault_of_ours_or_more_than_one_line_of_ours(value: Any) -> None:
    block = value if isinstance(value, dict) else {"content": value}
    with contextlib.suppress(Refusal):
        assert isinstance(shown_text(block, "here"), str)
    assert len(not_shown(block).splitlines()) == 1


SURROGATES = [
    "\\ud83d",
    "\\ude00",
    "\\ud83d\\ude00",
    "\\uD83D\\uDE00",
    "\\ud83d\\ud83d\\ude00",
    "\\\\ud83d",
    "\\n",
    "x",
    "é",
    "\\u00e9",
    "\\\\",
    '\\"',
]


@given(st.lists(st.sampled_from(SURROGATES), min_size=1), st.booleans())
def test_half_a_character_is_one_unknown_character(pieces: list[str], long: bool) -> None:
    raw = json.dumps({"messages": ["x" * 20_000 * long, "TEXT"]}).replace("TEXT", "".join(pieces))
    wanted = json.loads(raw.encode("utf-8"))
    text = wanted["messages"][1].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    wanted["messages"][1] = "".join(
        "\ufffd" if "\ud800" <= each <= "\udfff" else each for each in wanted["messages"][1]
    )
    bodies = Bodies()
    assert bodies.parse(raw.encode()) == wanted, text
    longer = raw.replace('"]}', '", "\\ud83d", "more"]}').encode()
    assert bodies.parse(longer)["messages"] == [*wanted["messages"], "\ufffd", "more"]


def test_bytes_that_are_no_text_are_mended_and_what_is_no_json_stays_an_error() -> None:
    assert Bodies().parse(b'{"a": "cut \xf0\x9f\x98"}') == {"a": "cut \ufffd"}
    assert Bodies().parse(b'{"a": "\xed\xa0\xbd"}')["a"].strip("\ufffd") == ""
    with pytest.raises(orjson.JSONDecodeError):
        Bodies().parse(b'{"a": "\\ud83d"')


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_an_agent_that_cuts_emoji_goes_on(running: Run, path: str) -> None:
    async def main() -> None:
        async with running(["a", "b"]) as it:

            def body(*more: dict[str, Any]) -> bytes:
                told = [{"role": "user", "content": "cut HALF"}, *more]
                whole = {"model": "m", "max_tokens": 50, "messages": told, "input": told}
                return json.dumps(whole).replace("HALF", "\\ud83d").encode()

            async with aiohttp.ClientSession(headers={"x-api-key": it.session.secret}) as client:
                for told in ([], [{"role": "assistant", "content": "a"}, {"role": "user", "content": "HALF"}]):
                    async with client.post(it.url + path, data=body(*told)) as response:
                        assert response.status == 200, await response.read()
            assert "<|im_start|>user\n\ufffd<|im_end|>" in suffix(it, 1, 0)

    asyncio.run(main())


NAMESPACE = {
    "type": "namespace",
    "name": "mcp__x",
    "description": "d",
    "tools": [{"type": "function", "name": "y", "parameters": {"type": "object"}}],
}
FOUND = {"type": "function", "name": "late", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
CODEX_TOOLS = [
    NAMESPACE,
    {"type": "local_shell"},
    {"type": "tool_search", "execution": "client", "description": "Find.", "parameters": {"type": "object"}},
    {"type": "web_search"},
    {"type": "image_generation"},
    {"type": "of a year to come"},
]


def called(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


@pytest.mark.parametrize("stream", [False, True])
def test_every_tool_of_codex_is_called_in_its_own_form(running: Run, stream: bool) -> None:
    async def main() -> None:
        replies = [
            called("mcp__x__y", a=1) + called("local_shell", command=["ls", "-l"]) + called("tool_search", query="q"),
            called("mcp__z__late", a="1") + called("local_shell", command="ls"),
        ]
        async with running([*replies, "ok"]) as it:
            user = {"type": "message", "role": "user", "content": "go"}

            async def ask(*more: dict[str, Any]) -> list[dict[str, Any]]:
                body = {"model": "m", "input": [user, *more], "tools": CODEX_TOOLS, "stream": stream}
                status, answer = await send(it, "/v1/responses", body)
                assert status == 200, answer
                if stream:
                    answer = answer.strip().rpartition(b"\ndata: ")[2]
                final = json.loads(answer)
                output: list[dict[str, Any]] = (final["response"] if stream else final)["output"]
                return output

            first = await ask()
            prompt = it.engine.codec.tokens.decode(it.engine.calls[0].prompt_ids)
            assert '"mcp__x__y"' in prompt and '"local_shell"' in prompt and "web_search" not in prompt
            forms = [(each["type"], each.get("namespace"), each.get("name")) for each in first]
            wanted = [
                ("function_call", "mcp__x", "y"),
                ("local_shell_call", None, None),
                ("tool_search_call", None, None),
            ]
            assert forms == wanted
            assert first[1]["action"] == {"type": "exec", "env": {}, "command": ["ls", "-l"]}
            assert first[2]["arguments"] == {"query": "q"}
            first[1]["action"] |= {"timeout_ms": None, "working_directory": None, "user": None}  # as codex writes it
            results = [
                {"type": "function_call_output", "call_id": first[0]["call_id"], "output": "one"},
                {"type": "function_call_output", "call_id": first[1]["call_id"], "output": "two"},
                {
                    "type": "tool_search_output",
                    "call_id": first[2]["call_id"],
                    "execution": "client",
                    "status": "completed",
                    "tools": [{**NAMESPACE, "name": "mcp__z", "tools": [FOUND]}],
                },
            ]
            second = await ask(*first, *results)
            assert "one" in suffix(it, 1, 0) and '"mcp__z__late"' in suffix(it, 1, 0)
            assert [(each["type"], each.get("namespace"), each["name"]) for each in second] == [
                ("function_call", "mcp__z", "late"),
                ("function_call", None, "local_shell"),  # no command line: the agent refuses it
            ]
            more = [{"type": "function_call_output", "call_id": each["call_id"], "output": "x"} for each in second]
            await ask(*first, *results, *second, *more)
            assert suffix(it, 2, 1).count("<tool_response>") == 2

    asyncio.run(main())


def test_tools_of_the_provider_are_left_out(running: Run) -> None:
    async def main() -> None:
        async with running(["a", "b", called("patch", input="*** Begin"), "ok"]) as it:
            tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}]
            status, answer = await send(it, "/v1/messages", claude([GO], tools=tools))
            assert status == 200, answer
            status, answer = await send(it, "/v1/chat/completions", chat([GO], tools=[{"type": "web_search_preview"}]))
            assert status == 200, answer
            custom = {"type": "custom", "custom": {"name": "patch", "description": "Patch."}}
            status, answer = await send(it, "/v1/chat/completions", chat([GO], tools=[TOOL, custom]))
            said = json.loads(answer)["choices"][0]["message"]
            assert said["tool_calls"][0]["custom"] == {"name": "patch", "input": "*** Begin"}
            told = [GO, said, {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "done"}]
            await send(it, "/v1/chat/completions", chat(told, tools=[TOOL, custom]))
            assert "done" in suffix(it, 3, 2)

    asyncio.run(main())


LOOSE: list[Any] = [None, "told", ["told", TEXT], {"type": "text", "text": "told"}, []]
"""What is no list of blocks and means one; nothing of it is worth an agent's end."""


@given(
    content=st.sampled_from(LOOSE),
    reasoning=st.sampled_from([None, "x", [TEXT], {"text": "x"}]),
    arguments=st.sampled_from([None, "{}", {"a": 1}]),
    role=st.sampled_from([None, [], {}, 5, "user", "assistant"]),
)
def test_loose_messages_are_read_and_odd_ones_refused_by_name(
    content: Any, reasoning: Any, arguments: Any, role: Any
) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": content}
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments}
    output = {"type": "function_call_output", "call_id": "c", "output": content}
    said = {"role": "assistant", "content": content, "reasoning": reasoning, "tool_calls": [call]}
    whole = [*from_openai(said), *from_openai({"role": "tool", "tool_call_id": "c", "content": content})]
    whole += [*from_anthropic({"role": "user", "content": [result]}), *from_responses([item]), *from_responses(output)]
    assert all("told" in one.content for one in whole if one.role == "tool" and content)
    for read in (from_openai, from_anthropic, from_responses):
        odd = {"type": "message", "role": role, "content": content}
        if isinstance(role, str):
            assert (role == "assistant" and read is from_responses) or read(odd)
        else:
            with pytest.raises(Refusal, match="unknown"):
                read(odd)
