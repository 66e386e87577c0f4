"""Agents by their official clients against a chat server of texts alone, through the real relay."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest
from aiohttp import web

from runtime.config import Proxy
from runtime.errors import MachineError, TrialError
from runtime.proxy import chat_endpoint
from runtime.proxy.chat_endpoint import ChatEndpoint
from runtime.proxy.relay import RelayServer, RelaySession
from runtime.proxy.types import SessionLimits, Trajectory
from tests.runtime.proxy.fake_chat import FakeChatServer, said

LIMITS = SessionLimits(prompt_length=10, response_length=60, max_tokens_per_turn=30, temperature=0.5, seed=3)
TOOL: dict[str, Any] = {
    "name": "bash",
    "description": "Run it.",
    "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
}


class Opened:
    def __init__(self, server: RelayServer, session: RelaySession, fake: FakeChatServer) -> None:
        self.server, self.session, self.fake = server, session, fake
        url = f"http://{server.host}:{server.port}{session.base_path}"
        self.anthropic = anthropic.AsyncAnthropic(base_url=url, api_key=session.secret, max_retries=0)
        self.openai = openai.AsyncOpenAI(base_url=url + "/v1", api_key=session.secret, max_retries=0)

    async def close(self) -> Trajectory:
        return await self.server.close_session("s")


@asynccontextmanager
async def opened(fake: FakeChatServer) -> AsyncIterator[Opened]:
    async with fake.serve() as url:
        endpoint = ChatEndpoint(url, "gpt-x")
        server = RelayServer(Proxy(), endpoint)
        await server.start()
        session = server.open_session("s", LIMITS)
        assert isinstance(session, RelaySession)
        try:
            there = Opened(server, session, fake)
            async with there.anthropic, there.openai:
                yield there
        finally:
            await server.close()
            await endpoint.close()


def play(fake: FakeChatServer, act: Callable[[Opened], Any]) -> Any:
    async def whole() -> Any:
        async with opened(fake) as there:
            return await act(there)

    return asyncio.run(whole())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_endpoint, "_LONGEST_PAUSE_SEC", 0.0)


def test_a_conversation_with_tools_of_anthropics_api() -> None:
    answers = [said("I look.", ("bash", '{"command": "ls"}'), reasoning_content="hm"), said("Done.")]

    async def act(there: Opened) -> Trajectory:
        tool = {"name": "bash", "description": "Run it.", "input_schema": TOOL["parameters"]}
        messages: list[Any] = [{"role": "user", "content": "Repair it."}]
        ask: Any = {"model": "policy", "max_tokens": 4096, "system": "Be brief.", "tools": [tool]}
        first = await there.anthropic.messages.create(messages=messages, **ask)
        assert first.stop_reason == "tool_use"
        (call,) = [block for block in first.content if block.type == "tool_use"]
        assert call.input == {"command": "ls"}
        messages.append({"role": "assistant", "content": [block.model_dump() for block in first.content]})
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "a.py"}
        messages.append({"role": "user", "content": [result]})
        second = await there.anthropic.messages.create(messages=messages, **ask)
        assert [block.model_dump()["text"] for block in second.content if block.type == "text"] == ["Done."]
        return await there.close()

    fake = FakeChatServer(lambda body: answers.pop(0))
    trajectory: Trajectory = play(fake, act)
    asked = fake.requests[1]
    assert [message["role"] for message in asked["messages"]] == ["system", "user", "assistant", "tool"]
    calls = asked["messages"][2]["tool_calls"]
    assert (calls[0]["id"], json.loads(calls[0]["function"]["arguments"])) == ("c0", {"command": "ls"})
    assert asked["messages"][3] == {"role": "tool", "tool_call_id": "c0", "content": "a.py"}
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("gpt-x", 0.5, 30)
    assert asked["tools"][0]["function"]["name"] == "bash" and asked["seed"] != fake.requests[0]["seed"]
    assert [(turn.parent, turn.prompt_tokens, turn.completion_tokens) for turn in trajectory.turns] == [
        (None, 20, 5),
        (0, 20, 5),
    ]
    assert trajectory.samples == () and trajectory.num_turns == 2 and trajectory.turns[0].cached_tokens == 8


async def _ask(there: Opened, *more: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": "Go."}, *more]
    tools: Any = [{"type": "function", "function": TOOL}]
    return await there.openai.chat.completions.create(model="policy", messages=messages, tools=tools)


def test_arguments_that_are_no_object_are_no_call() -> None:
    async def act(there: Opened) -> Any:
        reply = (await _ask(there)).choices[0].message
        return [call.function.name for call in reply.tool_calls], await there.close()

    for wrong in ('{"command": ', "[1]", "ls"):
        names, trajectory = play(FakeChatServer(lambda body, wrong=wrong: said(None, ("bash", wrong))), act)
        assert names == ["unreadable_tool_call"] and trajectory.unread == 1


def test_parameters_that_a_server_does_not_take_are_spelt_otherwise_or_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = FakeChatServer(lambda body: said("yes"), refused=("max_tokens", "temperature", "top_p", "seed"))

    async def act(there: Opened) -> None:
        await _ask(there)
        await _ask(there)

    play(fake, act)
    assert all(body["max_completion_tokens"] == 30 and "tools" in body for body in fake.requests)
    assert all("temperature" not in body and "seed" not in body for body in fake.requests)
    assert [text for text in caplog.messages if "left out" in text] == caplog.messages and len(caplog.messages) == 3


def test_what_a_cut_reply_left_of_a_call_is_none() -> None:
    async def act(there: Opened) -> None:
        choice = (await _ask(there)).choices[0]
        assert choice.finish_reason == "length" and not choice.message.tool_calls

    cut = said(None, ("bash", '{"comm'))
    cut["choices"][0]["finish_reason"] = "length"
    play(FakeChatServer(lambda body: cut), act)


def test_words_of_a_limit_are_no_refusal_of_a_parameter() -> None:
    """vLLM names the parameter where the conversation is too long."""
    words = "'max_tokens' or 'max_completion_tokens' is too large: 30. This model's maximum context length is 16 tokens"
    asked: list[dict[str, Any]] = []

    def refuse(body: dict[str, Any]) -> web.HTTPException:
        asked.append(body)
        return web.HTTPBadRequest(text=words)

    async def act(there: Opened) -> None:
        with pytest.raises(openai.BadRequestError, match="context"):
            await _ask(there)

    play(FakeChatServer(refuse), act)
    assert len(asked) == 1 and "max_tokens" in asked[0]


def test_a_busy_server_is_asked_again_and_a_dead_one_fails_the_trial() -> None:
    busy = [web.HTTPTooManyRequests(headers={"Retry-After": "7"}), web.HTTPBadGateway(), said("yes")]

    async def works(there: Opened) -> None:
        assert (await _ask(there)).choices[0].message.content == "yes"
        assert there.session.failure is None

    play(FakeChatServer(lambda body: busy.pop(0)), works)

    async def fails(there: Opened) -> str:
        with pytest.raises(openai.APIStatusError) as error:
            await _ask(there)
        assert error.value.status_code == 503
        return (await there.close()).failure or ""

    assert "answered 500" in play(FakeChatServer(lambda body: web.HTTPInternalServerError()), fails)
    assert "no chat completion" in play(FakeChatServer(lambda body: {"choices": []}), fails)


def test_a_conversation_ends_at_the_servers_context_or_at_the_response_length() -> None:
    longest = web.HTTPBadRequest(text='{"error": {"message": "maximum context length is 8192 tokens"}}')

    async def too_long(there: Opened) -> bool:
        with pytest.raises(openai.BadRequestError, match="context"):
            await _ask(there)
        return (await there.close()).overlong

    assert play(FakeChatServer(lambda body: longest), too_long)

    async def grown(there: Opened) -> Trajectory:
        reply = (await _ask(there)).choices[0].message.content
        more = [{"role": "assistant", "content": reply}, {"role": "user", "content": "on"}]
        await _ask(there, *more)
        more += [{"role": "assistant", "content": reply}, {"role": "user", "content": "and on"}]
        with pytest.raises(openai.BadRequestError, match="is 80 tokens"):
            await _ask(there, *more)
        return await there.close()

    def longer(body: dict[str, Any]) -> dict[str, Any]:
        return said("yes") | {"usage": {"prompt_tokens": 20 + 28 * (len(body["messages"]) - 1), "completion_tokens": 5}}

    fake = FakeChatServer(longer)
    trajectory: Trajectory = play(fake, grown)
    assert trajectory.overlong and trajectory.num_turns == 2
    assert [body["max_tokens"] for body in fake.requests] == [30, 30]


def test_a_wrong_key_or_name_shows_at_once() -> None:
    async def connect(fake: FakeChatServer) -> None:
        async with fake.serve() as url:
            for key in ("wrong", None):
                endpoint = ChatEndpoint(url.removesuffix("/v1") + "/v1/chat/completions", "gpt-x", api_key=key)
                with pytest.raises(MachineError, match="401"):
                    await endpoint.connect()
                await endpoint.close()
        gone = ChatEndpoint(url, "gpt-x")
        with pytest.raises(MachineError, match="Connect"):
            await gone.connect()
        with pytest.raises(TrialError):
            await gone.ask({"messages": []})
        await gone.close()

    asyncio.run(connect(FakeChatServer(lambda body: said("yes"), key="right")))
