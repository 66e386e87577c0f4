"""The real Claude Code in a sandbox without network, against the real proxy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runtime.agent_loop.services import Services
from runtime.config import ClaudeCodeScaffold
from runtime.errors import Termination
from tests.runtime.proxy.scripted_engine import ScriptedEngine
from tests.runtime.scaffolds.odd_files import FILES, MAKE
from tests.runtime.scaffolds.real_agents import RUN_TESTS, Play, call, check_tokens, replies

SETTINGS = ClaudeCodeScaffold(version="2.1.197", max_turns=20)
pytestmark = [pytest.mark.consumers, pytest.mark.sandbox]


def repair(prompt: str) -> str:
    """Look, edit, test, finish."""
    steps = [
        "I look at the file first.\n" + call("Read", file_path="/app/calc.py"),
        call("Edit", file_path="/app/calc.py", old_string="return a - b", new_string="return a + b"),
        call("Bash", command=RUN_TESTS, description="Run the check"),
        "The sign was wrong; add works now.",
    ]
    return steps[min(replies(prompt), 3)]


def test_it_repairs_a_bug_over_several_turns(played: Callable[..., Play]) -> None:
    it = played(SETTINGS, repair)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    assert len(it.trajectory.samples) == 1 and it.result.model_calls == 4
    assert "return a - b" in it.prompts[1] and "all good" in it.prompts[3]
    assert '"subtype":"success"' in it.log and it.result.metrics["turns"] == 4


def test_the_limit_of_turns_is_a_valid_end(played: Callable[..., Play]) -> None:
    it = played(SETTINGS.model_copy(update={"max_turns": 2}), repair)
    assert it.result.termination is Termination.MAX_TURNS, it.result.error or it.log
    assert it.result.reward == 1.0 and it.result.model_calls == 2  # the edit was made in the second turn
    check_tokens(it)


def test_replies_that_are_always_cut_are_the_policys_doing(played: Callable[..., Play]) -> None:
    it = played(SETTINGS, lambda prompt: "and so on, " * 100, max_tokens_per_turn=50)
    assert (it.result.reward, it.result.termination) == (0.0, Termination.OVERLONG), it.result.error or it.log
    assert it.result.trainable and it.result.completion_tokens == 50 * it.result.model_calls
    check_tokens(it)


@pytest.mark.timeout(120)
def test_without_a_proxy_there_is_no_reward(played: Callable[..., Play]) -> None:
    def hang_up(services: Services, engine: ScriptedEngine) -> None:
        services.proxy._address = ("127.0.0.1", 9)  # where nobody listens

    it = played(SETTINGS, repair, disturb=hang_up, timeout_sec=45.0)
    assert (it.result.reward, it.result.termination) == (None, Termination.MODEL_UNAVAILABLE), it.log
    assert not it.result.trainable and (it.folder / "agent" / "stdout.txt").stat().st_size > 0


def test_sub_agents_are_conversations_of_their_own(played: Callable[..., Play]) -> None:
    def script(prompt: str) -> str:
        if "Say what calc.py subtracts" in prompt.split("<|im_start|>assistant")[0]:
            steps = [call("Read", file_path="/app/calc.py"), "It returns a - b."]
            return steps[min(replies(prompt), 1)]
        wanted = "Say what calc.py subtracts"
        steps = [
            call("Agent", description="read calc", prompt=wanted, subagent_type="general-purpose"),
            call("Read", file_path="/app/calc.py"),
            call("Edit", file_path="/app/calc.py", old_string="a - b", new_string="a + b"),
            "Done.",
        ]
        return steps[min(replies(prompt), 3)]

    it = played(SETTINGS, script)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    assert len(it.trajectory.samples) == 2 and it.result.model_calls == 6
    assert any("It returns a - b." in prompt and "Say what" in prompt for prompt in it.prompts)


SUMMARY = "calc.py returns a - b; it must return a + b."


def read_a_lot(prompt: str) -> str:
    """Fill the context until the agent asks for a summary, then repair with nothing but that summary to go by."""
    if "<analysis> block followed by a <summary> block" in prompt[-2000:]:
        return f"<summary>{SUMMARY}</summary>"
    if SUMMARY not in prompt:
        count = replies(prompt)
        return call("Bash", command=f"cat calc.py; seq {count}000 {count}900", description="Count")
    if "has been updated" in prompt:
        return "Done."
    if "TO WORK" not in prompt:
        return call("Bash", command="echo TO WORK; cat calc.py", description="Look")
    return call("Edit", file_path="/app/calc.py", old_string="return a - b", new_string="return a + b")


def check_compaction(it: Play) -> None:
    """Its summary ends a branch of the old conversation, a new one goes on, and every token is trained once."""
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    assert it.trajectory.accounting.trained == it.trajectory.accounting.sampled
    (summary,) = [turn for turn in it.trajectory.turns if "<summary>" in turn.text]
    later = it.trajectory.turns[summary.seq + 1 :]
    assert summary.parent is not None and not any(turn.parent == summary.seq for turn in later)
    assert [turn.parent for turn in later] == [None, later[0].seq, later[1].seq]
    assert SUMMARY in it.prompts[later[0].seq]
    assert later[0].prompt_tokens < max(turn.prompt_tokens for turn in it.trajectory.turns[: summary.seq])


def test_it_compacts_when_told_to(played: Callable[..., Play]) -> None:
    it = played(SETTINGS.model_copy(update={"compact_tokens": 50_000}), read_a_lot)
    check_compaction(it)
    (summary,) = [turn for turn in it.trajectory.turns if "<summary>" in turn.text]
    sizes = [turn.prompt_tokens + turn.completion_tokens for turn in it.trajectory.turns[: summary.seq]]
    assert all(size < 50_000 for size in sizes[:-1]) and summary.prompt_tokens >= 50_000


def test_it_compacts_when_the_proxy_refuses_a_long_history(played: Callable[..., Play]) -> None:
    it = played(SETTINGS, read_a_lot, prompt_length=38_000, response_length=22_000)
    check_compaction(it)
    assert max(turn.prompt_tokens for turn in it.trajectory.turns) <= 60_000
    assert all(len(sample.prompt_ids) <= 38_000 for sample in it.trajectory.samples)


def test_it_reads_what_is_no_text(played: Callable[..., Play]) -> None:
    """Pictures, a PDF and the pictures of a notebook are a line each; nothing of it is an error to the proxy."""
    served: list[Services] = []

    def script(prompt: str) -> str:
        reads = [call("Read", file_path=f"/app/odd/{name}") for name in FILES]
        steps = [call("Bash", command=MAKE, description="Make files"), "\n".join(reads[:6]), "\n".join(reads[6:])]
        steps.append(call("Bash", command="cat /app/odd/*.txt /app/odd/program.bin", description="Show all"))
        return [*steps, "Done."][min(replies(prompt), 4)]

    it = played(SETTINGS, script, disturb=lambda services, engine: served.append(services))
    assert (it.result.reward, it.result.termination) == (0.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    assert {status for _, status in served[0].proxy.metrics.requests} == {200}
    assert it.result.model_calls == 5 and len(it.trajectory.samples) == 1
    last = it.prompts[-1]
    assert "MADE" in last
    for kind in ("image/png", "image/gif", "image/webp", "application/pdf"):
        assert f"[{kind}, " in last and " bytes" in last, kind
