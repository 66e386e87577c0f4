"""The proxy's own limits come from the spec: each one set to another value changes what the proxy does."""

from __future__ import annotations

import asyncio
import json
from typing import Any, get_args

import aiohttp
import pytest

from runtime.config import Proxy
from runtime.config.proxy import Proxy as ProxySpec
from runtime.errors import Termination, TrialError
from runtime.proxy import volatile
from tests.runtime.proxy.conftest import LIMITS, Run, Running
from tests.runtime.proxy.driver import GO, USER, chat, claude, send


def test_spec_and_runtime_agree_on_names_defaults_and_rules() -> None:
    assert ProxySpec().model_dump() == Proxy().model_dump()
    assert set(Proxy().volatile_rules) == volatile.ALL
    for model in (Proxy, ProxySpec):
        annotation = model.model_fields["volatile_rules"].annotation
        assert set(get_args(get_args(annotation)[0])) == volatile.ALL


def test_a_full_proxy_and_one_without_replicas_say_how_long_to_wait(running: Run) -> None:
    down = TrialError(Termination.MODEL_UNAVAILABLE, "no replica takes calls")
    hold = asyncio.Event()

    async def script(call: Any) -> str:
        await hold.wait()
        return "late"

    async def status(it: Running) -> tuple[int, str | None]:
        url, key = it.url + "/v1/chat/completions", {"x-api-key": it.session.secret}
        async with aiohttp.ClientSession() as client, client.post(url, json=chat([USER]), headers=key) as response:
            return response.status, response.headers.get("retry-after")

    async def main() -> None:
        async with running([down], retry_after_sec=7) as it:
            assert await status(it) == (503, "7")
        async with running(script, retry_after_sec=9, max_in_flight=2) as it:
            waiting = [asyncio.create_task(status(it)) for _ in range(2)]
            while len(it.engine.calls) < 2:
                await asyncio.sleep(0.01)
            assert await asyncio.gather(*(status(it) for _ in range(5))) == [(503, "9")] * 5
            assert len(it.engine.calls) == 2, "nothing is queued behind a full proxy"
            hold.set()
            assert [code for code, _ in await asyncio.gather(*waiting)] == [200, 200]
            assert (await status(it))[0] == 200, "the places are free again"

    asyncio.run(main())


def test_sessions_are_bounded(running: Run) -> None:
    async def main() -> None:
        async with running([], max_sessions=2) as it:
            it.server.open_session("second", LIMITS)
            with pytest.raises(ValueError, match="2 sessions are open already"):
                it.server.open_session("third", LIMITS)
            await it.server.close_session("second")
            it.server.open_session("third", LIMITS)

    asyncio.run(main())


def test_a_slow_body_ends_at_its_limit(running: Run) -> None:
    async def main() -> None:
        async with running([], body_timeout_sec=0.2) as it:
            reader, writer = await asyncio.open_connection(it.server.host, it.server.port)
            head = f"POST {it.session.base_path}/v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n"
            writer.write(f"{head}x-api-key: {it.session.secret}\r\n\r\n{{".encode())
            answer = await asyncio.wait_for(reader.read(), 10)
            assert answer.startswith(b"HTTP/1.1 408") and b"longer than 0.2 seconds" in answer
            writer.close()

    asyncio.run(main())


def test_keepalives_come_at_their_pause(running: Run) -> None:
    async def slow(call: Any) -> str:
        await asyncio.sleep(0.5)
        return "late"

    async def main() -> None:
        async with running(slow, keepalive_sec=0.05) as it:
            _, answer = await send(it, "/v1/chat/completions", chat([USER], stream=True))
            assert 3 <= answer.count(b": keepalive\n") <= 11

    asyncio.run(main())


@pytest.mark.parametrize(("rules", "turns"), [(("billing-header",), 2), ((), 1)], ids=["dropped", "kept"])
def test_volatile_lines_are_the_specs_choice(running: Run, rules: tuple[str, ...], turns: int) -> None:
    def body(number: int, messages: list[Any]) -> dict[str, Any]:
        return claude(messages, system=f"x-anthropic-billing-header: cch={number};\nYou repair code.")

    async def main() -> None:
        async with running(["one", "two"], volatile_rules=rules) as it:
            _, raw = await send(it, "/v1/messages", body(1, [USER]))
            said = {"role": "assistant", "content": json.loads(raw)["content"]}
            await send(it, "/v1/messages", body(2, [USER, said, GO]))
            text = it.engine.codec.tokens.decode(it.engine.calls[0].prompt_ids)
            assert ("cch=1" in text) == (not rules)
            trajectory = await it.server.close_session("task.1.0")
            longest = max(sum(sample.response_mask) for sample in trajectory.samples)
            assert len(trajectory.samples) == 3 - turns
            assert (longest == trajectory.accounting.trained) == (turns == 2)

    asyncio.run(main())


@pytest.mark.parametrize(("limit", "kind"), [(16, "auxiliary"), (0, "policy")])
def test_what_counts_as_a_side_call(running: Run, limit: int, kind: str) -> None:
    async def main() -> None:
        async with running(["a", "b"], side_call_tokens=limit) as it:
            await send(it, "/v1/chat/completions", {"model": "p", "messages": [USER], "max_tokens": 1})
            await send(it, "/v1/chat/completions", {"model": "p", "messages": [GO]})
            assert [turn.kind for turn in it.session.trajectory().turns] == [kind, "policy"]

    asyncio.run(main())
