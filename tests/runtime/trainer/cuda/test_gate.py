"""The gate over real HTTP, in front of an engine that does as it is told; the client is the agent loop's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import pytest
import uvicorn

from runtime.errors import Termination, TrialError
from runtime.rollouter.engine import SamplingParams, WeightIdentity
from runtime.rollouter.pool import ReplicaPool
from runtime.trainer.cuda import gate
from runtime.trainer.cuda.engine import GatedEngine

PARAMS = SamplingParams(max_tokens=4, stop_token_ids=(1,))


class Engine:
    """Implements ``gate.Server`` and, for every call, ``gate.Call``."""

    def __init__(self, reply: Callable[[gate.Request], gate.Reply]) -> None:
        self.weights, self.key, self.dead = gate.ServedWeights(), "the word", ""
        self._reply = reply
        self.open = True
        self.admitting = self.running = 0
        self.release = asyncio.Event()
        self.release.set()

    def why_dead(self) -> str:
        return self.dead

    async def admit(self, request: str) -> bool:
        await self.weights.wait()
        self.admitting += self.open
        return self.open

    def landed(self) -> None:
        self.admitting -= 1

    async def start(self, request: gate.Request) -> gate.Call:
        if len(request.token_ids) > 8:
            raise ValueError("the prompt is too long")
        return _Call(self, self._reply(request))


class _Call:
    def __init__(self, engine: Engine, reply: gate.Reply) -> None:
        self._engine, self._reply = engine, reply

    async def reply(self) -> gate.Reply:
        self._engine.running += 1
        try:
            await self._engine.release.wait()
            return self._reply
        finally:
            self._engine.running -= 1


def echo(request: gate.Request) -> gate.Reply:
    tokens = request.token_ids[: request.sampling_params.max_tokens]
    return gate.Reply(tokens, [-0.5] * len(tokens), "length", cached_tokens=3)


@asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[str]:
    """As verl serves vLLM's application, of which the gate lets nothing through."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan", "something reached vLLM's own application"
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    gate.stand_before(engine)
    server = uvicorn.Server(uvicorn.Config(gate.Gate(application), port=0, log_level="warning"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        await task


def test_a_reply_has_tokens_log_probabilities_the_end_and_the_version() -> None:
    async def main() -> None:
        engine = Engine(echo)
        engine.weights.settle(7, sent="abc", served="abc")
        async with serving(engine) as url:
            client = GatedEngine(url, api_key=engine.key)
            found = await client.generate([5, 6, 7], PARAMS, session="s")
            assert (found.token_ids, found.logprobs, found.weight_versions) == ([5, 6, 7], [-0.5] * 3, [7, 7, 7])
            assert found.finish_reason == "length" and found.cached_tokens == 3
            assert await client.identity() == WeightIdentity(7, "abc")
            assert engine.admitting == 0
            await client.close()

    asyncio.run(main())


def test_routing_rows_pass_as_they_are() -> None:
    rows = np.arange(24, dtype=np.uint8).reshape(3, 4, 2)

    async def main() -> None:
        engine = Engine(lambda request: gate.Reply([1], [-0.1], "stop", routed_experts=rows))
        engine.weights.settle(0, sent="", served="")
        async with serving(engine) as url:
            client = GatedEngine(url, api_key=engine.key)
            found = await client.generate([5, 6, 7], PARAMS, session="s")
            assert found.routing is not None and found.routing.shape == (4, 2)
            assert found.routing.rows == rows.tobytes()
            await client.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/inference/v1/generate"),
        ("GET", "/liverl/identity"),
        ("GET", "/health"),
        ("GET", "/v1/models"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/collective_rpc"),
        ("OPTIONS", "/v1/models"),
    ],
)
def test_without_the_key_nothing_is_answered_and_with_it_nothing_else(method: str, path: str) -> None:
    async def main() -> None:
        engine = Engine(echo)
        engine.weights.settle(0, sent="", served="")
        async with serving(engine) as url, aiohttp.ClientSession() as client:
            for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": engine.key}):
                async with client.request(method, url + path, headers=given, json={}) as response:
                    assert response.status == 401
            right = {"Authorization": f"Bearer {engine.key}"}
            async with client.request(method, url + path, headers=right, json={}) as response:
                known = path in (gate.GENERATE, gate.IDENTITY)
                assert (response.status != 404) is known, await response.text()
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await client.ws_connect(url + "/v1/realtime", headers=right)

    asyncio.run(main())


def test_calls_wait_while_weights_change() -> None:
    async def main() -> None:
        engine = Engine(echo)
        async with serving(engine) as url:
            client = GatedEngine(url, api_key=engine.key)
            early = asyncio.create_task(client.generate([5], PARAMS, session="s"))
            await asyncio.sleep(0.1)
            assert not early.done(), "it was answered before any weights had arrived"
            assert (await client.identity()).version == -1
            engine.weights.settle(1, sent="a", served="a")
            assert (await early).weight_versions == [1]
            engine.weights.begin()
            second = asyncio.create_task(client.generate([5], PARAMS, session="s"))
            await asyncio.sleep(0.1)
            engine.weights.settle(2, sent="b", served="b")
            assert (await second).weight_versions == [2]
            await client.close()

    asyncio.run(main())


def test_a_replica_with_other_weights_gets_no_calls() -> None:
    async def main() -> None:
        good, bad = Engine(echo), Engine(echo)
        good.weights.settle(3, sent="right", served="right")
        assert not bad.weights.settle(3, sent="right", served="wrong")
        async with serving(good) as first, serving(bad) as second:
            pool = ReplicaPool({url: GatedEngine(url, api_key="the word") for url in (first, second)})
            for number in range(4):
                assert (await pool.generate([5], PARAMS, session=str(number))).weight_versions == [3]
            lost = GatedEngine(second, api_key="the word")
            with pytest.raises(TrialError, match="serves wrong, not right"):
                await lost.identity()
            await lost.close()
            await pool.close()

    asyncio.run(main())


def test_failures_are_told_apart() -> None:
    async def main() -> None:
        engine = Engine(echo)
        engine.weights.settle(0, sent="", served="")
        async with serving(engine) as url:
            client = GatedEngine(url, api_key=engine.key)
            with pytest.raises(ValueError, match="the prompt is too long"):
                await client.generate([5] * 9, PARAMS, session="s")
            engine.open = False
            with pytest.raises(TrialError, match="takes no calls now") as refused:
                await client.generate([5], PARAMS, session="s")
            assert refused.value.termination is Termination.MODEL_UNAVAILABLE
            engine.dead = "the engine has died"
            with pytest.raises(TrialError, match="has died"):
                await client.identity()
            assert engine.admitting == 0
            await client.close()

    asyncio.run(main())


def test_a_client_that_leaves_ends_its_call() -> None:
    async def main() -> None:
        engine = Engine(echo)
        engine.weights.settle(0, sent="", served="")
        engine.release.clear()
        async with serving(engine) as url:
            client = GatedEngine(url, api_key=engine.key)
            call = asyncio.create_task(client.generate([5], PARAMS, session="s"))
            while not engine.running:
                await asyncio.sleep(0.01)
            call.cancel()
            async with asyncio.timeout(10):
                while engine.running:
                    await asyncio.sleep(0.01)
            await client.close()

    asyncio.run(main())
