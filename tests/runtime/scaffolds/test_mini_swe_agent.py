"""The real mini-swe-agent in a sandbox without network, against the real proxy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runtime.agent_loop.services import Services
from runtime.config import MiniSweAgentScaffold
from runtime.errors import Termination
from tests.runtime.proxy.scripted_engine import ScriptedEngine
from tests.runtime.scaffolds.real_agents import RUN_TESTS, Play, call, check_tokens, replies

SETTINGS = MiniSweAgentScaffold(version="2.4.6", max_turns=20, max_no_tool=3, command_timeout_sec=20)
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
