"""The real mini-swe-agent in a sandbox without network, against the real proxy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runtime.agent_loop.services import Services
from runtime.config import MiniSweAgentScaffold
from runtime.errors import Termination
from tests.runtime.proxy.scripted_engine import ScriptedEngine
from tests.runtime.scaffolds.real_agents import RUN_TESTS, Play, call, check_tokens, replies

SETTINGS = MiniSweAgentScaffold(version="2.4.6", max_turns=20, max_replies_without_tool=3, command_timeout_sec=20)
pytestmark = [pytest.mark.consumers, pytest.mark.sandbox]


def repair(prompt: str) -> str:
    """Look, edit, test, finish."""
    steps = [
        "I look at the file first.\n" + call("bash", command="cat calc.py"),
        "The sign is wrong.\n" + call("bash", command="sed -i 's/a - b/a + b/' calc.py"),
        call("bash", command=RUN_TESTS),
        call("bash", command="echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"),
    ]
    return steps[min(replies(prompt), 3)]


def test_it_repairs_a_bug_over_several_turns(played: Callable[..., Play]) -> None:
    it = played(SETTINGS, repair)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    assert len(it.trajectory.samples) == 1 and it.result.model_calls == 4 == len(it.engine.calls)
    assert "return a - b" in it.prompts[1] and "all good" in it.prompts[3]
    assert it.result.metrics["turns"] == 4 and (it.folder / "agent" / "trajectory.json").exists()


def test_the_limit_of_turns_is_a_valid_end(played: Callable[..., Play]) -> None:
    it = played(SETTINGS.model_copy(update={"max_turns": 2}), repair)
    assert it.result.termination is Termination.MAX_TURNS, it.result.error or it.log
    assert it.result.reward == 1.0 and it.result.model_calls == 2  # the edit was made in the second turn
    check_tokens(it)


def test_replies_without_a_command_end_it(played: Callable[..., Play]) -> None:
    """It forgets such replies: each is a branch of its own, and is trained once."""

    def script(prompt: str) -> str:
        if "return a - b" not in prompt:
            return call("bash", command="cat calc.py")
        return f"I only think about it, for the {prompt.count('Tool call error')}. time."

    it = played(SETTINGS, script)
    assert (it.result.reward, it.result.termination) == (0.0, Termination.NO_TOOL), it.result.error or it.log
    check_tokens(it)
    assert it.result.model_calls == 4 and len(it.trajectory.samples) == 3
    assert it.trajectory.accounting.trained == it.trajectory.accounting.sampled


def test_a_spent_token_budget_is_a_valid_end(played: Callable[..., Play]) -> None:
    def script(prompt: str) -> str:
        return call("bash", command="cat calc.py; seq 400")

    it = played(SETTINGS, script, response_length=3000)
    assert (it.result.reward, it.result.termination) == (0.0, Termination.OVERLONG), it.result.error or it.log
    check_tokens(it)


@pytest.mark.timeout(120)
def test_without_a_proxy_there_is_no_reward(played: Callable[..., Play]) -> None:
    def hang_up(services: Services, engine: ScriptedEngine) -> None:
        services.proxy._address = ("127.0.0.1", 9)  # where nobody listens

    it = played(SETTINGS, repair, disturb=hang_up, timeout_sec=60.0)
    assert (it.result.reward, it.result.termination) == (None, Termination.MODEL_UNAVAILABLE), it.log
    assert not it.result.trainable and it.result.timings.agent < 50
