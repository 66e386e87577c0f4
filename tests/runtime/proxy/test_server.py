from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from runtime.config import Proxy
from runtime.errors import MachineError, Termination, TrialError
from runtime.proxy.codec import ChatCodec
from runtime.proxy.journal import Journal, read_journal
from runtime.proxy.server import ProxyServer
from runtime.proxy.types import SessionLimits
from runtime.rollouter.engine import Generation
from tests.runtime.proxy.conftest import LIMITS, OPERATOR, Run, Running
from tests.runtime.proxy.scripted_engine import Call, ScriptedEngine

USER = {"role": "user", "content": "Fix it."}
TOOL = {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}


def chat(messages: list[Any], **more: Any) -> dict[str, Any]:
    return {"model": "policy", "messages": messages, "tools": [TOOL], **more}


async def post(
    it: Running, body: Any, *, path: str = "/v1/chat/completions", secret: str | None = None, **headers: str
) -> tuple[int, Any, Any]:
    """One request: status, parsed body, headers."""
    key = it.session.secret if secret is None else secret
    async with (
        aiohttp.ClientSession() as client,
        client.post(it.url + path, json=body, headers={"Authorization": f"Bearer {key}", **headers}) as response,
    ):
        return response.status, json.loads(await response.read()), response.headers


def test_only_the_secret_opens_a_session(running: Run) -> None:
    async def main() -> None:
        async with running(["a", "b"]) as it:
            assert (await post(it, chat([USER]), secret="wrong"))[0] == 401
            assert (await post(it, chat([USER]), secret=""))[0] == 401
            other = it.server.open_session("task.1.1", LIMITS)
            assert (await post(it, chat([USER]), secret=other.secret))[0] == 401
            async with aiohttp.ClientSession() as client:
                url = f"http://{it.server.host}:{it.server.port}/s/unknown/v1/chat/completions"
                for headers in ({}, {"Authorization": "Bearer "}, {"x-api-key": it.session.secret}):
                    async with client.post(url, json=chat([USER]), headers=headers) as response:
                        assert response.status == 401
                        assert (await response.json())["error"]["code"] == "invalid_api_key"
                headers = {"X-Api-Key": it.session.secret}
                async with client.post(it.url + "/v1/chat/completions", json=chat([USER]), headers=headers) as response:
                    assert response.status == 200
            status, body, _ = await post(it, {}, path="/v1/messages", secret="wrong")
            assert (status, body["error"]["type"]) == (401, "authentication_error")

    asyncio.run(main())


def test_closed_sessions_refuse_and_their_ids_can_be_used_again(running: Run) -> None:
    async def main() -> None:
        async with running(["a", "b"]) as it:
            await post(it, chat([USER]))
            trajectory = await it.server.close_session("task.1.0")
            assert trajectory.num_turns == 1
            status, body, headers = await post(it, chat([USER]))
            assert (status, body["error"]["code"], headers["x-should-retry"]) == (409, "session_closed", "false")
            assert (await post(it, chat([USER]), secret="wrong"))[0] == 401
            with pytest.raises(KeyError):
                await it.server.close_session("task.1.0")
            it.session = it.server.open_session("task.1.0", LIMITS)
            assert (await post(it, chat([USER])))[0] == 200
            with pytest.raises(ValueError, match="open already"):
                it.server.open_session("task.1.0", LIMITS)
            with pytest.raises(ValueError, match="letters, digits"):
                it.server.open_session("a/b", LIMITS)

    asyncio.run(main())


def test_routes_without_a_key(running: Run) -> None:
    async def main() -> None:
        async with running(["a"]) as it, aiohttp.ClientSession() as client:
            base = f"http://{it.server.host}:{it.server.port}"
            key = {"x-api-key": it.session.secret}
            for method, url, headers, status in (
                ("HEAD", it.url, {}, 200),
                ("HEAD", base + "/s/unknown", {}, 200),
                ("GET", base + "/healthz", {}, 200),
                ("GET", base + "/", {}, 404),
                ("POST", base + "/metrics", {}, 404),
                ("GET", it.url + "/v1/models", {}, 401),
                ("GET", it.url + "/v1/models", key, 200),
                ("GET", it.url + "/v1/messages", key, 405),
                ("POST", it.url + "/v1/embeddings", key, 404),
            ):
                async with client.request(method, url, headers=headers) as response:
                    assert (url, response.status) == (url, status)
            await post(it, chat([USER]))
            await it.server.close_session("task.1.0")
            operator = {"authorization": f"Bearer {OPERATOR}"}
            for headers in ({}, key, {"x-api-key": ""}, {"authorization": "Bearer "}):
                async with client.get(base + "/metrics", headers=headers) as response:
                    assert response.status == 401 and b"tokens" not in await response.read()
            async with client.get(base + "/metrics", headers=operator) as response:
                metrics = await response.text()
            assert 'liverl_proxy_requests_total{dialect="openai",status="200"}' in metrics
            assert 'liverl_proxy_tokens_total{fate="trained"} 2' in metrics
            assert "liverl_proxy_sessions_open 0" in metrics

    asyncio.run(main())


def test_bodies_are_bounded_and_must_be_json_objects(running: Run) -> None:
    async def main() -> None:
        async with running([], max_body_mib=1) as it, aiohttp.ClientSession() as client:
            headers = {"x-api-key": it.session.secret}
            url = it.url + "/v1/chat/completions"
            for data, status in ((b"[]", 400), (b"{", 400), (b"", 400), (b"x" * (1 << 20) + b"xx", 413)):
                async with client.post(url, data=io.BytesIO(data), headers=headers) as response:
                    assert response.status == status
                    assert (await response.json())["error"]["type"] == "invalid_request_error"

    asyncio.run(main())


def test_engine_failures_are_503_and_are_remembered_until_a_reply_succeeds(running: Run) -> None:
    down = TrialError(Termination.MODEL_UNAVAILABLE, "no replica is alive")

    async def main() -> None:
        async with running([down, RuntimeError("bug"), "fine"]) as it:
            status, body, headers = await post(it, chat([USER]))
            assert (status, body["error"]["code"], headers["retry-after"]) == (503, "model_unavailable", "1")
            assert it.session.failure == "no replica is alive"
            status, body, _ = await post(it, {**chat([USER]), "tools": []}, path="/v1/messages")
            assert (status, body["error"]["type"]) == (503, "overloaded_error")
            assert it.session.failure == "RuntimeError: bug"
            assert (await post(it, chat([USER])))[0] == 200
            assert it.session.failure is None

    asyncio.run(main())


def test_lists_that_do_not_belong_together_are_never_trained(running: Run) -> None:
    async def main() -> None:
        generations = [
            Generation([5, 6], [-0.1], [0, 0], "stop"),
            Generation([5, 6], [-0.1, float("nan")], [0, 0], "stop"),
            Generation([7, 8], [-9999.0, -0.1], [0, 0], "stop"),
        ]
        async with running(generations) as it:
            assert (await post(it, chat([USER])))[0] == 503
            assert (await post(it, chat([USER])))[0] == 200
            assert (await post(it, chat([USER])))[0] == 200
            trajectory = await it.server.close_session("task.1.0")
            assert trajectory.samples == ()
            assert trajectory.mismatches == 3
            assert (trajectory.accounting.sampled, trajectory.accounting.lost) == (4, 4)

    asyncio.run(main())


def test_budgets_end_in_length_and_then_in_context_overflow(running: Run) -> None:
    limits = SessionLimits(prompt_length=200, response_length=30, max_tokens_per_turn=20)

    async def main() -> None:
        async with running(["long " * 40, "long " * 40, "never"], family="compact", limits=limits) as it:
            _, first, _ = await post(it, chat([USER]))
            assert first["choices"][0]["finish_reason"] == "length"
            assert first["usage"]["completion_tokens"] == 20
            assert not it.session.overlong
            messages = [USER, first["choices"][0]["message"], {"role": "user", "content": "go"}]
            _, second, _ = await post(it, chat(messages))
            assert second["choices"][0]["finish_reason"] == "length"
            assert second["usage"]["completion_tokens"] < 10
            assert it.session.overlong
            # The cut reply is continued from its own tokens; the template closes it.
            codec, (one, two) = it.engine.codec, it.engine.calls
            assert one.generation is not None
            known = one.prompt_ids + list(one.generation.token_ids)
            assert two.prompt_ids[: len(known)] == known
            assert codec.tokens.decode(two.prompt_ids[len(known) :]) == "<|end|><|user|>go<|end|><|assistant|>"
            messages += [second["choices"][0]["message"], {"role": "user", "content": "go"}]
            status, third, _ = await post(it, chat(messages))
            assert (status, third["error"]["code"]) == (400, "context_length_exceeded")
            trajectory = await it.server.close_session("task.1.0")
            assert [len(sample.response_ids) for sample in trajectory.samples] == [30]
            assert trajectory.overlong and trajectory.num_turns == 2

    asyncio.run(main())


def test_a_first_prompt_that_is_too_long_is_refused(running: Run) -> None:
    async def main() -> None:
        async with running(
            [], limits=SessionLimits(prompt_length=20, response_length=30, max_tokens_per_turn=20)
        ) as it:
            status, body, _ = await post(it, chat([{"role": "user", "content": "word " * 100}]))
            assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
            assert it.session.overlong

    asyncio.run(main())


def test_an_agent_that_compacts_goes_on(running: Run) -> None:
    """A later conversation may start with more of the agent's own words than a prompt holds; a first one may not."""
    limits = SessionLimits(prompt_length=200, response_length=300, max_tokens_per_turn=30)

    async def main() -> None:
        async with running(["one", "summary", "two"], limits=limits) as it:
            long = {"role": "user", "content": "word " * 60}
            status, _, _ = await post(it, chat([long]))
            assert status == 400 and it.session.overlong
            _, first, _ = await post(it, chat([USER]))
            assert not it.session.overlong
            history = [USER, first["choices"][0]["message"], {"role": "user", "content": "word " * 250}]
            status, _, _ = await post(it, chat(history))
            assert status == 400 and it.session.overlong
            status, _, _ = await post(it, chat([USER], tools=[]))
            assert status == 200 and it.session.overlong, "a side call is no work"
            status, _, _ = await post(it, chat([long]))
            assert status == 200 and not it.session.overlong
            trajectory = await it.server.close_session("task.1.0")
            one, two = trajectory.samples
            assert len(one.prompt_ids) < 200 == len(two.prompt_ids)
            known = [*two.prompt_ids, *two.response_ids]
            assert known == [*it.engine.calls[-1].prompt_ids, *it.engine.calls[-1].generation.token_ids]  # type: ignore[union-attr]
            assert sum(two.response_mask) == trajectory.turns[-1].completion_tokens

    asyncio.run(main())


def test_sampling_is_the_sessions_business(running: Run) -> None:
    limits = SessionLimits(
        prompt_length=2000, response_length=2000, max_tokens_per_turn=50, temperature=0.7, top_p=0.9, top_k=5, seed=3
    )

    async def main() -> None:
        seeds = []
        for _ in range(2):
            async with running(["a", "b"], limits=limits) as it:
                await post(it, chat([USER], temperature=2, top_p=0.1, max_tokens=10))
                await post(it, chat([USER], max_completion_tokens=5000))
                one, two = (call.params for call in it.engine.calls)
                assert (one.temperature, one.top_p, one.top_k, one.max_tokens) == (0.7, 0.9, 5, 10)
                assert two.max_tokens == 50
                assert one.stop_token_ids == it.engine.codec.stop_token_ids
                seeds.append((one.seed, two.seed))
        assert seeds[0] == seeds[1] and seeds[0][0] != seeds[0][1]

    asyncio.run(main())


def test_a_client_that_leaves_frees_the_engine(running: Run) -> None:
    async def hang(call: Call) -> str:
        await asyncio.sleep(60)
        return "never"

    async def main() -> None:
        async with running(hang) as it:
            for stream in (False, True):
                it.server.app.keepalive_sec = 0.02
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(post(it, chat([USER], stream=stream)), 0.2)
            for _ in range(100):
                if it.engine.cancelled == 2:
                    break
                await asyncio.sleep(0.02)
            assert it.engine.cancelled == 2
            trajectory = await it.server.close_session("task.1.0")
            assert (trajectory.num_turns, trajectory.aborted) == (0, 2)

    asyncio.run(main())


def test_closing_a_session_cancels_its_requests(running: Run) -> None:
    async def hang(call: Call) -> str:
        await asyncio.sleep(60)
        return "never"

    async def main() -> None:
        async with running(hang) as it:
            request = asyncio.create_task(post(it, chat([USER])))
            while not it.engine.calls:
                await asyncio.sleep(0.01)
            trajectory = await it.server.close_session("task.1.0")
            assert (await request)[0] == 409
            assert (trajectory.num_turns, it.engine.cancelled) == (0, 1)

    asyncio.run(main())


def test_an_aborted_generation_is_resumed_within_its_budget(running: Run) -> None:
    async def main() -> None:
        async with running([], family="compact") as it:
            engine = it.engine
            parts = [engine.split("Half "), [], [*engine.split("done"), engine.codec.stop_token_ids[0]]]
            assert engine._queue is not None
            for version, (part, reason) in enumerate(zip(parts, ("abort", "abort", "stop"), strict=True)):
                engine.version = version
                engine._queue.append(engine.generation(part, reason))
            _, body, _ = await post(it, chat([USER], max_tokens=100))
            assert body["choices"][0]["message"]["content"] == "Half done"
            one, two, three = engine.calls
            assert two.prompt_ids == one.prompt_ids + parts[0] == three.prompt_ids
            assert (one.params.max_tokens, three.params.max_tokens) == (100, 100 - len(parts[0]))
            (sample,) = (trajectory := await it.server.close_session("task.1.0")).samples
            assert sample.weight_versions == [0] * len(parts[0]) + [2] * len(parts[2])
            assert trajectory.aborted == 2

    asyncio.run(main())


def test_an_engine_that_only_aborts_is_given_up(running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.proxy.session._MAX_STALLS", 2)

    async def main() -> None:
        async with running(lambda call: Generation([], [], [], "abort")) as it:
            assert (await post(it, chat([USER])))[0] == 503
            assert len(it.engine.calls) == 3

    asyncio.run(main())


def test_the_journal_holds_every_turn_before_its_reply_is_sent(running: Run, tmp_path: Path) -> None:
    path = tmp_path / "journal" / "proxy.jsonl"

    async def main() -> None:
        async with running(["one", "two"], journal=path) as it:
            messages: list[Any] = [USER]
            for turn in range(2):
                _, body, _ = await post(it, chat(messages))
                turns = [record for record in read_journal(path) if record["event"] == "turn"]
                assert [record["seq"] for record in turns] == list(range(turn + 1))
                messages += [body["choices"][0]["message"], {"role": "user", "content": "go"}]
            (sample,) = (await it.server.close_session("task.1.0")).samples
            whole = [token for record in turns for token in record["context_ids"] + record["sampled_ids"]]
            assert whole == sample.prompt_ids + sample.response_ids
            logprobs = [value for record in turns for value in record["logprobs"]]
            assert logprobs == [
                p for p, mask in zip(sample.response_logprobs, sample.response_mask, strict=True) if mask
            ]
            assert [record["event"] for record in read_journal(path)] == [
                "opened",
                *("asked", "turn") * 2,
                "closed",
            ]

    asyncio.run(main())


def test_a_torn_journal_line_is_skipped_and_never_joined_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "proxy.jsonl"
    path.write_bytes(b'{"event":"opened"}\n{"event":"tu')
    journal = Journal(path)
    journal.opened("s", LIMITS)
    journal.close()
    assert [record.get("session") for record in read_journal(path)] == [None, "s"]


def test_a_long_tool_result_does_not_stop_the_loop(running: Run) -> None:
    """The encoder runs in a thread that leaves the GIL free. The bound is relative: test machines are shared."""

    async def main() -> None:
        limits = SessionLimits(prompt_length=500_000, response_length=1000, max_tokens_per_turn=10)
        async with running(["ok"], limits=limits) as it:
            text = Path(json.__file__).read_text() * 40
            ticks = [asyncio.get_running_loop().time()]
            request = asyncio.create_task(post(it, chat([{"role": "user", "content": text}])))
            while not request.done():
                await asyncio.sleep(0.001)
                ticks.append(asyncio.get_running_loop().time())
            assert (await request)[0] == 200
            gaps = [after - before for before, after in pairwise(ticks)]
            assert len(ticks) > 10
            assert max(gaps) < 0.6 * (ticks[-1] - ticks[0])

    asyncio.run(main())


def test_a_port_in_use_says_what_to_do(codecs: dict[str, ChatCodec]) -> None:
    async def main() -> None:
        engine = ScriptedEngine(codecs["compact"], [])
        server = ProxyServer(Proxy(), codecs["compact"], engine)
        await server.start()
        try:
            with pytest.raises(MachineError, match=f"cannot listen on 127.0.0.1:{server.port}") as caught:
                await ProxyServer(Proxy(port=server.port), codecs["compact"], engine).start()
            assert "proxy.port" in caught.value.fix and "--port" in caught.value.fix
            assert f"process {os.getpid()} (" in str(caught.value), "it says who has the port"
        finally:
            await server.close()
            await server.close()
        assert not engine.closed

    asyncio.run(main())


def test_the_proxy_needs_neither_torch_nor_transformers() -> None:
    program = (
        "import sys, runtime.proxy.server, runtime.proxy.codec;"
        "print([name for name in ('torch', 'transformers', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
