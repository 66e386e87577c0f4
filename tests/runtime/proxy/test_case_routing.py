"""Case 38: the experts that a mixture's layers chose come with every token, one row each, in every sample (R3)."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path
from typing import Any

import pytest

from runtime.config import Proxy
from runtime.proxy.codec import ChatCodec
from runtime.proxy.journal import read_journal
from runtime.proxy.server import ProxyServer
from runtime.proxy.types import Trajectory
from runtime.proxy.upstream import VLLMEngine
from runtime.rollouter.engine import SamplingParams
from tests.runtime.proxy.conftest import LIMITS, Running
from tests.runtime.proxy.driver import GO, TOOL, USER, chat, openai, send
from tests.runtime.proxy.fake_vllm import FakeVLLM
from tests.runtime.proxy.scripted_engine import MixtureEngine, ScriptedEngine, aligned


async def converse(codec: ChatCodec, *, delta: bool, journal: Path) -> tuple[Trajectory, MixtureEngine]:
    """Turns that go on, are asked for again, resumed after a weight update and cut at a stop text."""
    engine = MixtureEngine(codec)
    engine.delta = delta
    half = engine.generation(engine.split("Half "), "abort")
    engine._queue = ["one", "two", "another two", half, "three", "four stop five", "six"]
    server = ProxyServer(Proxy(), codec, engine, journal=journal)
    await server.start()
    try:
        it = Running(server, engine, server.open_session("task.1.0", LIMITS))
        history: list[Any] = [USER, await openai(it, chat([USER])), GO]
        await openai(it, chat(history))
        history += [await openai(it, chat(history)), GO]
        history += [await openai(it, chat(history)), GO]
        history += [await openai(it, chat(history, stop=["stop"])), GO]
        await openai(it, chat(history, tools=[TOOL]))
        return await server.close_session("task.1.0"), engine
    finally:
        await server.close()


@pytest.mark.parametrize("delta", [True, False])
def test_case_38_rows_of_routed_experts_stay_with_their_tokens(
    codecs: dict[str, ChatCodec], tmp_path: Path, delta: bool
) -> None:
    path = tmp_path / "journal.jsonl"
    trajectory, engine = asyncio.run(converse(codecs["compact"], delta=delta, journal=path))
    assert trajectory.samples and all(aligned(sample) for sample in trajectory.samples)
    assert len(trajectory.samples[0].response_ids) > 20
    # Nothing is asked for twice: each call wants the rows from the last token of the one before.
    known = [len(call.prompt_ids) + len(call.generation.token_ids) - 1 for call in engine.calls if call.generation]
    assert engine.starts[:5] == [0, known[0], known[0], known[2], known[3]]
    kept = [record["routing"]["rows"] for record in read_journal(path) if record["event"] == "turn"]
    first = trajectory.samples[0].routed_experts
    assert first is not None and first.rows.startswith(base64.b64decode(kept[0]))
    assert b"routed_experts" not in trajectory.to_json()


def test_case_38_rows_that_do_not_fit_their_tokens_are_rejected(codecs: dict[str, ChatCodec]) -> None:
    async def main() -> None:
        engine = MixtureEngine(codecs["compact"], ["one"])
        engine.wrong = 1
        server = ProxyServer(Proxy(), codecs["compact"], engine)
        await server.start()
        try:
            it = Running(server, engine, server.open_session("task.1.0", LIMITS))
            status, answer = await send(it, "/v1/chat/completions", chat([USER]))
            assert status == 503 and b"the experts of tokens 0 to" in answer
            trajectory = await server.close_session("task.1.0")
            assert trajectory.turns == () and trajectory.mismatches == 1
        finally:
            await server.close()

    asyncio.run(main())


def test_case_38_a_turn_without_rows_leaves_its_samples_without(codecs: dict[str, ChatCodec]) -> None:
    async def main() -> None:
        engine = ScriptedEngine(codecs["compact"], ["one"])
        server = ProxyServer(Proxy(), codecs["compact"], engine)
        await server.start()
        try:
            it = Running(server, engine, server.open_session("task.1.0", LIMITS))
            await openai(it, chat([USER]))
            (sample,) = (await server.close_session("task.1.0")).samples
            assert sample.routed_experts is None
        finally:
            await server.close()

    asyncio.run(main())


def test_case_38_vllms_rows_are_read(codecs: dict[str, ChatCodec]) -> None:
    import numpy as np

    async def main() -> None:
        fake = FakeVLLM(lambda prompt: [7, 8], generate=True)
        stop = SamplingParams(max_tokens=2)
        async with fake.serve() as url:
            engine = VLLMEngine(url)
            given = np.arange(4 * 3 * 2, dtype=np.uint16).reshape(4, 3, 2)
            buffer = io.BytesIO()
            np.save(buffer, given)
            fake.routed_experts = base64.b64encode(buffer.getvalue()).decode()
            routing = (await engine.generate([1, 2, 3], stop, session="s")).routing
            assert routing is not None
            assert (routing.shape, routing.end, routing.item_bytes) == ((3, 2), 4, 2)
            assert routing.since(2).rows == given[2:].tobytes()
            fake.routed_experts = base64.b64encode(b"nothing").decode()
            with pytest.raises(Exception, match="routed experts that are no array"):
                await engine.generate([1, 2, 3], stop, session="s")
            await engine.close()

    asyncio.run(main())
