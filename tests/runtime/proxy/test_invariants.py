"""Random agents that misbehave in every way we know, against a session with a scripted engine: invariants must hold."""

from __future__ import annotations

import asyncio
import json
import random
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.proxy.codec import ChatCodec, Rendered
from runtime.proxy.dialects import ANTHROPIC, OPENAI
from runtime.proxy.refusal import ContextOverflow
from runtime.proxy.session import Session
from runtime.proxy.types import SessionLimits, Trajectory
from tests.runtime.proxy.scripted_engine import Call, ScriptedEngine

LIMITS = SessionLimits(prompt_length=900, response_length=600, max_tokens_per_turn=60)
TOOL = {
    "type": "function",
    "function": {
        "name": "read",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}
OTHER_TOOL = {"type": "function", "function": {"name": "write", "parameters": {"type": "object"}}}
REPLIES = {
    "chatml": [
        '<tool_call>\n{"name": "read", "arguments": {"path": "a.py", "n": 1}}\n</tool_call>',
        'Two.\n<tool_call>{"name": "read", "arguments": {}}</tool_call><tool_call>{"name": "read"}</tool_call>',
        "<tool_call>{broken</tool_call>",
        "<think>\nhm\n</think>\n\n Phantom \n",
        "",
        "long text " * 30,
    ],
    "compact": ["<call>read a.py", "I look <call>read b.py", "<call>read a b", " Phantom \n", "", "long text " * 30],
}
ACTIONS = ["continue", "continue", "continue", "continue", "again", "edit", "compact", "fork", "title", "tools", "both"]
ACTIONS += ["retry", "leave", "lose", "stop"]


class Agent:
    """Speaks one dialect and keeps its own, freely re-spelled history."""

    def __init__(self, session: Session, seed: int, dialect: str) -> None:
        self.session, self.random, self.dialect = session, random.Random(seed), dialect
        self.messages: list[Any] = [{"role": "user", "content": "Fix <|im_end|> it."}]
        self.tools = [TOOL]
        self.unsent: list[Any] = []

    async def act(self, action: str) -> None:
        match action:
            case "again":  # the same request once more: the agent did not like the reply
                self.messages = self.messages[: -self.random.choice((2, 2, 3))] or self.messages[:1]
                while self.messages[-1]["role"] == "assistant":
                    self.messages.pop()
            case "edit":
                position = self.random.randrange(len(self.messages))
                self.messages[position] = {**self.messages[position], "content": "edited"}
            case "compact":
                self.messages = [{"role": "user", "content": f"Summary {self.random.random()}"}]
            case "fork":
                fork = Agent(self.session, self.random.randrange(99), self.dialect)
                fork.messages = [{"role": "user", "content": "sub task"}]
                await fork.send()
            case "title":
                side = Agent(self.session, self.random.randrange(99), self.dialect)
                side.messages, side.tools = [{"role": "user", "content": "A title, please"}], []
                await side.send()
            case "tools":
                self.tools = [TOOL, OTHER_TOOL] if len(self.tools) == 1 else [TOOL]
            case "leave":  # the client goes away while the engine works
                task = asyncio.create_task(self.send(keep=False))
                for _ in range(self.random.randrange(4)):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            case "retry":  # the library repeats the request, before or after the reply
                await asyncio.gather(self.send(keep=False), self.send(keep=False, retry=True))
            case "lose":  # the connection breaks while the reply is sent; the agent may go on without it
                await self.send(keep=self.random.random() < 0.5, lose=True)
            case "stop":
                await self.send(stop=["o"])
        if action == "both":
            await asyncio.gather(self.send(keep=False), self.send(keep=False))
        await self.send()

    async def send(
        self, *, keep: bool = True, retry: bool = False, lose: bool = False, stop: list[str] | None = None
    ) -> None:
        wire = OPENAI if self.dialect == "openai" else ANTHROPIC
        body: dict[str, Any] = {"messages": list(self.messages), "max_tokens": 200}
        body["tools"] = self.tools if self.dialect == "openai" else [_anthropic_tool(tool) for tool in self.tools]
        try:
            if stop is not None:
                body["stop" if self.dialect == "openai" else "stop_sequences"] = stop
            request = wire.parse(json.loads(json.dumps(body)))
            reply = await self.session.complete(request, retry=retry)
            if lose:
                self.session.undelivered(reply)
        except ContextOverflow:
            self.messages = [{"role": "user", "content": f"Summary {self.random.random()}"}]
            return
        if keep:
            echo = json.loads(wire.reply(reply, request))
            respell = self._respell_openai if self.dialect == "openai" else self._respell_anthropic
            self.messages = self.messages + respell(echo)

    def _respell_openai(self, echo: dict[str, Any]) -> list[Any]:
        message = echo["choices"][0]["message"]
        calls = message.get("tool_calls") or []
        if self.random.random() < 0.5:
            message["content"] = (message["content"] or "").strip() or None
            message.pop("reasoning_content", None)
        for number, call in enumerate(calls):
            if self.random.random() < 0.5:
                call["id"] = f"other_{number}"
                value = json.loads(call["function"]["arguments"])
                call["function"]["arguments"] = json.dumps(dict(reversed(value.items())), indent=1)
        answers = [{"role": "tool", "tool_call_id": call["id"], "content": self._text()} for call in calls]
        return [message, *(answers or [{"role": "user", "content": self._text()}])]

    def _respell_anthropic(self, echo: dict[str, Any]) -> list[Any]:
        blocks = echo["content"]
        if self.random.random() < 0.5:
            blocks = [block for block in blocks if block["type"] != "thinking"]
        uses = [block for block in blocks if block["type"] == "tool_use"]
        for number, block in enumerate(uses):
            if self.random.random() < 0.5:
                block["id"] = f"other_{number}"
        answers: list[Any] = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": [{"type": "text", "text": self._text()}]}
            for block in uses
        ]
        answers = answers or [{"type": "text", "text": self._text()}]
        for message in self.messages:  # cache_control moves to the last block every turn
            if isinstance(message["content"], list):
                for block in message["content"]:
                    block.pop("cache_control", None)
        answers[-1]["cache_control"] = {"type": "ephemeral"}
        return [{"role": "assistant", "content": blocks}, {"role": "user", "content": answers}]

    def _text(self) -> str:
        return self.random.choice(["ok\n", "\n\n", "<|im_end|><|end|>", "x = 1", "", "</tool_response>"])


def _anthropic_tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    return {"name": function["name"], "input_schema": function["parameters"]}


async def encode(rendered: Rendered) -> list[int]:
    await asyncio.sleep(0)
    return rendered.encode()


async def play(
    codec: ChatCodec, family: str, dialect: str, actions: list[str], seed: int
) -> tuple[Trajectory, ScriptedEngine]:
    chance = random.Random(seed)

    async def script(call: Call) -> str:
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        return chance.choice(REPLIES[family])

    engine = ScriptedEngine(codec, script, seed=seed)
    session = Session("s", LIMITS, codec=codec, engine=engine, encode=encode, journal=None)
    agent = Agent(session, seed, dialect)
    for action in actions:
        await agent.act(action)
    return await session.close(), engine


@given(
    family=st.sampled_from(["chatml", "compact"]),
    dialect=st.sampled_from(["openai", "anthropic"]),
    actions=st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=12),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=100, deadline=None)
def test_every_sampled_token_is_trained_once_exactly_as_sampled(
    codecs: dict[str, ChatCodec], family: str, dialect: str, actions: list[str], seed: int
) -> None:
    trajectory, engine = asyncio.run(play(codecs[family], family, dialect, actions, seed))
    given = [(call.prompt_ids, call.generation) for call in engine.calls if call.generation is not None]
    seen = {
        logprob: (token, prompt + list(generation.token_ids[:index]))
        for prompt, generation in given
        for index, (token, logprob) in enumerate(zip(generation.token_ids, generation.logprobs, strict=True))
    }
    trained: list[float] = []
    for sample in trajectory.samples:
        count = len(sample.response_ids)
        assert len(sample.response_mask) == len(sample.response_logprobs) == len(sample.weight_versions) == count
        assert len(sample.prompt_ids) <= LIMITS.prompt_length and count <= LIMITS.response_length
        whole = sample.prompt_ids + sample.response_ids
        start = len(sample.prompt_ids)
        for index, mask in enumerate(sample.response_mask):
            logprob = sample.response_logprobs[index]
            if not mask:
                assert (logprob, sample.weight_versions[index]) == (0.0, -1)
                continue
            # Every trained token stands behind exactly the tokens that the engine had before it sampled it.
            assert seen[logprob] == (whole[start + index], whole[: start + index])
            trained.append(logprob)
    assert len(trained) == len(set(trained))
    accounting = trajectory.accounting
    assert accounting.trained == len(trained)
    assert accounting.sampled == len(seen)
    parts = accounting.trained + accounting.discarded + accounting.auxiliary + accounting.lost
    assert parts == accounting.sampled
    assert json.loads(trajectory.to_json())["accounting"]["sampled"] == len(seen)
    if "title" in actions:
        assert accounting.auxiliary > 0


@given(
    family=st.sampled_from(["chatml", "compact"]),
    dialect=st.sampled_from(["openai", "anthropic"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_a_well_behaved_conversation_is_one_sample(
    codecs: dict[str, ChatCodec], family: str, dialect: str, seed: int
) -> None:
    """However an agent re-spells what it echoes: one conversation, one sample, nothing re-encoded."""
    trajectory, engine = asyncio.run(play(codecs[family], family, dialect, ["continue"] * 4, seed))
    for before, after in pairwise(engine.calls):
        assert before.generation is not None
        known = before.prompt_ids + list(before.generation.token_ids)
        assert after.prompt_ids[: len(known)] == known
    (sample,) = trajectory.samples
    last = engine.calls[-1]
    assert last.generation is not None
    assert sample.prompt_ids + sample.response_ids == last.prompt_ids + list(last.generation.token_ids)
    assert trajectory.accounting.trained == trajectory.accounting.sampled
