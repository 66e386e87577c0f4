"""ReMax for verl's V1 trainer, which computes advantages without the greedy baseline that ReMax subtracts.

Importing this module puts an estimator into verl's own registry, under a name of ours. It asks the agent loop, which
lives in the same process, for the baselines and leaves the arithmetic to verl. Upstream: ``register_adv_est`` and
``compute_remax_outcome_advantage`` in ``verl/trainer/ppo/core_algos.py``; ``_compute_advantage`` in
``verl/trainer/ppo/v1/trainer_base.py``, 0.9.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from verl.trainer.ppo import core_algos

REMAX = "liverl_remax"
"""``algorithm.adv_estimator`` of a ReMax run."""
_PADDING = "pad"
"""How verl begins the uid of a row that only fills the batch; its rewards and mask are zero."""


class Baselines:
    """Reward of the greedy trial of each prompt of the batch that is being made."""

    def __init__(self) -> None:
        self._rewards: dict[str, float] = {}

    def put(self, uid: str, reward: float) -> None:
        self._rewards[uid] = reward

    def take(self, uids: Sequence[str]) -> list[float]:
        """One reward per row; what was taken is forgotten. Raises ``KeyError`` for a prompt without a baseline: its
        trajectories must not have been published."""
        found = [0.0 if uid.startswith(_PADDING) else self._rewards[uid] for uid in uids]
        for uid in set(uids):
            self._rewards.pop(uid, None)
        return found


BASELINES = Baselines()
"""The agent loop puts, the estimator takes; both live in verl's task runner."""


@core_algos.register_adv_est(REMAX)  # type: ignore[untyped-decorator]
def remax(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Sequence[str], **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns, both (batch, response length). ``index``: the uid of each row's prompt."""
    baselines = torch.tensor(BASELINES.take([str(uid) for uid in index]), dtype=token_level_rewards.dtype)
    advantages, returns = core_algos.compute_remax_outcome_advantage(
        token_level_rewards=token_level_rewards,
        reward_baselines=baselines.to(token_level_rewards.device),
        response_mask=response_mask,
    )
    return advantages, returns
