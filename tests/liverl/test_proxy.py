"""``liverl proxy`` as a user starts it: a real process, in front of a faithful fake of vLLM on a real socket."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from runtime.proxy.codec import load_codec
from tests.runtime.proxy.fake_vllm import FakeVLLM
from tests.runtime.proxy.tiny_model import write_model


def command(url: str, model: Path, out: Path, *more: str) -> list[str]:
    main = [sys.executable, "-m", "liverl", "proxy", "--engine", url, "--tokenizer", str(model), "-o", str(out)]
    return [*main, "--tool-parser", "compact", *more]


@pytest.mark.parametrize("generate", [True, False], ids=["generate", "completions"])
def test_agents_talk_through_it_and_trajectories_are_written(tmp_path: Path, generate: bool) -> None:
    model, out = write_model(tmp_path / "model", family="compact"), tmp_path / "out"
    codec = load_codec(model, "compact")

    def reply(prompt: list[int]) -> Sequence[int]:
        return [*codec.tokens.encode(f"I have {len(prompt)} tokens."), codec.stop_token_ids[0], 5, 5]

    async def main() -> None:
        fake = FakeVLLM(reply, generate=generate, max_model_len=300)
        fake.api_key = "engine-secret"
        async with fake.serve() as url:
            arguments = command(url, model, out, "--engine-key", "engine-secret", "--admin-key", "admin")
            process = await asyncio.create_subprocess_exec(
                *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            assert process.stdout is not None
            try:
                session = json.loads(await asyncio.wait_for(process.stdout.readline(), 120))
                assert session["model"] == "tiny" and "admin_key" not in session
                await talk(session)
                await control(session["url"])
            finally:
                process.send_signal(signal.SIGINT)
                rest, words = await process.communicate()
            assert await process.wait() == 0
            assert rest == b"", "one line of JSON is all that goes to stdout"
            assert b"for tiny" in words and (b"generate" in words) == generate and b"trajectories in" in words
        assert (
            fake.requests[1][key := "token_ids" if generate else "prompt"][: len(fake.requests[0][key])]
            == (fake.requests[0][key])
        )
        trajectory = json.loads((out / "main.json").read_text())
        (sample,) = trajectory["samples"]
        assert sum(sample["response_mask"]) == trajectory["accounting"]["sampled"] == trajectory["completion_tokens"]
        assert trajectory["num_turns"] == 2
        assert (out / "other.json").exists() and (out / "journal.jsonl").exists()

    asyncio.run(main())


async def talk(session: dict[str, str]) -> None:
    client = openai.AsyncOpenAI(base_url=session["openai_base_url"], api_key=session["api_key"], max_retries=0)
    messages: list[Any] = [{"role": "user", "content": "Hello"}]
    async with client:
        for _ in range(2):
            answer = await client.chat.completions.create(model="policy", messages=messages)
            text = answer.choices[0].message.content
            assert text is not None and text.endswith("tokens.")
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "Go on"}]
    other = anthropic.AsyncAnthropic(base_url=session["anthropic_base_url"], api_key=session["api_key"], max_retries=0)
    async with other:
        with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: .* > 300 maximum"):
            long: Any = [{"role": "user", "content": "word " * 400}]
            await other.messages.create(model="policy", max_tokens=10, messages=long)


async def control(base: str) -> None:
    key = {"Authorization": "Bearer admin"}
    async with aiohttp.ClientSession() as client:
        for method, path, headers, body, status in (
            ("POST", "/sessions", {}, {}, 401),
            ("POST", "/sessions", key, {"session_id": "other"}, 201),
            ("POST", "/sessions", key, {"session_id": "other"}, 409),
            ("POST", "/sessions", key, {"session_id": "../x"}, 409),
            ("POST", "/sessions", key, [1], 400),
            ("DELETE", "/sessions/other", key, None, 200),
            ("DELETE", "/sessions/other", key, None, 404),
            ("GET", "/sessions", key, None, 405),
        ):
            async with client.request(method, base + path, headers=headers, json=body) as response:
                assert (method, path, response.status) == (method, path, status)


def test_several_engines_share_the_sessions_and_outlive_each_other(tmp_path: Path) -> None:
    model, out = write_model(tmp_path / "model", family="compact"), tmp_path / "out"
    codec = load_codec(model, "compact")
    reply = [*codec.tokens.encode("Yes tokens."), codec.stop_token_ids[0]]

    async def ask(client: aiohttp.ClientSession, session: dict[str, str]) -> int:
        body = {"model": "policy", "messages": [{"role": "user", "content": session["session_id"]}]}
        headers = {"Authorization": f"Bearer {session['api_key']}"}
        url = session["openai_base_url"] + "/chat/completions"
        async with client.post(url, json=body, headers=headers) as response:
            return response.status

    async def main() -> None:
        one, other = (FakeVLLM(lambda prompt: reply, generate=True) for _ in range(2))
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(one.serve())
            leaving = AsyncExitStack()
            second = await leaving.enter_async_context(other.serve())
            arguments = command(first, model, out, "--engine", second, "--admin-key", "admin", "--session", "")
            process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
            assert process.stdout is not None
            try:
                base = json.loads(await asyncio.wait_for(process.stdout.readline(), 120))["url"]
                client = await stack.enter_async_context(aiohttp.ClientSession())
                sessions = []
                for _ in range(6):
                    async with client.post(base + "/sessions", headers={"Authorization": "Bearer admin"}) as response:
                        sessions.append(await response.json())
                assert {await ask(client, session) for session in sessions} == {200}
                assert (len(one.requests), len(other.requests)) == (3, 3)
                await leaving.aclose()
                assert {await ask(client, session) for session in sessions} == {200}, "nobody notices the loss"
                assert len(one.requests) == 9
            finally:
                process.send_signal(signal.SIGINT)
                await process.stdout.read()
            assert await process.wait() == 0

    asyncio.run(main())


def test_a_second_proxy_on_one_port_says_who_has_it(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", family="compact")

    async def main() -> None:
        async with FakeVLLM(lambda prompt: [5], generate=True).serve() as url:
            first = await asyncio.create_subprocess_exec(
                *command(url, model, tmp_path / "one"), stdout=asyncio.subprocess.PIPE
            )
            assert first.stdout is not None
            try:
                said = json.loads(await asyncio.wait_for(first.stdout.readline(), 120))
                port = said["url"].rpartition(":")[2]
                second = await asyncio.create_subprocess_exec(
                    *command(url, model, tmp_path / "two", "--port", port), stderr=asyncio.subprocess.PIPE
                )
                _, errors = await second.communicate()
            finally:
                first.send_signal(signal.SIGINT)
                await first.stdout.read()
                await first.wait()
            assert second.returncode == 3 and b"Traceback" not in errors
            said = " ".join(errors.decode().split())
            assert f"cannot listen on 127.0.0.1:{port}" in said and f"process {first.pid} (liverl" in said
            assert "--port" in said

    asyncio.run(main())


def test_an_engine_that_is_not_there_is_the_machines_fault(tmp_path: Path) -> None:
    async def main() -> None:
        model = write_model(tmp_path / "model", family="compact")
        arguments = command("http://127.0.0.1:9", model, tmp_path / "out")
        process = await asyncio.create_subprocess_exec(*arguments, stderr=asyncio.subprocess.PIPE)
        _, errors = await process.communicate()
        assert process.returncode == 3
        assert b"no engine answers at http://127.0.0.1:9" in errors and b"Traceback" not in errors

    asyncio.run(main())
