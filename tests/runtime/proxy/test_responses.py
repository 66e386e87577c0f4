"""The responses API with OpenAI's own client, in codex's way of using it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.runtime.proxy.conftest import Run
from tests.runtime.proxy.driver import CALL, continues, send, suffix

SHELL: dict[str, Any] = {
    "type": "function",
    "name": "read",
    "description": "Read.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
}
PATCH: dict[str, Any] = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Patch.",
    "format": {"type": "grammar"},
}
USER: dict[str, Any] = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Fix it."}]}
GO: dict[str, Any] = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "go"}]}


def ask(items: list[Any], **more: Any) -> dict[str, Any]:
    tools = [SHELL, PATCH, {"type": "web_search"}]
    body = {"model": "policy", "instructions": "You are codex.", "input": items, "tools": tools, "store": False}
    return {**body, "include": ["reasoning.encrypted_content"], "parallel_tool_calls": True, **more}


def test_a_codex_conversation_extends_sampled_tokens(running: Run) -> None:
    """Reasoning, text and two calls of one reply are one assistant turn, whatever the agent drops of it."""

    async def main() -> None:
        patch = '<tool_call>{"name": "apply_patch", "arguments": {"input": "*** Begin"}}</tool_call>'
        async with running(["<think>\nhm\n</think>\n\nI look." + CALL + patch, "Done.", "ok"]) as it:
            first = await it.openai.responses.create(**ask([USER]))
            kinds = [item.type for item in first.output]
            assert kinds == ["reasoning", "message", "function_call", "custom_tool_call"]
            assert first.output[3].input == "*** Begin"  # type: ignore[union-attr]
            assert first.usage is not None and first.usage.input_tokens == len(it.engine.calls[0].prompt_ids)
            echo = [json.loads(item.model_dump_json(exclude_none=True)) for item in first.output]
            results = [
                {"type": "function_call_output", "call_id": echo[2]["call_id"], "output": "x = 1"},
                {"type": "custom_tool_call_output", "call_id": echo[3]["call_id"], "output": "patched"},
            ]
            second = await it.openai.responses.create(**ask([USER, *echo, *results]))
            assert second.output_text == "Done."
            assert "x = 1\n</tool_response>\n<tool_response>\npatched" in suffix(it, 1, 0)
            without_reasoning = [item for item in echo if item["type"] != "reasoning"]
            for item in without_reasoning:
                item.pop("id", None)
                item.pop("status", None)
            again = [USER, *without_reasoning, *results, {"role": "assistant", "content": "Done."}, GO]
            await it.openai.responses.create(**ask(again))
            assert continues(it, 2, 1)
            text = it.engine.codec.tokens.decode(it.engine.calls[0].prompt_ids)
            assert "You are codex." in text and "apply_patch" in text and "web_search" not in text
            trajectory = await it.server.close_session("task.1.0")
            assert len(trajectory.samples) == 1 and trajectory.num_turns == 3

    asyncio.run(main())


def test_the_stream_says_the_same_and_ends_with_completed(running: Run) -> None:
    async def main() -> None:
        async with running(["<think>\nhm\n</think>\n\nI look." + CALL]) as it:
            async with it.openai.responses.stream(
                **{key: value for key, value in ask([USER]).items() if key != "tools"}
            ) as stream:
                kinds = [event.type async for event in stream]
                final = await stream.get_final_response()
            assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
            assert kinds.count("response.output_item.done") == 2  # no tools were offered: the call is text
            assert final.output_text.startswith("I look.<tool_call>")
            _, raw = await send(it, "/v1/responses", ask([USER], stream=True), x_stainless_retry_count="1")
            assert b"pop from empty" in raw, "another request: nothing is replayed"

    asyncio.run(main())


def test_streamed_calls_are_whole(running: Run) -> None:
    async def main() -> None:
        async with running([CALL]) as it:
            _, raw = await send(it, "/v1/responses", ask([USER], stream=True))
            events = [json.loads(line[6:]) for line in raw.split(b"\n") if line.startswith(b"data: ")]
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
            deltas = [e["delta"] for e in events if e["type"] == "response.function_call_arguments.delta"]
            (done,) = [e["item"] for e in events if e["type"] == "response.output_item.done"]
            assert json.loads("".join(deltas)) == json.loads(done["arguments"]) == {"path": "a.py", "n": 1}
            assert events[-1]["response"]["output"] == [done]

    asyncio.run(main())


def test_a_cut_reply_is_incomplete(running: Run) -> None:
    async def main() -> None:
        async with running(["long " * 50]) as it:
            reply = await it.openai.responses.create(**ask([USER], max_output_tokens=17))
            assert (reply.status, reply.incomplete_details.reason) == ("incomplete", "max_output_tokens")  # type: ignore[union-attr]

    asyncio.run(main())


BAD: list[tuple[dict[str, Any], str]] = [
    ({"input": []}, "input"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"input": [{"type": "message", "role": "robot", "content": "x"}]}, "input[]"),
    ({"input": [{"role": "user", "content": [{}]}]}, "input[].content[]"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[].type"),
    ({"tools": [{"type": "namespace", "name": "x", "tools": [{"type": "function"}]}]}, "tools[0].tools[0].name"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
]


def test_bad_requests_name_the_field_and_overflow_has_its_code(running: Run) -> None:
    async def main() -> None:
        async with running([]) as it:
            for change, where in BAD:
                with pytest.raises(openai.BadRequestError) as caught:
                    await it.openai.responses.create(**{**ask([USER]), **change})
                assert (caught.value.param, caught.value.type) == (where, "invalid_request_error")
            with pytest.raises(openai.BadRequestError) as caught:
                await it.openai.responses.create(**ask([{"role": "user", "content": "word " * 3000}]))
            assert caught.value.code == "context_length_exceeded"

    asyncio.run(main())
