"""A tool call that nobody can read, over all wire APIs: the agent is told, goes on, and no token is lost."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.runtime.proxy.conftest import Run
from tests.runtime.proxy.driver import ANTHROPIC_TOOL, GO, chat, claude, send, suffix

BROKEN = 'I look.\n<tool_call>\n{"name": "read", "arguments": {"path": "a.py"}}}\n</tool_call>'
GOOD = '<tool_call>\n{"name": "read", "arguments": {}}\n</tool_call>'
TOLD = "No such tool available: unreadable_tool_call"


def test_openai_agents_are_told_by_a_call_of_no_tool(running: Run) -> None:
    async def main() -> None:
        async with running([BROKEN, "Done."]) as it:
            status, answer = await send(it, "/v1/chat/completions", chat([GO]))
            choice = json.loads(answer)["choices"][0]
            assert (status, choice["finish_reason"]) == (200, "tool_calls")
            said = choice["message"]
            (call,) = said["tool_calls"]
            assert call["function"]["name"] == "unreadable_tool_call"
            assert '{"path": "a.py"}}}' in json.loads(call["function"]["arguments"])["written"]
            told = {"role": "tool", "tool_call_id": call["id"], "content": TOLD}
            await send(it, "/v1/chat/completions", chat([GO, said, told]))
            assert TOLD in suffix(it, 1, 0)
            trajectory = await it.server.close_session("task.1.0")
            assert (trajectory.unread, trajectory.turns[0].parse_status) == (1, "ill_formed")
            assert len(trajectory.samples) == 1
            assert b"\nliverl_proxy_unread_calls_total 1\n" in it.server.metrics.render(open_sessions=0)

    asyncio.run(main())


@pytest.mark.parametrize("reply", [BROKEN, GOOD + BROKEN])
def test_anthropic_agents_are_told_beside_the_calls_that_could_be_read(running: Run, reply: str) -> None:
    async def main() -> None:
        async with running([reply, "Done."]) as it:
            status, answer = await send(it, "/v1/messages", claude([GO]))
            message = json.loads(answer)
            assert (status, message["stop_reason"]) == (200, "tool_use")
            used = [block for block in message["content"] if block["type"] == "tool_use"]
            assert [block["name"] for block in used] == [*["read"] * (reply != BROKEN), "unreadable_tool_call"]
            results = [{"type": "tool_result", "tool_use_id": block["id"], "content": TOLD} for block in used]
            echo = {"role": "assistant", "content": message["content"]}
            await send(it, "/v1/messages", claude([GO, echo, {"role": "user", "content": results}]))
            assert suffix(it, 1, 0).count(TOLD) == len(used)

    asyncio.run(main())


def test_codex_is_told_too(running: Run) -> None:
    async def main() -> None:
        async with running([BROKEN]) as it:
            tool = {"type": "function", "name": "read", "parameters": {"type": "object"}}
            _, answer = await send(it, "/v1/responses", {"model": "m", "input": "go", "tools": [tool]})
            call = json.loads(answer)["output"][-1]
            assert (call["type"], call["name"]) == ("function_call", "unreadable_tool_call")

    asyncio.run(main())


def test_a_cut_reply_says_that_it_was_cut_and_plain_text_stays_plain(running: Run) -> None:
    async def main() -> None:
        async with running([BROKEN, BROKEN]) as it:
            _, answer = await send(it, "/v1/messages", claude([GO], max_tokens=30))
            assert json.loads(answer)["stop_reason"] == "max_tokens"
            assert [block["type"] for block in json.loads(answer)["content"]] == ["text"]
            forbidden = claude([GO], tools=[ANTHROPIC_TOOL], tool_choice={"type": "none"})
            _, answer = await send(it, "/v1/messages", forbidden)
            assert json.loads(answer)["content"] == [{"type": "text", "text": BROKEN}]
            assert (await it.server.close_session("task.1.0")).unread == 1

    asyncio.run(main())
