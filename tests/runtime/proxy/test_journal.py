"""Case 35: the proxy dies. The journal holds what was committed, token for token, and names what was not."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from runtime.proxy.journal import read_journal
from tests.runtime.proxy.conftest import Run
from tests.runtime.proxy.driver import GO, USER, chat, openai, send


def turns(path: Path) -> list[dict[str, Any]]:
    return [record for record in read_journal(path) if record["event"] == "turn"]


def dangling(path: Path) -> int:
    """Requests that reached the engine and of which nothing more is known."""
    open_requests: set[int] = set()
    for record in read_journal(path):
        if record["event"] == "asked":
            open_requests.add(record["request"])
        elif record["event"] in ("turn", "dropped"):
            open_requests.discard(record["request"])
    return len(open_requests)


def test_case_35_a_session_is_in_the_journal_token_for_token(running: Run, tmp_path: Path) -> None:
    path = tmp_path / "proxy.jsonl"

    async def main() -> None:
        async with running(["one", "two", RuntimeError("gone"), "three"], journal=path) as it:
            said = await openai(it, chat([USER]))
            await openai(it, chat([USER, said, GO]))
            assert (await send(it, "/v1/chat/completions", chat([USER, said, GO])))[0] == 503
            await openai(it, chat([USER, said, {"role": "user", "content": "no"}]))
            await it.server.close_session("task.1.0")
            given = [call.generation for call in it.engine.calls if call.generation is not None]
            for record, generation in zip(turns(path), given, strict=True):
                assert record["sampled_ids"] == list(generation.token_ids)
                assert record["logprobs"] == list(generation.logprobs)
            first, *others = turns(path)
            assert [record["parent"] for record in others] == [first["seq"]] * 2
            events = [record["event"] for record in read_journal(path)]
            assert (events[0], events[-1], events.count("dropped"), dangling(path)) == ("opened", "closed", 1, 0)

    asyncio.run(main())


def test_case_35_a_torn_line_is_nothing_and_an_intent_without_an_end_is_seen(running: Run, tmp_path: Path) -> None:
    path = tmp_path / "proxy.jsonl"

    async def main() -> None:
        async with running(["one", "two"], journal=path) as it:
            said = await openai(it, chat([USER]))
            await openai(it, chat([USER, said, GO]))

    asyncio.run(main())
    lines = path.read_bytes().splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        whole = list(read_journal(path))[:count]
        torn = lines[count][: len(lines[count]) // 2] if count < len(lines) else b""
        cut = tmp_path / f"{count}.jsonl"
        cut.write_bytes(b"".join(lines[:count]) + torn)
        assert list(read_journal(cut)) == whole
        events = [record["event"] for record in whole]
        assert dangling(cut) == events.count("asked") - events.count("turn")


@pytest.mark.parametrize("stream", [False, True])
def test_case_35_kill_9_loses_no_reply_that_an_agent_has_seen(
    folders: dict[str, Path], tmp_path: Path, stream: bool
) -> None:
    """Real processes, killed at random moments. Every reply whose end arrived is in the journal, and every turn in the
    journal is one that was asked for."""
    chance = random.Random(5)

    async def round_(number: int) -> tuple[int, int]:
        journal = tmp_path / f"{number}.jsonl"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.runtime.proxy.killed_proxy", str(folders["compact"]), str(journal)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            where = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
            seen: list[str] = []
            asked = [0]
            agents = [asyncio.create_task(agent(where, seen, asked, stream=stream)) for _ in range(3)]
            await asyncio.sleep(0.2 + chance.random() * 0.4)
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        await asyncio.gather(*agents)
        by_id = {f"{record['session']}-{record['seq']}": record for record in turns(journal)}
        assert len(by_id) <= asked[0] and dangling(journal) <= 3
        assert [record["seq"] for record in by_id.values()] == list(range(len(by_id)))
        for reply_id, text in (entry.split(" ", 1) for entry in seen):
            assert by_id[reply_id]["text"] == text
        return len(seen), dangling(journal)

    async def main() -> None:
        rounds = [await round_(number) for number in range(3)]
        assert sum(seen for seen, _ in rounds) > 0, "no reply arrived before the kill: the test shows nothing"

    asyncio.run(main())


async def agent(where: dict[str, str], seen: list[str], asked: list[int], *, stream: bool) -> None:
    """Talks until the connection breaks; notes each reply whose last byte arrived."""
    messages: list[Any] = [{"role": "user", "content": f"Fix {random.random()}"}]
    async with aiohttp.ClientSession(headers={"x-api-key": where["key"]}) as client:
        while True:
            asked[0] += 1
            try:
                body = chat(messages, stream=stream)
                async with client.post(where["url"] + "/v1/chat/completions", json=body) as response:
                    raw = await response.read()
            except (aiohttp.ClientError, OSError):
                return
            if not stream:
                reply = json.loads(raw)
                identity, text = reply["id"], reply["choices"][0]["message"]["content"]
            else:
                if not raw.endswith(b"data: [DONE]\n\n"):
                    return
                chunks = [json.loads(line[6:]) for line in raw.split(b"\n\n") if line.startswith(b"data: {")]
                identity = chunks[0]["id"]
                text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
            seen.append(f"{identity.removeprefix('chatcmpl-')} {text}")
            messages += [{"role": "assistant", "content": text}, GO]
