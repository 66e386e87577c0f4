"""The real OpenCode in a sandbox without network, against the real proxy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runtime.agent_loop.services import Services
from runtime.config import OpenCodeScaffold
from runtime.errors import Termination
from tests.runtime.proxy.scripted_engine import ScriptedEngine
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
