"""The real Terminus 2 in a sandbox without network, against the real proxy."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from runtime.agent_loop.services import Services
from runtime.config import Terminus2Scaffold
from runtime.errors import Termination
from tests.runtime.proxy.scripted_engine import ScriptedEngine
from tests.runtime.scaffolds.real_agents import RUN_TESTS, Play, check_tokens, replies

SETTINGS = Terminus2Scaffold(version="0.24.0", max_turns=20, max_replies_without_tool=2, parser="json")
pytestmark = [pytest.mark.consumers, pytest.mark.sandbox]


def types(*lines: str, complete: bool = False, wait: float = 0.3) -> str:
    """A reply that types these lines."""
    commands = [{"keystrokes": f"{line}\n", "duration": wait} for line in lines]
    return json.dumps({"analysis": "I see.", "plan": "Go on.", "commands": commands, "task_complete": complete})


def repair(prompt: str) -> str:
    """Look, edit, test, finish and confirm."""
    steps = [
        types("cat calc.py"),
        types("sed -i 's/a - b/a + b/' calc.py"),
        types(RUN_TESTS, wait=3.0),
        types(complete=True),
        types(complete=True),
    ]
    return steps[min(replies(prompt), 4)]


def test_it_repairs_a_bug_over_several_turns(played: Callable[..., Play]) -> None:
    it = played(SETTINGS, repair)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    assert len(it.trajectory.samples) == 1 and it.result.model_calls == 5
    assert "return a - b" in it.prompts[1] and "all good\n" in it.prompts[3] and "Are you sure" in it.prompts[4]
    assert it.result.metrics["turns"] == 5
    assert {"trajectory.json", "terminus_2.pane"} <= {path.name for path in (it.folder / "agent").iterdir()}


def test_the_form_with_tags(played: Callable[..., Play]) -> None:
    def script(prompt: str) -> str:
        line = "sed -i 's/a - b/a + b/' calc.py" if replies(prompt) == 0 else "cat calc.py"
        done = "true" if replies(prompt) else "false"
        keys = f'<commands><keystrokes duration="0.3">{line}\n</keystrokes></commands>'
        return (
            f"<response><analysis>I see.</analysis><plan>Go on.</plan>{keys}"
            f"<task_complete>{done}</task_complete></response>"
        )

    it = played(SETTINGS.model_copy(update={"parser": "xml"}), script)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    assert "return a + b" in it.prompts[2] and it.result.model_calls == 3


def test_the_limit_of_turns_is_a_valid_end(played: Callable[..., Play]) -> None:
    it = played(SETTINGS.model_copy(update={"max_turns": 2}), repair)
    assert it.result.termination is Termination.MAX_TURNS, it.result.error or it.log
    assert it.result.reward == 1.0 and it.result.model_calls == 2  # the edit was made in the second turn
    check_tokens(it)


def test_it_ends_when_it_only_talks(played: Callable[..., Play]) -> None:
    it = played(SETTINGS, lambda prompt: types("ls") if replies(prompt) == 1 else "I think the sign is wrong.")
    assert (it.result.reward, it.result.termination) == (0.0, Termination.NO_TOOL), it.result.error or it.log
    check_tokens(it)
    # Talk, type, talk, talk: what it typed in between starts the count again.
    assert it.result.model_calls == 4 and "parsing errors" in it.prompts[1]


def test_a_closed_shell_is_its_own_end(played: Callable[..., Play]) -> None:
    it = played(SETTINGS, lambda prompt: types("exit"))
    assert (it.result.reward, it.result.termination) == (0.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)


@pytest.mark.timeout(150)
def test_without_a_proxy_there_is_no_reward(played: Callable[..., Play]) -> None:
    def hang_up(services: Services, engine: ScriptedEngine) -> None:
        services.proxy._address = ("127.0.0.1", 9)  # where nobody listens

    it = played(SETTINGS, repair, disturb=hang_up, timeout_sec=90.0)
    assert (it.result.reward, it.result.termination) == (None, Termination.MODEL_UNAVAILABLE), it.log
    assert not it.result.trainable and (it.folder / "agent" / "stdout.txt").stat().st_size > 0
