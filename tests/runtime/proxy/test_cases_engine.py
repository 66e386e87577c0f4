"""Cases 25, 26, 31, 32, 38: what engines do wrong, and what the record says of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.config import Proxy
from runtime.errors import Termination, TrialError
from runtime.proxy.codec import ChatCodec
from runtime.proxy.server import ProxyServer
from runtime.rollouter.engine import Generation, WeightIdentity
from runtime.rollouter.pool import ReplicaPool
from tests.runtime.proxy.conftest import LIMITS, Run, Running
from tests.runtime.proxy.driver import GO, USER, chat, continues, openai, send
from tests.runtime.proxy.scripted_engine import ScriptedEngine


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -9999.0, None])
def test_case_25_unusable_logprobs_make_the_turn_context(running: Run, value: Any) -> None:
    async def main() -> None:
        async with running([Generation([5, 6], [-0.1, value], [0, 0], "stop"), "two"], family="compact") as it:
            said = await openai(it, chat([USER]))
            await openai(it, chat([USER, said, GO]))
            assert continues(it, 1, 0)
            trajectory = await it.server.close_session("task.1.0")
            (sample,) = trajectory.samples
            assert sample.response_ids[:2] == [5, 6] and sample.response_mask[:2] == [0, 0]
            assert sample.response_logprobs[:2] == [0.0, 0.0] and sample.weight_versions[:2] == [-1, -1]
            assert (trajectory.mismatches, trajectory.accounting.lost) == (1, 2)

    asyncio.run(main())


def test_case_26_lists_of_other_lengths_are_rejected(running: Run) -> None:
    async def main() -> None:
        async with running([Generation([5, 6], [-0.1], [0, 0], "stop")]) as it:
            assert (await send(it, "/v1/chat/completions", chat([USER])))[0] == 503
            assert (await it.server.close_session("task.1.0")).turns == ()

    asyncio.run(main())


def test_case_31_a_weight_sync_in_mid_turn_leaves_two_versions_in_one_reply(running: Run) -> None:
    async def main() -> None:
        async with running([], family="compact") as it:
            engine = it.engine
            assert engine._queue is not None
            engine.version = 3
            engine._queue.append(engine.generation(engine.split("Half "), "abort"))
            engine.version = 4
            engine._queue.append(engine.generation([*engine.split("done"), engine.codec.stop_token_ids[0]]))
            assert (await openai(it, chat([USER], max_tokens=50)))["content"] == "Half done"
            first, second = engine.calls
            assert first.generation is not None
            assert second.params.max_tokens == 50 - len(first.generation.token_ids)
            (turn,) = it.session.trajectory().turns
            assert turn.weight_versions == (3, 4)

    asyncio.run(main())


class MortalReplica(ScriptedEngine):
    """Dies when the script says so."""

    alive = True

    async def identity(self) -> WeightIdentity:
        if not self.alive:
            raise TrialError(Termination.MODEL_UNAVAILABLE, "gone")
        return WeightIdentity(0, "x")

    async def update_weights(self, state: Any, *, version: int) -> str:
        return "x"

    async def abort_all(self) -> int:
        return 0


def test_case_32_a_replica_that_dies_in_mid_turn_is_replaced_by_another(codecs: dict[str, ChatCodec]) -> None:
    async def main() -> None:
        codec = codecs["compact"]
        replicas: dict[str, MortalReplica] = {}

        def die(name: str) -> Any:
            def script(call: Any) -> Any:
                others = [replica for other, replica in replicas.items() if other != name]
                if all(replica.alive for replica in others) and call.prompt_ids == first_prompt(name):
                    replicas[name].alive = False
                    return TrialError(Termination.MODEL_UNAVAILABLE, "connection reset")
                return f"from {name}"

            return script

        def first_prompt(name: str) -> list[int]:
            return replicas[name].calls[0].prompt_ids

        for name in ("a", "b"):
            replicas[name] = MortalReplica(codec, die(name))
        server = ProxyServer(Proxy(), codec, ReplicaPool(replicas))
        await server.start()
        try:
            it = Running(server, replicas["a"], server.open_session("task.1.0", LIMITS))
            said = await openai(it, chat([USER]))
            dead, alive = ("a", "b") if not replicas["a"].alive else ("b", "a")
            assert said["content"] == f"from {alive}"
            assert replicas[dead].calls[0].prompt_ids == replicas[alive].calls[0].prompt_ids
            await openai(it, chat([USER, said, GO]))
            assert (len(replicas[dead].calls), len(replicas[alive].calls)) == (1, 2), "the session has a new home"
            assert (await server.close_session("task.1.0")).failure is None
        finally:
            await server.close()

    asyncio.run(main())
