from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import pytest

from tests.runtime.proxy.conftest import LIMITS, Run

TOOLS: list[Any] = [
    {
        "name": "read",
        "description": "Read.",
        "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}},
    }
]
CALL = 'I look.\n<tool_call>\n{"name": "read", "arguments": {"path": "a.py"}}\n</tool_call>'
CACHE = {"type": "ephemeral"}


def ask(messages: list[Any], **more: Any) -> dict[str, Any]:
    system = [{"type": "text", "text": "You repair."}, {"type": "text", "text": "Code.", "cache_control": CACHE}]
    return {"model": "policy", "max_tokens": 300, "system": system, "tools": TOOLS, "messages": messages, **more}


def test_a_claude_code_conversation_extends_sampled_tokens(running: Run) -> None:
    """System in blocks and in the middle of the list, ``cache_control`` that moves, tool results as blocks."""

    async def main() -> None:
        async with running([CALL, "Done."]) as it:
            blocks: list[Any] = [
                {"type": "text", "text": "reminder"},
                {"type": "text", "text": "Fix.", "cache_control": CACHE},
            ]
            messages: list[Any] = [{"role": "user", "content": blocks}, {"role": "system", "content": "Agents: none."}]
            first = await it.anthropic.messages.create(**ask(messages))
            assert first.stop_reason == "tool_use"
            assert [block.type for block in first.content] == ["text", "tool_use"]
            assert first.content[1].input == {"path": "a.py"}  # type: ignore[union-attr]
            result = {
                "type": "tool_result",
                "tool_use_id": first.content[1].id,
                "content": "x = 1",
                "cache_control": CACHE,
            }  # type: ignore[union-attr]
            messages = [
                {"role": "user", "content": [blocks[0], {"type": "text", "text": "Fix."}]},
                messages[1],
                {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
                {"role": "user", "content": [result, {"type": "text", "text": "go on"}]},
            ]
            second = await it.anthropic.messages.create(**ask(messages))
            assert second.stop_reason == "end_turn"
            one, two = it.engine.calls
            assert one.generation is not None
            known = one.prompt_ids + list(one.generation.token_ids)
            assert two.prompt_ids[: len(known)] == known
            text = it.engine.codec.tokens.decode(two.prompt_ids)
            assert "You repair.\nCode.\n\n# Tools" in text
            assert "<|im_start|>user\nreminder\nFix.<|im_end|>\n<|im_start|>system\nAgents: none.<|im_end|>" in text
            assert "<tool_response>\nx = 1\n</tool_response><|im_end|>\n<|im_start|>user\ngo on<|im_end|>" in text
            trajectory = await it.server.close_session("task.1.0")
            assert len(trajectory.samples) == 1 and trajectory.num_turns == 2

    asyncio.run(main())


def test_stream_events_come_in_order_and_say_the_same(running: Run) -> None:
    async def main() -> None:
        async with running([CALL, "<think>\nhm\n</think>\n\nDone."]) as it:
            async with it.anthropic.messages.stream(**ask([{"role": "user", "content": "Fix."}])) as stream:
                message = await stream.get_final_message()
            assert [block.type for block in message.content] == ["text", "tool_use"]
            assert message.content[0].text == "I look."  # type: ignore[union-attr]
            assert message.content[1].input == {"path": "a.py"}  # type: ignore[union-attr]
            assert (message.stop_reason, message.usage.output_tokens) == (
                "tool_use",
                len(it.engine.calls[0].generation.token_ids),  # type: ignore[union-attr]
            )
            kinds = []
            events = await it.anthropic.messages.create(**ask([{"role": "user", "content": "Go."}], stream=True))
            async for event in events:
                kinds.append(event.type)
            assert kinds == [
                "message_start",
                *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
                *("content_block_start", "content_block_delta", "content_block_stop"),
                *("message_delta", "message_stop"),
            ]

    asyncio.run(main())


def test_count_tokens_is_exact_and_leaves_no_trace(running: Run) -> None:
    async def main() -> None:
        async with running(["ok"]) as it:
            request = ask([{"role": "user", "content": "Fix."}])
            counted = await it.anthropic.messages.count_tokens(
                **{key: value for key, value in request.items() if key != "max_tokens"}
            )
            reply = await it.anthropic.messages.create(**request)
            assert counted.input_tokens == reply.usage.input_tokens == len(it.engine.calls[0].prompt_ids)
            assert it.session.trajectory().num_turns == 1

    asyncio.run(main())


def test_context_overflow_is_worded_for_agents(running: Run) -> None:
    async def main() -> None:
        async with running([]) as it:
            with pytest.raises(
                anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 2000 maximum"
            ) as caught:
                await it.anthropic.messages.create(**ask([{"role": "user", "content": "word " * 3000}]))
            assert caught.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]
            assert it.session.overlong

    asyncio.run(main())


BAD: list[tuple[Any, str]] = [
    ([{"type": "", "source": {}}], "a block without a type"),
    ([{"type": "tool_result", "content": "x"}], "tool_use_id: must be a string"),
    ([{"type": "text"}], "text: must be a string"),
    (7, "must be a string or a list of blocks"),
]


def test_bad_content_is_refused(running: Run) -> None:
    async def main() -> None:
        async with running([]) as it:
            for content, message in BAD:
                with pytest.raises(anthropic.BadRequestError, match=message):
                    await it.anthropic.messages.create(**ask([{"role": "user", "content": content}]))

    asyncio.run(main())


def test_both_dialects_share_one_session(running: Run) -> None:
    """One agent may speak one dialect and its sub-agent the other: two conversations, one trajectory."""

    async def main() -> None:
        async with running(["a", "b"], limits=LIMITS) as it:
            await it.anthropic.messages.create(**ask([{"role": "user", "content": "Fix."}]))
            tool = {"type": "function", "function": {"name": "read"}}
            await it.openai.chat.completions.create(
                model="policy",
                messages=[{"role": "user", "content": "Fix."}],
                tools=[tool],  # type: ignore[list-item]
            )
            trajectory = await it.server.close_session("task.1.0")
            assert [turn.dialect for turn in trajectory.turns] == ["anthropic", "openai"]
            assert len(trajectory.samples) == 2

    asyncio.run(main())
