"""Named histories that are no straight line, and what becomes of each sampled token."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from runtime.proxy.codec import ChatCodec
from runtime.proxy.dialects import OPENAI
from runtime.proxy.session import Session
from runtime.proxy.types import SessionLimits, Trajectory
from tests.runtime.proxy.scripted_engine import ScriptedEngine
from tests.runtime.proxy.test_invariants import TOOL, encode

LIMITS = SessionLimits(prompt_length=500, response_length=500, max_tokens_per_turn=50)
USER = {"role": "user", "content": "Fix it."}
GO = {"role": "user", "content": "go"}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@pytest.fixture
def play(codecs: dict[str, ChatCodec]) -> Any:
    """Send histories one after the other; the engine answers r0, r1, ... Gives the trajectory and the engine."""

    def run(*histories: list[Any], tools: list[list[Any]] | None = None) -> tuple[Trajectory, ScriptedEngine]:
        async def main() -> tuple[Trajectory, ScriptedEngine]:
            engine = ScriptedEngine(codecs["compact"], [f"r{number}" for number in range(len(histories))])
            session = Session("s", LIMITS, codec=codecs["compact"], engine=engine, encode=encode, journal=None)
            for number, messages in enumerate(histories):
                offered = [TOOL] if tools is None else tools[number]
                await session.complete(OPENAI.parse({"messages": messages, "tools": offered}))
            return await session.close(), engine

        return asyncio.run(main())

    return run


def texts(trajectory: Trajectory, engine: ScriptedEngine) -> list[tuple[str, str, str]]:
    """Per sample: prompt, response, and the trained part of the response."""
    decode = engine.codec.tokens.decode
    return [
        (
            decode(sample.prompt_ids),
            decode(sample.response_ids),
            decode([i for i, mask in zip(sample.response_ids, sample.response_mask, strict=True) if mask]),
        )
        for sample in trajectory.samples
    ]


PROMPT = "<|user|>Fix it.<|end|><|assistant|>"


def test_a_straight_conversation(play: Any) -> None:
    assert texts(*play([USER], [USER, said("r0"), GO])) == [
        (PROMPT, "r0<|end|><|user|>go<|end|><|assistant|>r1<|end|>", "r0<|end|>r1<|end|>")
    ]


def test_a_reply_asked_for_again_is_discarded_when_the_other_one_is_continued(play: Any) -> None:
    trajectory, engine = play([USER], [USER], [USER, said("r1"), GO])
    assert [trained for _, _, trained in texts(trajectory, engine)] == ["r1<|end|>r2<|end|>"]
    assert trajectory.accounting.discarded == len(engine.calls[0].generation.token_ids)
    assert [turn.discarded for turn in trajectory.turns] == [True, False, False]


def test_two_replies_that_are_both_the_end_are_both_trained(play: Any) -> None:
    trajectory, engine = play([USER], [USER])
    assert [trained for _, _, trained in texts(trajectory, engine)] == ["r0<|end|>", "r1<|end|>"]


def test_a_shared_beginning_is_trained_in_its_first_branch_only(play: Any) -> None:
    other = {"role": "user", "content": "no"}
    trajectory, engine = play([USER], [USER, said("r0"), GO], [USER, said("r0"), other])
    assert texts(trajectory, engine) == [
        (PROMPT, "r0<|end|><|user|>go<|end|><|assistant|>r1<|end|>", "r0<|end|>r1<|end|>"),
        (PROMPT, "r0<|end|><|user|>no<|end|><|assistant|>r2<|end|>", "r2<|end|>"),
    ]


def test_an_edited_reply_branches_where_it_was_edited(play: Any) -> None:
    edited = [USER, said("r0"), GO, said("edited"), GO]
    trajectory, engine = play([USER], [USER, said("r0"), GO], edited)
    assert texts(trajectory, engine)[1] == (
        PROMPT,
        "r0<|end|><|user|>go<|end|><|assistant|>edited<|end|><|user|>go<|end|><|assistant|>r2<|end|>",
        "r2<|end|>",
    )


def test_an_edited_first_reply_keeps_the_prompt_as_prompt(play: Any) -> None:
    trajectory, engine = play([USER], [USER, said("edited"), GO])
    assert texts(trajectory, engine)[1] == (
        PROMPT,
        "edited<|end|><|user|>go<|end|><|assistant|>r1<|end|>",
        "r1<|end|>",
    )


def test_compaction_and_sub_agents_are_conversations_of_their_own(play: Any) -> None:
    summary = {"role": "user", "content": "Summary."}
    trajectory, engine = play([USER], [USER, said("r0"), GO], [summary], [summary, said("r2"), GO])
    assert [prompt for prompt, _, _ in texts(trajectory, engine)] == [PROMPT, "<|user|>Summary.<|end|><|assistant|>"]
    assert trajectory.accounting.trained == trajectory.accounting.sampled


def test_a_title_call_without_tools_is_auxiliary_whenever_it_comes(play: Any) -> None:
    title = [{"role": "user", "content": "Give a title."}]
    for order in ([title, [USER]], [[USER], title]):
        trajectory, engine = play(*order, tools=[[] if messages is title else [TOOL] for messages in order])
        assert len(trajectory.samples) == 1
        assert (trajectory.num_turns, trajectory.accounting.auxiliary) == (1, len(engine.calls[0].generation.token_ids))


def test_other_tools_are_another_conversation(play: Any) -> None:
    trajectory, _ = play([USER], [USER, said("r0"), GO], tools=[[TOOL], [TOOL, TOOL]])
    assert len(trajectory.samples) == 2


@pytest.mark.parametrize(
    ("echoed", "same_id", "roots"),
    [
        ({"path": "a", "replace_all": False}, True, 1),  # the agent wrote a default into the call
        ({"path": "a", "replace_all": False}, False, 2),  # another call
        ({"path": "b"}, True, 2),  # the agent changed what was sampled
        ({}, True, 2),
    ],
)
def test_arguments_that_the_agent_completed_are_the_same_reply(
    codecs: dict[str, ChatCodec], echoed: dict[str, Any], same_id: bool, roots: int
) -> None:
    async def main() -> Trajectory:
        text = '<tool_call>\n{"name": "edit", "arguments": {"path": "a"}}\n</tool_call>'
        engine = ScriptedEngine(codecs["chatml"], [text, "done"])
        limits = SessionLimits(prompt_length=2000, response_length=500, max_tokens_per_turn=100)
        session = Session("s", limits, codec=codecs["chatml"], engine=engine, encode=encode, journal=None)
        tools = [{"type": "function", "function": {"name": "edit", "parameters": {"type": "object"}}}]
        reply = await session.complete(OPENAI.parse({"messages": [USER], "tools": tools}))
        (made,) = reply.parsed.tool_calls
        identity = made.id if same_id else "call_other"
        function = {"name": "edit", "arguments": json.dumps(echoed)}
        echo = {"role": "assistant", "tool_calls": [{"id": identity, "type": "function", "function": function}]}
        answer = {"role": "tool", "tool_call_id": identity, "content": "ok"}
        await session.complete(OPENAI.parse({"messages": [USER, echo, answer], "tools": tools}))
        return await session.close()

    trajectory = asyncio.run(main())
    assert len(trajectory.samples) == roots
    assert trajectory.accounting.trained == trajectory.accounting.sampled
