"""Cases 8 to 16: one wire, many conversations. Each request finds the turn that it continues, or begins anew."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.runtime.proxy.conftest import Run
from tests.runtime.proxy.driver import (
    ANTHROPIC_TOOL,
    CALL,
    GO,
    TOOL,
    USER,
    anthropic,
    chat,
    claude,
    continues,
    openai,
    send,
    suffix,
)
from tests.runtime.proxy.scripted_engine import Call


def test_case_08_a_signature_names_the_reply_that_is_repeated(running: Run) -> None:
    """Two replies of the same words but other tokens: only the signature tells which one the agent goes on with."""

    async def main() -> None:
        same = "<think>\nhm\n</think>\n\nPhantom tokens of the phantom"
        async with running([same, same, "ok", "ok"]) as it:
            first = await anthropic(it, claude([USER]))
            second = await anthropic(it, claude([USER]))
            signatures = [message["content"][0]["signature"] for message in (first, second)]
            assert len(set(signatures)) == 2
            await anthropic(it, claude([USER, first, GO]))
            assert continues(it, 2, 0) and not continues(it, 2, 1)
            await anthropic(it, claude([USER, second, GO]))
            assert continues(it, 3, 1) and not continues(it, 3, 0)

    asyncio.run(main())


def test_case_08_redacted_thinking_is_a_line_that_says_so(running: Run) -> None:
    """Another model's, in a history that the agent has brought: an error would stand in it for ever."""

    async def main() -> None:
        async with running(["on"]) as it:
            said = {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "eHh4"}]}
            status, answer = await send(it, "/v1/messages", claude([USER, said, GO]))
            assert status == 200, answer
            prompt = it.engine.codec.tokens.decode(it.engine.calls[0].prompt_ids)
            assert "[redacted_thinking, 3 bytes: not shown]" in prompt

    asyncio.run(main())


def system(number: int) -> list[dict[str, Any]]:
    """Claude Code's system blocks: what changes with every request, and where the cache mark goes."""
    cache = {"cache_control": {"type": "ephemeral"}} if number % 2 else {}
    return [
        {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1; cch={number:05x};"},
        {"type": "text", "text": "You repair code.", **cache},
        {"type": "text", "text": f"Be brief.\n<total_tokens>{1000 - number} tokens left</total_tokens>"},
    ]


def dated(date: str) -> dict[str, Any]:
    reminder = f"<system-reminder>\nToday's date is {date}.\n</system-reminder>"
    return {"role": "user", "content": [{"type": "text", "text": reminder}, {"type": "text", "text": "Fix it."}]}


def test_case_09_volatile_system_lines_do_not_break_a_conversation(running: Run) -> None:
    async def main() -> None:
        async with running(["one", "two", "three"]) as it:
            messages: list[Any] = [dated("2026-11-22")]
            for number in range(3):
                body = claude([dated(f"2026-11-{22 + number}"), *messages[1:]], system=system(number))
                messages += [await anthropic(it, body), GO]
            assert continues(it, 1, 0) and continues(it, 2, 1)
            text = it.engine.codec.tokens.decode(it.engine.calls[2].prompt_ids)
            assert "<|im_start|>system\nYou repair code.\nBe brief.\n\n# Tools" in text
            assert "2026-11-22" in text and "2026-11-23" not in text
            assert len((await it.server.close_session("task.1.0")).samples) == 1

    asyncio.run(main())


def test_case_09_an_unknown_system_change_is_a_new_conversation(running: Run) -> None:
    async def main() -> None:
        async with running(["one", "two"]) as it:
            said = await anthropic(it, claude([USER], system="You repair code."))
            await anthropic(it, claude([USER, said, GO], system="You write poems."))
            assert not continues(it, 1, 0)
            trajectory = await it.server.close_session("task.1.0")
            assert [turn.parent for turn in trajectory.turns] == [None, None]
            assert trajectory.accounting.trained == trajectory.accounting.sampled

    asyncio.run(main())


def test_case_10_system_text_in_the_middle_is_appended(running: Run) -> None:
    async def main() -> None:
        async with running(["one", "two"]) as it:
            said = await anthropic(it, claude([USER]))
            await anthropic(it, claude([USER, said, {"role": "system", "content": "New rule."}, GO]))
            assert "<|im_start|>system\nNew rule.<|im_end|>" in suffix(it, 1, 0)

    asyncio.run(main())


def test_case_10_a_changed_past_message_branches_there(running: Run) -> None:
    async def main() -> None:
        async with running(["one", "two", "three"]) as it:
            first = await openai(it, chat([USER]))
            second = await openai(it, chat([USER, first, GO]))
            reminded = {"role": "user", "content": "go\n<system-reminder>x</system-reminder>"}
            await openai(it, chat([USER, first, reminded, second, GO]))
            assert continues(it, 2, 0) and not continues(it, 2, 1)
            assert [turn.parent for turn in it.session.trajectory().turns] == [None, 0, 0]

    asyncio.run(main())


def test_case_11_other_tools_begin_a_new_conversation(running: Run) -> None:
    async def main() -> None:
        async with running(["one", "two"]) as it:
            said = await openai(it, chat([USER]))
            more = {"type": "function", "function": {"name": "mcp__x"}}
            await openai(it, chat([USER, said, GO], tools=[TOOL, more]))
            assert not continues(it, 1, 0)
            assert len((await it.server.close_session("task.1.0")).samples) == 2

    asyncio.run(main())


def test_case_12_compaction_begins_anew_and_the_old_path_stays(running: Run) -> None:
    async def main() -> None:
        async with running(["one", "two", "three"]) as it:
            said = await anthropic(it, claude([USER]))
            await anthropic(it, claude([USER, said, GO]))
            await anthropic(it, claude([{"role": "user", "content": "Summary: one, two."}]))
            trajectory = await it.server.close_session("task.1.0")
            assert len(trajectory.samples) == 2
            assert trajectory.accounting.trained == trajectory.accounting.sampled

    asyncio.run(main())


def test_case_13_parallel_sub_agents_run_at_once_and_keep_apart(running: Run) -> None:
    async def main() -> None:
        arrived: list[Call] = []
        all_here = asyncio.Event()

        async def script(call: Call) -> str:
            arrived.append(call)
            if len(arrived) == 4:
                all_here.set()
            await asyncio.wait_for(all_here.wait(), 20)  # a lock around generation would end here
            return CALL

        async with running(script) as it:

            async def sub(number: int) -> None:
                task = {"role": "user", "content": f"Sub task {number % 3}"}
                tools = [ANTHROPIC_TOOL]
                said = await anthropic(it, claude([task], system=f"Helper {number}", tools=tools))
                result = {"type": "tool_result", "tool_use_id": said["content"][0]["id"], "content": "x"}
                answer = {"role": "user", "content": [result]}
                await anthropic(it, claude([task, said, answer], system=f"Helper {number}", tools=tools))

            await asyncio.gather(*(sub(number) for number in range(4)))
            trajectory = await it.server.close_session("task.1.0")
            assert len(trajectory.samples) == 4 and trajectory.num_turns == 8
            assert trajectory.accounting.trained == trajectory.accounting.sampled

    asyncio.run(main())


def test_case_14_title_and_quota_calls_are_auxiliary_in_any_order(running: Run) -> None:
    title = {"model": "policy", "messages": [{"role": "user", "content": "Write a title."}], "max_tokens": 200}
    quota = {"model": "claude-haiku", "messages": [{"role": "user", "content": "quota"}], "max_tokens": 1}

    async def main() -> None:
        for last in (False, True):
            async with running(["side", "side", "work"] if not last else ["work", "side", "side"]) as it:
                if last:
                    await openai(it, chat([USER]))
                await openai(it, title)
                await anthropic(it, quota)
                if not last:
                    await openai(it, chat([USER]))
                trajectory = await it.server.close_session("task.1.0")
                assert (trajectory.num_turns, len(trajectory.samples)) == (1, 1)
                assert trajectory.accounting.auxiliary > 0
                assert sorted(turn.kind for turn in trajectory.turns) == ["auxiliary", "auxiliary", "policy"]

    asyncio.run(main())


def test_case_15_a_marked_retry_replays_the_stored_reply(running: Run) -> None:
    async def main() -> None:
        async with running(["one", "two"]) as it:
            _, first = await send(it, "/v1/messages", claude([USER]), x_stainless_retry_count="0")
            _, again = await send(it, "/v1/messages", claude([USER]), x_stainless_retry_count="1")
            assert json.loads(first) == json.loads(again)
            _, stream = await send(it, "/v1/messages", claude([USER], stream=True), x_stainless_retry_count="2")
            assert b'"text":"one"' in stream
            assert len(it.engine.calls) == 1
            _, other = await send(it, "/v1/messages", claude([GO]), x_stainless_retry_count="1")
            assert json.loads(other)["content"][0]["text"] == "two", "the mark alone is no retry of anything"

    asyncio.run(main())


def test_case_15_a_marked_retry_joins_the_request_in_flight(running: Run) -> None:
    async def main() -> None:
        free = asyncio.Event()

        async def script(call: Call) -> str:
            await free.wait()
            return "late"

        async with running(script) as it:
            first = asyncio.create_task(openai(it, chat([USER])))
            while not it.engine.calls:
                await asyncio.sleep(0.01)
            second = asyncio.create_task(openai(it, chat([USER]), x_stainless_retry_count="1"))
            await asyncio.sleep(0.1)
            first.cancel()  # the first connection dies; the one that joined goes on
            await asyncio.sleep(0.1)
            free.set()
            assert (await second)["content"] == "late"
            assert len(it.engine.calls) == 1 and it.engine.cancelled == 0
            assert (await it.server.close_session("task.1.0")).num_turns == 1

    asyncio.run(main())


def test_case_15_a_retry_after_a_failure_samples(running: Run) -> None:
    async def main() -> None:
        async with running([RuntimeError("gone"), "fine"]) as it:
            assert (await send(it, "/v1/messages", claude([USER])))[0] == 503
            said = await anthropic(it, claude([USER]), x_stainless_retry_count="1")
            assert said["content"][0]["text"] == "fine"

    asyncio.run(main())


def test_case_16_an_equal_request_without_a_mark_is_a_new_sample(running: Run) -> None:
    async def main() -> None:
        async with running(["one", "two", "three"]) as it:
            await openai(it, chat([USER]))
            second = await openai(it, chat([USER]))
            assert it.session.trajectory().ambiguous == 2, "nobody knows yet which one the agent took"
            await openai(it, chat([USER, second, GO]))
            trajectory = await it.server.close_session("task.1.0")
            assert [turn.discarded for turn in trajectory.turns] == [True, False, False]
            assert trajectory.ambiguous == 0 and trajectory.accounting.discarded > 0

    asyncio.run(main())
