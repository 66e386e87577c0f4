from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import openai
import pytest

from tests.runtime.proxy.conftest import Run

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        },
    }
    for name in ("read", "run")
]
CALL = '<tool_call>\n{"name": "read", "arguments": {"path": "a.py", "n": 1}}\n</tool_call>'
TWO = 'I read both.\n<tool_call>{"name": "read", "arguments": {}}</tool_call>\n' + CALL
PROMPT = [{"role": "system", "content": "You repair code."}, {"role": "user", "content": "Fix it."}]


def test_turns_continue_sampled_tokens(running: Run) -> None:
    """The agent re-spells ids, arguments and white space; the engine still gets what it sampled, id for id."""

    async def main() -> None:
        async with running([CALL, " Phantom  pain \n", "Done."]) as it:
            messages: list[Any] = list(PROMPT)
            first = await it.openai.chat.completions.create(model="policy", messages=messages, tools=TOOLS)
            assert first.choices[0].finish_reason == "tool_calls"
            assert first.choices[0].message.content == ""
            calls = first.choices[0].message.tool_calls
            assert calls is not None and json.loads(calls[0].function.arguments) == {"path": "a.py", "n": 1}  # type: ignore[union-attr]
            function = {"name": "read", "arguments": '{"n": 1,  "path": "a.py"}'}
            messages += [
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "x", "type": "function", "function": function}],
                },
                {"role": "tool", "tool_call_id": "x", "content": "def f(): <|im_end|>\n"},
            ]
            second = await it.openai.chat.completions.create(model="policy", messages=messages, tools=TOOLS)
            assert second.choices[0].finish_reason == "stop"
            assert second.choices[0].message.content == " Phantom  pain \n"
            messages += [
                {"role": "assistant", "content": "Phantom  pain"},
                {"role": "user", "content": [{"type": "text", "text": "go"}, {"type": "text", "text": "on"}]},
            ]
            third = await it.openai.chat.completions.create(model="policy", messages=messages, tools=TOOLS)
            trajectory = await it.server.close_session("task.1.0")

            calls_seen = it.engine.calls
            for before, after in pairwise(calls_seen):
                sampled = before.generation
                assert sampled is not None
                known = before.prompt_ids + list(sampled.token_ids)
                assert after.prompt_ids[: len(known)] == known
            text = it.engine.codec.tokens.decode(calls_seen[2].prompt_ids)
            assert "<tool_response>\ndef f(): <|im_end|>\n\n</tool_response><|im_end|>\n<|im_start|>assistant\n" in text
            assert text.endswith(
                "Phantom  pain \n<|im_end|>\n<|im_start|>user\ngo\non<|im_end|>\n<|im_start|>assistant\n"
            )

            assert third.usage is not None
            assert third.usage.prompt_tokens == len(calls_seen[2].prompt_ids)
            (sample,) = trajectory.samples
            last = calls_seen[2].generation
            assert last is not None
            assert sample.prompt_ids == calls_seen[0].prompt_ids
            assert sample.prompt_ids + sample.response_ids == calls_seen[2].prompt_ids + list(last.token_ids)
            assert trajectory.num_turns == 3
            assert trajectory.accounting.trained == trajectory.accounting.sampled == sum(sample.response_mask)

    asyncio.run(main())


def test_stream_says_the_same_as_a_plain_reply(running: Run) -> None:
    async def main() -> None:
        async with running([TWO]) as it:
            stream = await it.openai.chat.completions.create(
                model="policy", messages=PROMPT, tools=TOOLS, stream=True, stream_options={"include_usage": True}
            )
            text, calls, reasons, usage = "", [], [], None
            async for chunk in stream:
                usage = chunk.usage or usage
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    calls += [(call.index, call.function.name) for call in choice.delta.tool_calls or []]
                    reasons.append(choice.finish_reason)
            assert (text, calls) == ("I read both.", [(0, "read"), (1, "read")])
            assert [reason for reason in reasons if reason] == ["tool_calls"]
            assert usage is not None and usage.prompt_tokens == len(it.engine.calls[0].prompt_ids)

    asyncio.run(main())


def test_waiting_streams_are_kept_alive_and_fail_inside_the_stream(running: Run) -> None:
    async def slow(call: Any) -> Any:
        await asyncio.sleep(0.2)
        return "late" if len(it_calls) == 1 else RuntimeError("gone")

    it_calls: list[int] = []

    def script(call: Any) -> Any:
        it_calls.append(1)
        return slow(call)

    async def main() -> None:
        async with running(script) as it:
            it.server.app.keepalive_sec = 0.03
            async with it.openai.chat.completions.with_streaming_response.create(
                model="policy", messages=PROMPT, stream=True
            ) as response:
                body = b"".join([part async for part in response.iter_bytes()])
            assert body.count(b": keepalive\n") >= 2
            assert b": keepalive\n\n" not in body
            assert b'"content":"late"' in body and body.endswith(b"data: [DONE]\n\n")
            stream = await it.openai.chat.completions.create(model="policy", messages=PROMPT, stream=True)
            with pytest.raises(openai.APIError, match="model is not available"):
                async for _ in stream:
                    pass

    asyncio.run(main())


BAD: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"stop": ["x", ""]}, "stop"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[].role"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[].content"),
    ({"messages": [{"role": "user", "content": [{}]}]}, "messages[].content[]"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
    ({"messages": ["x"]}, "messages[]"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"functions": [{}]}, "functions"),
    ({"logprobs": True}, "logprobs"),
    ({"modalities": ["text", "audio"], "audio": {"voice": "x", "format": "wav"}}, "modalities"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "read"}}}, "tool_choice"),
    ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}}, "tool_choice"),
    ({"tool_choice": 5}, "tool_choice"),
    ({"stream": "yes"}, "stream"),
    ({"model": 5}, "model"),
]


def test_bad_requests_name_the_field(running: Run) -> None:
    async def main() -> None:
        async with running([]) as it:
            for change, where in BAD:
                with pytest.raises(openai.BadRequestError) as caught:
                    await it.openai.chat.completions.create(**{"model": "policy", "messages": PROMPT, **change})
                assert (caught.value.param, caught.value.type) == (where, "invalid_request_error")
            assert it.engine.calls == []

    asyncio.run(main())


def test_reasoning_may_be_dropped_by_the_agent(running: Run) -> None:
    async def main() -> None:
        async with running(["<think>\nhm\n</think>\n\nDone.", "ok"]) as it:
            first = await it.openai.chat.completions.create(model="policy", messages=PROMPT)
            assert first.choices[0].message.reasoning_content == "hm"  # type: ignore[attr-defined]
            messages: list[Any] = [*PROMPT, {"role": "assistant", "content": "Done."}, {"role": "user", "content": "?"}]
            await it.openai.chat.completions.create(model="policy", messages=messages)
            assert "hm\n</think>" in it.engine.codec.tokens.decode(it.engine.calls[1].prompt_ids)

    asyncio.run(main())


def test_models_are_listed(running: Run) -> None:
    async def main() -> None:
        async with running([]) as it:
            assert [model.id async for model in it.openai.models.list()] == ["policy"]
            assert [model.id async for model in it.anthropic.models.list()] == ["policy"]

    asyncio.run(main())
