"""Case 35: the proxy dies. What was committed comes back token for token, what was not is named."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from runtime.proxy.journal import read_journal
from runtime.proxy.recovery import recover
from tests.runtime.proxy.conftest import Run
from tests.runtime.proxy.driver import GO, USER, chat, openai, send


def test_case_35_a_closed_session_comes_back_as_it_was(running: Run, tmp_path: Path) -> None:
    path = tmp_path / "proxy.jsonl"

    async def main() -> None:
        async with running(["one", "two", RuntimeError("gone"), "three"], journal=path) as it:
            said = await openai(it, chat([USER]))
            await openai(it, chat([USER, said, GO]))
            assert (await send(it, "/v1/chat/completions", chat([USER, said, GO])))[0] == 503
            await openai(it, chat([USER, said, {"role": "user", "content": "no"}]))
            trajectory = await it.server.close_session("task.1.0")
            (recovered,) = recover(path).values()
            assert recovered.complete
            assert recovered.trajectory() == trajectory

    asyncio.run(main())


def test_case_35_an_intent_without_an_end_makes_the_rollout_incomplete(running: Run, tmp_path: Path) -> None:
    path = tmp_path / "proxy.jsonl"

    async def main() -> None:
        async with running(["one", "two"], journal=path) as it:
            said = await openai(it, chat([USER]))
            await openai(it, chat([USER, said, GO]))

    asyncio.run(main())
    lines = path.read_bytes().splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        for torn in (b"", lines[count][: len(lines[count]) // 2] if count < len(lines) else b""):
            path.write_bytes(b"".join(lines[:count]) + torn)
            (recovered,) = recover(path).values()
            events = [record["event"] for record in read_journal(path)]
            assert len(recovered.forest.nodes) == events.count("turn")
            assert recovered.dangling == events.count("asked") - events.count("turn")
            assert recovered.complete == ("closed" in events)
            recovered.trajectory()


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
        (recovered,) = recover(journal).values()
        by_id = {node.reply_id: node for node in recovered.forest.nodes}
        assert len(by_id) <= asked[0] and recovered.dangling <= 3
        assert not recovered.complete
        for reply_id, text in (entry.split(" ", 1) for entry in seen):
            assert by_id[reply_id].parsed.content == text
        trajectory = recovered.trajectory()
        assert {turn.seq for turn in trajectory.turns} == set(range(len(by_id)))
        accounting = trajectory.accounting
        assert replace(accounting, sampled=0).lost + accounting.trained + accounting.discarded == accounting.sampled
        return len(seen), recovered.dangling

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
