"""One conversation of a coding agent with a model of a family, over HTTP, with every token looked at."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from runtime.config import Proxy
from runtime.proxy.codec import ChatCodec
from runtime.proxy.server import ProxyServer
from tests.runtime.proxy.conftest import LIMITS, Running
from tests.runtime.proxy.driver import GO, chat, known, openai, suffix
from tests.runtime.proxy.families import Family
from tests.runtime.proxy.scripted_engine import ScriptedEngine

ARGUMENTS = {"path": "a.py", "n": 1}
READ = {
    "type": "function",
    "function": {
        "name": "read",
        "description": "Read a file.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "n": {"type": "integer"}},
            "required": ["path"],
        },
    },
}


@asynccontextmanager
async def talk(codec: ChatCodec, *replies: str) -> AsyncIterator[Running]:
    """A proxy whose engine samples these texts, control tokens in them being control tokens."""
    engine = ScriptedEngine(codec)
    engine._queue = [engine.generation(engine.split_around_control(text)) for text in replies]
    server = ProxyServer(Proxy(), codec, engine)
    await server.start()
    try:
        yield Running(server, engine, server.open_session("task.1.0", LIMITS))
    finally:
        await server.close()


async def converse(codec: ChatCodec, family: Family) -> None:
    """A call, its result with every control token spelled out in it, an answer, another question."""
    result = "x = 1 " + " ".join(family.control)
    replies = (family.call + family.call_stop, family.answer + family.answer_stop, family.answer + family.answer_stop)
    async with talk(codec, *replies) as it:
        history: list[Any] = [{"role": "user", "content": "Fix it."}]
        said = await openai(it, chat(history, tools=[READ]))
        (call,) = said["tool_calls"]
        assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("read", ARGUMENTS)
        assert said.get("reasoning_content", "") == ("Look." if family.reasons else "")
        history += [said, {"role": "tool", "tool_call_id": call["id"], "content": result}]
        said = await openai(it, chat(history, tools=[READ]))
        assert (said["content"], said.get("tool_calls")) == ("Done.", None)
        assert suffix(it, 1, 0) == family.after_call.format(json.dumps(result) if family.quotes_results else result)
        control = set(codec.tokens.control.values())
        added = it.engine.calls[1].prompt_ids[len(known(it, 0)) :]
        bare = codec.tokens.encode(family.after_call.format(""))
        assert [token for token in added if token in control] == [token for token in bare if token in control]
        history += [said, GO]
        await openai(it, chat(history, tools=[READ]))
        assert suffix(it, 2, 1) == family.after_answer.format("go")
        trajectory = await it.server.close_session("task.1.0")
        (sample,) = trajectory.samples
        assert sample.prompt_ids + sample.response_ids == known(it, 2)
        assert trajectory.accounting.trained == trajectory.accounting.sampled == sum(sample.response_mask)
