"""ReMax in verl's registry: verl's arithmetic on the agent loop's baselines."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.verl, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def forgotten() -> Any:
    """No baseline of one test reaches another."""
    from runtime.trainer.estimators import BASELINES

    yield
    BASELINES._rewards.clear()


def test_advantages_are_rewards_less_the_greedy_one() -> None:
    import numpy as np
    import torch
    from verl import DataProto
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

    from runtime.trainer.estimators import BASELINES, REMAX

    BASELINES.put("a", 1.0)
    BASELINES.put("b", 0.25)
    mask = torch.tensor([[1, 0, 1], [1, 1, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.float32)
    rewards = torch.zeros(4, 3)
    rewards[0, 2] = rewards[2, 1] = 1.0
    uids = ["a", "a", "b", "padf00"]
    data = DataProto.from_single_dict(
        {"response_mask": mask, "token_level_rewards": rewards, "uid": np.array(uids, dtype=object)}
    )
    keys = [f"{uid}_{row}_0" for row, uid in enumerate(uids)]
    found = compute_advantage_for_multi_trajectories(data, batch_keys=keys, adv_estimator=REMAX, config={})
    # What the agent wrote in each row, against 1.0 and 0.25; what tools wrote counts nothing.
    expected = torch.tensor([[0, 0, 0], [-1, -1, -1], [0.75, 0.75, 0], [0, 0, 0]])
    assert torch.equal(found.batch["advantages"] * mask, expected * mask)


def test_a_prompt_without_a_baseline_is_loud() -> None:
    from runtime.trainer.estimators import BASELINES

    BASELINES.put("a", 0.5)
    assert BASELINES.take(["a", "a", "pad1"]) == [0.5, 0.5, 0.0]
    with pytest.raises(KeyError):
        BASELINES.take(["a"])
