"""A batch in which every agent died, and those that only look like one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.agent_loop.deaths import why_all_died
from runtime.agent_loop.trial import TrialRunner
from runtime.errors import HANDLING, Termination
from runtime.task import Task
from tests.runtime.agent_loop.conftest import Opened, make_config, make_key
from tests.runtime.agent_loop.test_step_metrics import trial

DIED = trial(0.0, Termination.AGENT_DIED, cause="no python3")


def test_the_commonest_cause_is_told() -> None:
    other = trial(0.0, Termination.AGENT_DIED, cause="something else")
    lost = trial(None, Termination.SANDBOX_LOST)
    why = why_all_died([other, DIED, DIED, lost])
    assert why is not None and "3 of 4" in why and "no python3" in why and "1 trials had no grade" in why


@given(st.lists(st.sampled_from(list(Termination)), max_size=6))
def test_one_agent_that_lived_is_enough(ends: list[Termination]) -> None:
    others = [trial(0.0 if HANDLING[end].grade else None, end) for end in ends]
    assert why_all_died([*others, DIED, trial(0.0)]) is None
    lived = any(one.reward is not None and one.termination is not Termination.AGENT_DIED for one in others)
    assert (why_all_died([*others, DIED, DIED]) is None) == lived


def test_one_death_or_nothing_graded_is_not_meant() -> None:
    assert why_all_died([]) is None and why_all_died([DIED]) is None
    assert why_all_died([trial(None, Termination.ENV_SETUP_FAILED)] * 4) is None


def test_a_dead_agents_words_are_kept(opened: Opened, task: Task, tmp_path: Path) -> None:
    config = make_config()

    async def main() -> None:
        async with opened(["look", "CRASH"], config) as (services, _):
            result = await TrialRunner(services, config, trials=tmp_path).run(task, key=make_key(), temperature=1.0)
        assert result.termination is Termination.AGENT_DIED and result.error is None
        assert result.cause is not None and "exit code 7" in result.cause
        assert result.record()["cause"] == result.cause

    asyncio.run(main())


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_a_single_solved_trial_counts_as_life_only_if_its_agent_lived(reward: float) -> None:
    """What a dead agent had done before is graded, but it does not show that agents work."""
    assert why_all_died([DIED, trial(reward, Termination.AGENT_DIED)]) is not None
