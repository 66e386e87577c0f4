"""Cases 17, 19 to 21, 23, 24, 27 to 29, 33, 34, and what protects the proxy from its clients."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from runtime.proxy.journal import read_journal
from runtime.proxy.types import SessionLimits
from tests.runtime.proxy.conftest import LIMITS, Run
from tests.runtime.proxy.driver import GO, USER, anthropic, chat, claude, continues, openai, send
from tests.runtime.proxy.scripted_engine import Call

RESPONSES = {"model": "policy", "input": "Fix it."}


async def hang(call: Call) -> str:
    await asyncio.sleep(60)
    return "never"


def test_case_17_several_choices_are_refused(running: Run) -> None:
    async def main() -> None:
        async with running([]) as it:
            status, answer = await send(it, "/v1/chat/completions", chat([USER], n=2))
            assert (status, json.loads(answer)["error"]["param"]) == (400, "n")
            assert it.engine.calls == []

    asyncio.run(main())


def test_case_19_a_client_that_leaves_in_mid_generation_commits_nothing(running: Run, tmp_path: Path) -> None:
    path = tmp_path / "proxy.jsonl"

    async def main() -> None:
        async with running(hang, journal=path) as it:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(send(it, "/v1/messages", claude([USER])), 0.3)
            while not it.engine.cancelled:
                await asyncio.sleep(0.01)
            assert it.session.trajectory().aborted == 1
            trajectory = await it.server.close_session("task.1.0")
            assert trajectory.turns == ()
        assert [record["event"] for record in read_journal(path)] == ["opened", "asked", "dropped", "closed"]

    asyncio.run(main())


@pytest.mark.parametrize("continued", [False, True])
def test_case_20_an_undelivered_reply_counts_only_if_it_is_continued(running: Run, continued: bool) -> None:
    async def main() -> None:
        async with running(["one", "two"]) as it:
            said = await openai(it, chat([USER]))
            reply = it.session._exchanges[0].work.result()
            it.session.undelivered(reply)  # what the application says of a connection that broke while it sent
            assert it.session.trajectory().turns[0].delivery == "unknown"
            if continued:
                await openai(it, chat([USER, said, GO]))
            trajectory = await it.server.close_session("task.1.0")
            accounting = trajectory.accounting
            assert accounting.lost == (0 if continued else accounting.sampled)
            assert len(trajectory.samples) == (1 if continued else 0)

    asyncio.run(main())


def test_case_20_the_turns_before_an_undelivered_reply_are_trained(running: Run) -> None:
    async def main() -> None:
        async with running(["one", "two"]) as it:
            said = await openai(it, chat([USER]))
            await openai(it, chat([USER, said, GO]))
            it.session.undelivered(it.session._exchanges[1].work.result())
            trajectory = await it.server.close_session("task.1.0")
            (sample,) = trajectory.samples
            assert sum(sample.response_mask) == len(sample.response_mask) == trajectory.accounting.trained
            assert trajectory.accounting.lost > 0

    asyncio.run(main())


def test_case_20_a_connection_that_is_gone_when_the_reply_is_there(running: Run) -> None:
    """The commit and the end of the connection cross each other: the turn is kept, its delivery unknown."""

    async def main() -> None:
        async with running(["one"]) as it:
            sent: list[Any] = []
            body = json.dumps(chat([USER])).encode()
            events = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]

            async def receive() -> Any:
                if len(events) == 1:
                    while not it.session._forest.nodes:
                        await asyncio.sleep(0)
                return events.pop(0)

            async def take(event: Any) -> None:
                sent.append(event)
                await asyncio.sleep(0.01)

            key = it.session.secret.encode()
            scope = {
                "type": "http",
                "method": "POST",
                "path": it.session.base_path + "/v1/chat/completions",
                "headers": [(b"x-api-key", key)],
            }
            await it.server.app(scope, receive, take)
            (turn,) = it.session.trajectory().turns
            assert turn.delivery == "unknown"
            said = await openai(it, chat([USER]), x_stainless_retry_count="1")
            assert said["content"] == "one", "the retry gets what was lost on the way"
            assert it.session.trajectory().turns[0].delivery == "sent"

    asyncio.run(main())


def test_case_21_the_turn_is_in_the_journal_before_the_final_event_leaves(running: Run, tmp_path: Path) -> None:
    path = tmp_path / "proxy.jsonl"

    async def main() -> None:
        async with running(["one"], journal=path) as it:
            headers = {"x-api-key": it.session.secret}
            async with (
                aiohttp.ClientSession(headers=headers) as client,
                client.post(it.url + "/v1/messages", json=claude([USER], stream=True)) as response,
            ):
                await response.content.readany()  # the first byte
                assert [record["event"] for record in read_journal(path)][-1] == "turn"

    asyncio.run(main())


def test_case_23_overflow_is_the_error_that_makes_agents_compact(running: Run) -> None:
    async def main() -> None:
        async with running([]) as it:
            long = {"role": "user", "content": "word " * 3000}
            status, answer = await send(it, "/v1/chat/completions", chat([long]))
            error = json.loads(answer)["error"]
            assert (status, error["code"]) == (400, "context_length_exceeded")
            assert "maximum context length" in error["message"]
            status, answer = await send(it, "/v1/messages", claude([long]))
            assert status == 400 and json.loads(answer)["error"]["message"].startswith("prompt is too long: ")
            status, answer = await send(it, "/v1/responses", {"model": "policy", "input": "word " * 3000})
            assert (status, json.loads(answer)["error"]["code"]) == (400, "context_length_exceeded")
            trajectory = await it.server.close_session("task.1.0")
            assert trajectory.overlong and trajectory.failure is None

    asyncio.run(main())


def test_case_24_images_become_a_line_that_says_so(running: Run) -> None:
    async def main() -> None:
        async with running(["ok", "ok"]) as it:
            image = {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": ""}}]}
            url = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
            for path, body in (("/v1/messages", claude([image])), ("/v1/chat/completions", chat([url]))):
                status, answer = await send(it, path, body)
                assert status == 200, answer
                assert ": not shown]<|im_end|>" in it.engine.codec.tokens.decode(it.engine.calls[-1].prompt_ids)

    asyncio.run(main())


def test_case_27_the_agents_sampling_is_overridden(running: Run) -> None:
    limits = SessionLimits(2000, 2000, 50, temperature=0.7, top_p=1.0)

    async def main() -> None:
        async with running(["one"], limits=limits) as it:
            await anthropic(it, claude([USER], temperature=0.0, top_p=0.1, top_k=1))
            params = it.engine.calls[0].params
            assert (params.temperature, params.top_p, params.top_k) == (0.7, 1.0, -1)

    asyncio.run(main())


def test_case_28_count_tokens_is_exact_in_mid_conversation_and_records_nothing(running: Run) -> None:
    async def main() -> None:
        async with running(["one", "two"]) as it:
            said = await anthropic(it, claude([USER]))
            body = claude([USER, said, GO])
            _, answer = await send(it, "/v1/messages/count_tokens", body)
            await anthropic(it, body)
            assert json.loads(answer)["input_tokens"] == len(it.engine.calls[1].prompt_ids)
            assert continues(it, 1, 0) and it.session.trajectory().num_turns == 2

    asyncio.run(main())


def test_case_29_a_malformed_call_is_text_and_still_trained(running: Run) -> None:
    async def main() -> None:
        async with running(['<tool_call>{"name": </tool_call>']) as it:
            said = await openai(it, chat([USER]))
            assert said["content"] == '<tool_call>{"name": </tool_call>'
            assert [call["function"]["name"] for call in said["tool_calls"]] == ["unreadable_tool_call"]
            trajectory = await it.server.close_session("task.1.0")
            assert trajectory.turns[0].parse_status == "ill_formed"
            assert trajectory.accounting.trained == trajectory.accounting.sampled

    asyncio.run(main())


def test_case_33_a_closed_session_refuses_in_each_dialects_shape(running: Run) -> None:
    async def main() -> None:
        async with running(["one"]) as it:
            await openai(it, chat([USER]))
            await it.server.close_session("task.1.0")
            for path, body in (
                ("/v1/chat/completions", chat([USER])),
                ("/v1/messages", claude([USER])),
                ("/v1/responses", RESPONSES),
            ):
                status, answer = await send(it, path, body)
                assert status == 409 and "closed" in json.loads(answer)["error"]["message"]

    asyncio.run(main())


def test_case_34_never_an_open_relay(running: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        async with running([]) as it:
            it.server.open_session("other", LIMITS)
            for key in ("", "guess", it.session.secret[:-1], it.session.secret + "x", "é"):
                for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/messages/count_tokens"):
                    status, _ = await send(it, path, chat([USER]), x_api_key=key)
                    assert status == 401
            assert it.engine.calls == []
            assert it.session.secret not in caplog.text

    asyncio.run(main())


def test_a_full_proxy_says_when_to_come_back_and_goes_on(running: Run) -> None:
    async def main() -> None:
        async with running(hang) as it:
            it.server.app.max_in_flight = 2
            waiting = [asyncio.create_task(send(it, "/v1/messages", claude([USER]))) for _ in range(2)]
            while len(it.engine.calls) < 2:
                await asyncio.sleep(0.01)
            async with (
                aiohttp.ClientSession(headers={"x-api-key": it.session.secret}) as client,
                client.post(it.url + "/v1/messages", json=claude([USER])) as response,
            ):
                assert (response.status, response.headers["retry-after"]) == (503, "1")
                assert (await response.json())["error"]["type"] == "overloaded_error"
            for task in waiting:
                task.cancel()
            while it.engine.cancelled < 2:
                await asyncio.sleep(0.01)
            it.engine.script = lambda call: "fine"
            assert (await anthropic(it, claude([USER])))["content"][0]["text"] == "fine"

    asyncio.run(main())


def test_slow_clients_do_not_hold_up_others(running: Run) -> None:
    """One never finishes its body, one never reads its reply: a third one is served meanwhile."""

    async def main() -> None:
        big = "word " * 20_000
        limits = SessionLimits(2000, 200_000, 150_000)
        async with running(lambda call: big if len(it_calls) == 1 else "quick", limits=limits) as it:
            it_calls = it.engine.calls
            it.server.app.body_sec = 0.3
            it.server.app.max_in_flight = 1
            host, port = it.server.host, it.server.port
            head = (
                f"POST {it.session.base_path}/v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                f"x-api-key: {it.session.secret}\r\nContent-Length: "
            )
            body = json.dumps(chat([USER], stream=True))
            _, deaf = await asyncio.open_connection(host, port, limit=1024)
            deaf.write(f"{head}{len(body)}\r\n\r\n{body}".encode())
            while not it.session.trajectory().turns:
                await asyncio.sleep(0.01)
            reader, slow = await asyncio.open_connection(host, port)
            slow.write(f"{head}100\r\n\r\n{{".encode())
            assert (await asyncio.wait_for(openai(it, chat([USER])), 10))["content"] == "quick"
            assert b" 408 " in await asyncio.wait_for(reader.readline(), 10)
            for writer in (deaf, slow):
                writer.close()

    asyncio.run(main())
