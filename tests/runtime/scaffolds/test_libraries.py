"""What the agents that are libraries have in common: how they end when the model or the budget ends, and what a summary
of a long conversation is to the trainer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from runtime.agent_loop.services import Services
from runtime.config import LibraryScaffold, OpenHandsSdkScaffold, Terminus2Scaffold
from runtime.errors import Termination
from tests.runtime.proxy.scripted_engine import ScriptedEngine
from tests.runtime.scaffolds.real_agents import Play, call, check_tokens, replies

pytestmark = [pytest.mark.consumers, pytest.mark.sandbox]

OPENHANDS = OpenHandsSdkScaffold(version="1.57.0", max_turns=30, max_replies_without_tool=3, tools=("terminal",))
TERMINUS = Terminus2Scaffold(version="0.24.0", max_turns=30, max_replies_without_tool=3, parser="json")
REPAIR = "sed -i 's/a - b/a + b/' calc.py"


def runs(settings: LibraryScaffold, command: str) -> str:
    """A reply that runs one command, in the agent's own form."""
    if isinstance(settings, OpenHandsSdkScaffold):
        return call("terminal", command=command)
    keys = [{"keystrokes": f"{command}\n", "duration": 0.5}]
    return json.dumps({"analysis": "a", "plan": "p", "commands": keys})


def finishes(settings: LibraryScaffold) -> str:
    if isinstance(settings, OpenHandsSdkScaffold):
        return call("finish", message="Done.")
    return json.dumps({"analysis": "a", "plan": "p", "commands": [], "task_complete": True})


both = pytest.mark.parametrize("settings", [OPENHANDS, TERMINUS], ids=lambda settings: settings.type)


@both
def test_time_that_runs_out_is_graded_and_trained(played: Callable[..., Play], settings: LibraryScaffold) -> None:
    patient = settings.model_copy(update={"max_turns": 500})
    it = played(patient, lambda prompt: runs(settings, f"{REPAIR}; sleep {300 + replies(prompt)}"), timeout_sec=25.0)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.TIMEOUT), it.result.error or it.log
    assert it.result.trainable and it.result.model_calls >= 1 and it.log
    check_tokens(it)


@both
@pytest.mark.timeout(150)
def test_an_engine_that_fails_on_the_way_is_no_reward(played: Callable[..., Play], settings: LibraryScaffold) -> None:
    def script(prompt: str) -> str:
        if replies(prompt):
            raise ConnectionError("the engine is gone")
        return runs(settings, REPAIR)

    it = played(settings, script, timeout_sec=120.0)
    assert (it.result.reward, it.result.termination) == (None, Termination.MODEL_UNAVAILABLE), it.log
    assert not it.result.trainable and "model_unavailable" in it.log


@both
def test_the_end_of_the_budget_is_a_valid_end(played: Callable[..., Play], settings: LibraryScaffold) -> None:
    def script(prompt: str) -> str:
        return runs(settings, f"{REPAIR}; seq 1 {200 + replies(prompt)}")

    it = played(settings, script, response_length=6000)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.OVERLONG), it.result.error or it.log
    check_tokens(it)
    assert it.result.trainable and 2 <= it.result.model_calls <= 12


@both
def test_a_summary_begins_a_conversation_of_its_own(played: Callable[..., Play], settings: LibraryScaffold) -> None:
    settings = settings.model_copy(update={"compact_tokens": 10_000})
    steps = 0

    def script(prompt: str) -> str:
        nonlocal steps
        asked = prompt.rpartition("<|im_start|>user")[2].lower()
        if "summary" in asked or "has a few questions for you" in asked:
            return "The sign in calc.py is wrong; nothing is done yet. What is the path? It is /app/calc.py."
        steps += 1
        if steps <= 6:
            return runs(settings, f"seq {steps}000 {steps}900 | tr '\\n' ' '")
        return runs(settings, REPAIR) if steps == 7 else finishes(settings)

    it = played(settings, script)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    kinds = [turn.kind for turn in it.trajectory.turns]
    if isinstance(settings, OpenHandsSdkScaffold):  # asks for its summary without tools, in a conversation aside
        assert "auxiliary" in kinds and it.trajectory.accounting.auxiliary > 0
    else:
        assert "auxiliary" not in kinds and it.result.metrics["summaries"] >= 1
    assert len(it.trajectory.samples) >= 2 and it.trajectory.accounting.lost == 0


@both
def test_the_secret_of_the_session_is_nowhere_to_be_seen(
    played: Callable[..., Play], settings: LibraryScaffold
) -> None:
    look = 'env; tr "\\0" "\\n" < /proc/$PPID/environ; tr "\\0" " " < /proc/$PPID/cmdline'
    secrets: list[str] = []

    def note(services: Services, engine: ScriptedEngine) -> None:
        opened = services.proxy.open_session

        def open_session(*args: Any) -> Any:
            session = opened(*args)
            secrets.append(session.secret)
            return session

        services.proxy.open_session = open_session  # type: ignore[method-assign]

    it = played(settings, lambda prompt: finishes(settings) if replies(prompt) else runs(settings, look), disturb=note)
    assert it.result.termination is Termination.COMPLETED, it.result.error or it.log
    (secret,) = secrets
    assert "LIVERL_WORKDIR=/app" in it.prompts[1] and secret not in it.prompts[1]
    logs = list((it.folder / "agent").iterdir())
    assert len(logs) >= 2 and not [log.name for log in logs if secret in log.read_text(errors="replace")]


@both
def test_a_reply_that_is_cut_is_kept_as_it_was_sampled(played: Callable[..., Play], settings: LibraryScaffold) -> None:
    def script(prompt: str) -> str:
        steps = ["Let me think. " * 100, runs(settings, REPAIR), finishes(settings)]
        return steps[min(replies(prompt), 2)]

    it = played(settings, script, max_tokens_per_turn=250)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    assert it.trajectory.accounting.lost == 0 and len(it.trajectory.samples) == 1
