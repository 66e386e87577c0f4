"""The real OpenCode in a sandbox without network, against the real proxy."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from runtime.agent_loop.services import Services
from runtime.config import OpenCodeScaffold
from runtime.errors import Termination
from tests.runtime.proxy.scripted_engine import ScriptedEngine
from tests.runtime.scaffolds.odd_files import FILES, MAKE
from tests.runtime.scaffolds.real_agents import RUN_TESTS, Play, call, check_tokens, replies

SETTINGS = OpenCodeScaffold(version="1.18.33", max_turns=20)
pytestmark = [pytest.mark.consumers, pytest.mark.sandbox]


def repair(prompt: str) -> str:
    """Look, edit, test, finish."""
    steps = [
        "I look at the file first.\n" + call("read", filePath="/app/calc.py"),
        call("edit", filePath="/app/calc.py", oldString="return a - b", newString="return a + b"),
        call("bash", command=RUN_TESTS, description="Run the check"),
        "The sign was wrong; add works now.",
    ]
    return steps[min(replies(prompt), 3)]


def test_it_repairs_a_bug_over_several_turns(played: Callable[..., Play]) -> None:
    it = played(SETTINGS, repair)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    assert len(it.trajectory.samples) == 1 and it.result.model_calls == 4 == len(it.engine.calls)
    assert "return a - b" in it.prompts[1] and "all good" in it.prompts[3]
    assert it.result.metrics["turns"] == 4


def test_the_limit_of_turns_is_a_valid_end(played: Callable[..., Play]) -> None:
    it = played(SETTINGS.model_copy(update={"max_turns": 2}), repair)
    assert it.result.termination is Termination.MAX_TURNS, it.result.error or it.log
    assert it.result.reward == 1.0 and it.result.model_calls == 2  # the edit was made in the second turn
    check_tokens(it)


def test_only_the_chosen_tools_are_offered(played: Callable[..., Play]) -> None:
    it = played(SETTINGS.model_copy(update={"tools": ("bash", "read", "edit")}), repair)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    offered = re.findall(r'"type": "function", "function": {"name": "(\w+)"', it.prompts[0])
    assert sorted(offered) == ["bash", "edit", "read", "write"]  # for the program, to write is to edit


def test_a_spent_token_budget_is_a_valid_end(played: Callable[..., Play]) -> None:
    def script(prompt: str) -> str:
        return call("bash", command="cat calc.py; seq 400", description="Count")

    it = played(SETTINGS, script, response_length=3000)
    assert (it.result.reward, it.result.termination) == (0.0, Termination.OVERLONG), it.result.error or it.log
    check_tokens(it)


@pytest.mark.timeout(160)
def test_without_a_proxy_there_is_no_reward(played: Callable[..., Play]) -> None:
    def hang_up(services: Services, engine: ScriptedEngine) -> None:
        services.proxy._address = ("127.0.0.1", 9)  # where nobody listens

    it = played(SETTINGS, repair, disturb=hang_up, timeout_sec=110.0)
    assert (it.result.reward, it.result.termination) == (None, Termination.MODEL_UNAVAILABLE), it.log
    assert not it.result.trainable and it.result.timings.agent < 100


def test_sub_agents_are_conversations_of_their_own(played: Callable[..., Play]) -> None:
    wanted = "Say what calc.py subtracts"

    def script(prompt: str) -> str:
        if wanted in prompt.split("<|im_start|>assistant")[0]:
            steps = [call("read", filePath="/app/calc.py"), "It returns a - b."]
            return steps[min(replies(prompt), 1)]
        steps = [
            call("task", description="read calc", prompt=wanted, subagent_type="general"),
            call("read", filePath="/app/calc.py"),
            call("edit", filePath="/app/calc.py", oldString="a - b", newString="a + b"),
            "Done.",
        ]
        return steps[min(replies(prompt), 3)]

    it = played(SETTINGS, script)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    assert len(it.trajectory.samples) == 2 and it.result.model_calls == 6
    assert any("It returns a - b." in prompt and wanted in prompt for prompt in it.prompts)


SUMMARY = "calc.py returns a - b; it must return a + b."


def read_a_lot(prompt: str) -> str:
    """Fill the context until the agent asks for a summary, then repair with nothing but that summary to go by."""
    if "You are a context summarization agent" in prompt:
        return SUMMARY
    if SUMMARY not in prompt:
        count = replies(prompt)
        return call("bash", command=f"cat calc.py; seq {count}000 {count}900", description="Count")
    if "Edit applied" in prompt:
        return "Done."
    return call("edit", filePath="/app/calc.py", oldString="return a - b", newString="return a + b")


def test_it_compacts_when_told_to(played: Callable[..., Play]) -> None:
    it = played(SETTINGS.model_copy(update={"compact_tokens": 30_000}), read_a_lot)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    turns, accounting = it.trajectory.turns, it.trajectory.accounting
    summaries = [turn for turn in turns if turn.text == SUMMARY]
    # Another agent writes them, without tools and in conversations of its own: side calls, not the policy's work.
    assert summaries and all(turn.kind == "auxiliary" for turn in summaries)
    assert accounting.auxiliary == sum(turn.completion_tokens for turn in summaries)
    assert accounting.trained + accounting.auxiliary == accounting.sampled
    assert len(it.trajectory.samples) == 1 + len(summaries)
    sizes = [turn.prompt_tokens + turn.completion_tokens for turn in turns[: summaries[0].seq]]
    assert all(size < 30_000 for size in sizes[:-1]) and sizes[-1] >= 30_000
    for turn in summaries:
        assert turns[turn.seq + 1].parent is None and SUMMARY in it.prompts[turn.seq + 1]


def test_it_compacts_when_the_proxy_refuses_a_long_history(played: Callable[..., Play]) -> None:
    it = played(SETTINGS, read_a_lot, prompt_length=14_000, response_length=22_000)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    turns, accounting = it.trajectory.turns, it.trajectory.accounting
    summaries = [turn for turn in turns if turn.text == SUMMARY]
    assert summaries and accounting.auxiliary == sum(turn.completion_tokens for turn in summaries)
    assert accounting.trained + accounting.auxiliary == accounting.sampled
    assert max(turn.prompt_tokens for turn in turns) <= 36_000


def test_it_reads_what_is_no_text(played: Callable[..., Play]) -> None:
    """Whatever it makes of pictures, a PDF, a notebook and binaries, nothing in the folder is an error to the proxy."""
    served: list[Services] = []

    def script(prompt: str) -> str:
        reads = [call("read", filePath=f"/app/odd/{name}") for name in FILES]
        steps = [call("bash", command=MAKE, description="Make files"), "\n".join(reads[:6]), "\n".join(reads[6:])]
        steps.append(call("bash", command="cat /app/odd/*.txt /app/odd/program.bin", description="Show all"))
        return [*steps, "Done."][min(replies(prompt), 4)]

    it = played(SETTINGS, script, disturb=lambda services, engine: served.append(services))
    assert (it.result.reward, it.result.termination) == (0.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    assert {status for _, status in served[0].proxy.metrics.requests} == {200}
    assert it.result.model_calls == 5 and "MADE" in it.prompts[-1]
