"""Several vLLM servers behind one engine, over real sockets: loss, hanging, failing and busy ones, drain, return."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from runtime.errors import MachineError, TrialError, UserError
from runtime.proxy.upstream import VLLMEngine, connect
from runtime.rollouter.balanced import BalancedEngine, HealthChecks
from runtime.rollouter.engine import Generation, SamplingParams, WeightIdentity
from runtime.rollouter.pool import ReplicaPool
from runtime.telemetry.waits import read_waits
from tests.runtime.proxy.fake_vllm import FakeVLLM

PARAMS = SamplingParams(max_tokens=3, stop_token_ids=(9,))
QUICK = HealthChecks(interval_sec=0.05, timeout_sec=0.3, misses=2, patience_sec=0.2)


class Server(FakeVLLM):
    """Replies with its own number as token. ``mood``: "well"; "failing": 500 to every call; "refusing": 400; "hanging":
    nothing is answered any more; "slow": calls take their time.
    """

    def __init__(self, number: int) -> None:
        super().__init__(lambda prompt: [number, 9], generate=True)
        self.mood = "well"
        self.cut = 0
        self.app.router.add_get("/health", self._health)
        self.app.middlewares.append(self._moody)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    @web.middleware
    async def _moody(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.mood == "hanging" or (self.mood == "slow" and request.path != "/health"):
            try:
                await asyncio.sleep(0.2 if self.mood == "slow" else 60)
            except asyncio.CancelledError:
                self.cut += 1
                raise
        if request.path.endswith("generate") and request.content_length != 2:
            if self.mood == "failing":
                raise web.HTTPInternalServerError(text="cuda error")
            if self.mood == "refusing":
                raise web.HTTPBadRequest(text="token id out of range")
        response: web.StreamResponse = await handler(request)
        return response


@asynccontextmanager
async def balanced(
    servers: list[Server], *, checks: HealthChecks = QUICK, **config: Any
) -> AsyncIterator[tuple[BalancedEngine[VLLMEngine], dict[str, Server]]]:
    """The engine, and the servers by their names in it."""
    async with AsyncExitStack() as stack:
        by_url = {await stack.enter_async_context(server.serve()): server for server in servers}
        engines = {url: VLLMEngine(url) for url in by_url}
        for engine in engines.values():
            await engine.connect()
        one = BalancedEngine(engines, config=config, checks=checks)
        stack.push_async_callback(one.close)
        yield one, by_url


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))


async def ask(engine: BalancedEngine[VLLMEngine], *sessions: str) -> list[int]:
    """Which servers answered."""
    replies: list[Generation] = await asyncio.gather(
        *(engine.generate([1, 2], PARAMS, session=session) for session in sessions)
    )
    return [reply.token_ids[0] for reply in replies]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


SESSIONS = [f"session-{number}" for number in range(12)]


def test_sessions_spread_and_stay() -> None:
    async def scenario() -> None:
        async with balanced([Server(number) for number in range(4)]) as (engine, _):
            homes = await ask(engine, *SESSIONS)
            assert set(Counter(homes).values()) == {3}
            assert await ask(engine, *SESSIONS) == homes
            engine.end_session(SESSIONS[0])
            assert sum(engine.status()["sessions"].values()) == 11

    run(scenario)


def test_a_hanging_server_loses_its_calls_to_others_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with balanced([Server(number) for number in range(3)]) as (engine, servers):
            homes = dict(zip(SESSIONS, await ask(engine, *SESSIONS), strict=True))
            url, lost = next((url, one) for url, one in servers.items() if one.reply([])[0] == homes[SESSIONS[0]])
            number = homes[SESSIONS[0]]
            lost.mood = "hanging"
            replies = await ask(engine, *SESSIONS)
            for session, reply in zip(SESSIONS, replies, strict=True):
                assert reply == homes[session] or (homes[session] == number and reply != number)
            assert engine.status()["health"][url] == "open"
            await until(lambda: lost.cut >= 4)
            lost.mood = "well"
            await until(lambda: engine.status()["health"][url] == "closed")
            assert await ask(engine, *SESSIONS) == replies, "sessions stay in their new homes"
            assert number in await ask(engine, *(f"new-{n}" for n in range(12)))
            assert engine.status()["total_inflight"] == 0

    with caplog.at_level(logging.WARNING):
        run(scenario)
    assert "does not answer; its calls go to others" in caplog.text and "is back" in caplog.text


def test_a_server_that_fails_calls_is_broken_tried_again_and_taken_back() -> None:
    async def scenario() -> None:
        servers = [Server(0), Server(1)]
        async with balanced(servers, breaker_failures=3, breaker_pause_sec=0.2) as (engine, by_url):
            url = next(url for url, server in by_url.items() if server is servers[0])
            servers[0].mood = "failing"
            assert set(await ask(engine, *SESSIONS)) == {1}, "every call gets its reply from the other one"
            assert engine.status()["health"][url] == "open", "although it answers health checks"
            failed = len(servers[0].requests)
            await ask(engine, *SESSIONS)
            assert len(servers[0].requests) == failed, "no call goes there"
            await asyncio.sleep(0.25)
            assert engine.status()["health"][url] == "half_open"
            servers[0].mood = "well"
            assert 0 in await ask(engine, *(f"new-{number}" for number in range(4)))
            assert engine.status()["health"][url] == "closed"

    run(scenario)


def test_a_request_that_is_wrong_is_not_tried_elsewhere_and_breaks_nobody() -> None:
    async def scenario() -> None:
        servers = [Server(0), Server(1)]
        async with balanced(servers) as (engine, _):
            for server in servers:
                server.mood = "refusing"
            for _ in range(5):
                with pytest.raises(ValueError, match="answered 400: token id out of range"):
                    await engine.generate([1], PARAMS, session="s")
            assert set(engine.status()["health"].values()) == {"closed"}
            assert engine.status()["total_inflight"] == 0

    run(scenario)


def test_when_all_fail_the_call_says_what_was_tried_and_the_next_ones_wait_only_so_long() -> None:
    async def scenario() -> None:
        servers = [Server(0), Server(1)]
        async with balanced(servers, breaker_failures=1, breaker_pause_sec=30) as (engine, _):
            for server in servers:
                server.mood = "failing"
            with pytest.raises(TrialError, match=r"answered 500.*\(tried: http.*, http.*\)"):
                await ask(engine, "a")
            with pytest.raises(
                TrialError, match=r"no replica takes calls: (http.* is open \(http.* answered 500: .*){2}"
            ):
                await ask(engine, "b")

    run(scenario)


def test_a_call_after_connections_that_the_server_has_dropped_gets_one_of_its_own() -> None:
    async def scenario() -> None:
        server, seen = Server(0), set[int]()

        @web.middleware
        async def once(request: web.Request, handler: Any) -> web.StreamResponse:
            transport = request.transport
            assert transport is not None
            if request.path.endswith("generate") and request.content_length != 2:
                if id(transport) in seen:
                    transport.abort()
                seen.add(id(transport))
                kept.append(transport)
                await asyncio.sleep(0.05)  # so that each call of a volley has a connection
            answer: web.StreamResponse = await handler(request)
            return answer

        kept: list[Any] = []
        server.app.middlewares.append(once)
        async with balanced([server]) as (engine, _):
            assert await ask(engine, *SESSIONS) == [0] * 12
            assert await ask(engine, *SESSIONS) == [0] * 12, "although every pooled connection is dead"
            assert len(seen) == 24

    run(scenario)


def test_drain_waits_for_what_a_server_holds() -> None:
    async def scenario() -> None:
        servers = [Server(0), Server(1)]
        async with balanced(servers) as (engine, by_url):
            for server in servers:
                server.mood = "slow"
            calls = asyncio.gather(*(ask(engine, name) for name in SESSIONS))
            url = next(iter(by_url))
            await until(lambda: engine.status()["servers"][url] == 6)
            await engine.drain(url)
            assert engine.status()["servers"][url] == 0
            assert Counter(reply for (reply,) in await calls) == {0: 6, 1: 6}, "none was cut"
            assert set(await ask(engine, *SESSIONS)) == {1}
            removed = engine.remove(url)
            assert removed is not None
            await removed.close()
            await engine.drain(next(name for name in by_url if name != url))
            with pytest.raises(TrialError, match="no replica takes calls"):
                await ask(engine, "a")

    run(scenario)


def test_a_cancelled_call_frees_its_server_and_its_place() -> None:
    async def scenario() -> None:
        server = Server(0)
        async with balanced([server], checks=HealthChecks()) as (engine, _):
            server.mood = "hanging"
            call = asyncio.create_task(ask(engine, "a"))
            await until(lambda: engine.status()["total_inflight"] == 1)
            await asyncio.sleep(0.05)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert engine.status()["total_inflight"] == 0
            await until(lambda: server.cut >= 1)

    run(scenario)


def test_servers_of_different_models_or_of_none_are_refused_at_the_start() -> None:
    async def scenario() -> None:
        one, other = Server(0), Server(1)
        other.model = "other"
        other.max_model_len = 100
        async with one.serve() as first, other.serve() as second:
            with pytest.raises(UserError, match=r"serves tiny, .* serves other; give replicas of one model"):
                await connect([first, second])
            with pytest.raises(UserError, match="give every server once"):
                await connect([first, first])
            with pytest.raises(MachineError, match=r"no engine answers at http://127\.0\.0\.1:9"):
                await connect([first, "http://127.0.0.1:9"])
            other.model = "tiny"
            engine, served = await connect([first, second])
            try:
                assert served.context_length == 100, "the shortest of them"
                assert sorted(await ask(engine, "a", "b")) == [0, 1]
            finally:
                await engine.close()

    run(scenario)


def test_a_pooled_connection_that_breaks_under_a_long_request_is_replaced() -> None:
    """The server hangs up on a kept connection while the request's body is still on its way, and takes the next one."""

    async def main() -> None:
        broken: list[int] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            number = 0
            try:
                while head := await reader.readuntil(b"\r\n\r\n"):
                    number += 1
                    length = int(next(iter(re.findall(rb"(?i)content-length: (\d+)", head)), b"0"))
                    if length > 500_000 and number > 1:
                        broken.append(number)
                        writer.transport.abort()
                        return
                    body = await reader.readexactly(length)
                    status, answer = b"200 OK", b'{"data": [{"id": "tiny"}]}'
                    if body == b"{}":
                        status = b"400 Bad Request"
                    elif body:
                        answer = b"""{"request_id": "r", "prompt_logprobs": null, "choices": [{"index": 0,
                            "token_ids": [7, 9], "finish_reason": "stop", "logprobs": {"content": [
                            {"token_id": 7, "logprob": -0.5, "rank": 1, "top_logprobs": [{"logprob": -3.0}]},
                            {"token_id": 9, "logprob": null}]}}]}"""
                    writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(answer), answer))
            except asyncio.IncompleteReadError:
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        engine = VLLMEngine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        try:
            await engine.connect()
            generation = await engine.generate([123_456] * 140_000, PARAMS, session="s")
        finally:
            await engine.close()
            server.close()
            await server.wait_closed()
        assert len(broken) == 1, "the first attempt met a connection that broke"
        assert (generation.token_ids, generation.finish_reason) == ([7, 9], "stop")
        assert generation.logprobs == [-0.5, None], "of each entry its own value; what is missing stays visible"

    asyncio.run(main())


def test_a_replica_that_does_not_say_what_it_serves_holds_nobody_up(tmp_path: Path) -> None:
    """It accepts and never answers, while weights are compared and so no call may start."""

    class Replica:
        def __init__(self) -> None:
            self.silent = False

        async def identity(self) -> WeightIdentity:
            if self.silent:
                await asyncio.Event().wait()
            return WeightIdentity(2, "print")

        async def generate(self, prompt_ids: Any, params: SamplingParams, *, session: str) -> Generation:
            return Generation([9], [-1.0], [2], "stop")

        async def abort_all(self) -> int:
            return 0

        async def close(self) -> None: ...

    async def scenario() -> None:
        replicas = {"a": Replica(), "b": Replica()}
        pool = ReplicaPool(replicas, checks=QUICK, waits=tmp_path)
        replicas["b"].silent = True
        comparing = asyncio.create_task(pool.verify(WeightIdentity(2, "print")))
        await asyncio.sleep(QUICK.timeout_sec / 3)
        (wait,) = read_waits(tmp_path)
        assert wait.words(wait.since) == "waiting 0 s for a, b to say that version 2 is there (pool; at most 0 s)"
        assert not await comparing and pool.status()["health"] == {"a": "closed", "b": "open"}
        assert not read_waits(tmp_path) and (await pool.generate([1], PARAMS, session="s")).token_ids == [9]
        replicas["b"].silent = False
        await pool.check()
        assert pool.status()["health"] == {"a": "closed", "b": "closed"}
        await pool.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))
