"""The real OpenHands SDK in a sandbox without network, against the real proxy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runtime.agent_loop.services import Services
from runtime.config import OpenHandsSdkScaffold
from runtime.errors import Termination
from tests.runtime.proxy.scripted_engine import ScriptedEngine
from tests.runtime.scaffolds.real_agents import RUN_TESTS, Play, call, check_tokens, replies

SETTINGS = OpenHandsSdkScaffold(
    version="1.57.0", max_turns=20, max_replies_without_tool=2, tools=("terminal", "file_editor", "task_tracker")
)
pytestmark = [pytest.mark.consumers, pytest.mark.sandbox]
EDIT = call("file_editor", command="str_replace", path="/app/calc.py", old_str="return a - b", new_str="return a + b")


def repair(prompt: str) -> str:
    """Look, edit, test, finish."""
    steps = [
        "I look at the file first.\n" + call("file_editor", command="view", path="/app/calc.py"),
        EDIT,
        call("terminal", command=RUN_TESTS),
        call("finish", message="The sign was wrong; add works now."),
    ]
    return steps[min(replies(prompt), 3)]


def test_it_repairs_a_bug_over_several_turns(played: Callable[..., Play]) -> None:
    it = played(SETTINGS, repair)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    assert len(it.trajectory.samples) == 1 and it.result.model_calls == 4
    assert "return a - b" in it.prompts[1] and "all good" in it.prompts[3]
    assert it.result.metrics["turns"] == 4 and it.result.metrics["stuck"] == 0
    assert it.result.metrics["agent_cpu_sec"] > 0 and 100 < it.result.metrics["agent_memory_mib"] < 700
    assert "\x1b" not in it.prompts[3], "codes for a terminal in what the policy reads"


def test_several_calls_and_wrong_calls_stay_in_one_conversation(played: Callable[..., Play]) -> None:
    view = call("file_editor", command="view", path="/app/calc.py")

    def script(prompt: str) -> str:
        steps = [
            f"Both at once.\n{view}\n" + call("terminal", command="ls; echo second"),
            call("browser", url="http://example.com"),
            call("file_editor", command="destroy", path="/app/calc.py"),
            call("terminal", cmd="ls"),
            EDIT,
            call("finish", message="Done."),
        ]
        return steps[min(replies(prompt), 5)]

    it = played(SETTINGS, script)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    assert len(it.trajectory.samples) == 1 and it.result.model_calls == 6 == it.result.metrics["turns"]
    assert "return a - b" in it.prompts[1] and "second" in it.prompts[1] and "browser" in it.prompts[2]


def test_the_limit_of_turns_is_a_valid_end(played: Callable[..., Play]) -> None:
    it = played(SETTINGS.model_copy(update={"max_turns": 2}), repair)
    assert it.result.termination is Termination.MAX_TURNS, it.result.error or it.log
    assert it.result.reward == 1.0 and it.result.model_calls == 2  # the edit was made in the second turn
    check_tokens(it)


def test_it_is_asked_to_go_on_and_ends_when_it_only_talks(played: Callable[..., Play]) -> None:
    it = played(SETTINGS, lambda prompt: EDIT if replies(prompt) == 1 else "I think the sign is wrong.")
    assert (it.result.reward, it.result.termination) == (1.0, Termination.NO_TOOL), it.result.error or it.log
    check_tokens(it)
    # Talk, edit, talk, talk: what it did in between starts the count again.
    assert it.result.model_calls == 4 and len(it.trajectory.samples) == 1
    assert "Please go on" in it.prompts[1]


def test_repeating_itself_is_its_own_end(played: Callable[..., Play]) -> None:
    it = played(SETTINGS, lambda prompt: call("terminal", command="ls"))
    assert (it.result.reward, it.result.termination) == (0.0, Termination.COMPLETED), it.result.error or it.log
    assert it.result.metrics["stuck"] == 1 and it.result.model_calls == 4
    check_tokens(it)


@pytest.mark.timeout(120)
def test_without_a_proxy_there_is_no_reward(played: Callable[..., Play]) -> None:
    def hang_up(services: Services, engine: ScriptedEngine) -> None:
        services.proxy._address = ("127.0.0.1", 9)  # where nobody listens

    it = played(SETTINGS, repair, disturb=hang_up, timeout_sec=60.0)
    assert (it.result.reward, it.result.termination) == (None, Termination.MODEL_UNAVAILABLE), it.log
    assert not it.result.trainable and (it.folder / "agent" / "stdout.txt").stat().st_size > 0
