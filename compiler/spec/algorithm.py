"""What is optimised: estimator, policy loss, clipping, KL. Names in verl's own terms where verl has one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compiler.spec.base import Count, LearningRate, Model, NonNegative, Positive, Share, Whole

LossAggregation = Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


class Clip(Model):
    """Range of the probability ratio."""

    low: Share = 0.2
    """The ratio is clipped below 1 - low."""
    high: NonNegative = 0.2
    """... and above 1 + high."""
    dual: Annotated[float, Field(gt=1.0)] = 3.0
    """Bound of the loss where the advantage is negative (dual-clip PPO)."""


class NoKl(Model):
    """No pull towards the starting policy."""

    type: Literal["off"]


class KlLoss(Model):
    """KL to the reference policy as a term of the loss."""

    type: Literal["loss"]
    coefficient: NonNegative
    estimator: Literal["kl", "abs", "mse", "low_var_kl", "full"] = "low_var_kl"


class KlReward(Model):
    """KL to the reference policy taken off the reward."""

    type: Literal["reward"]
    coefficient: NonNegative
    estimator: Literal["kl", "abs", "mse", "low_var_kl", "full"] = "kl"


Kl = Annotated[NoKl | KlLoss | KlReward, Field(discriminator="type")]


class _PolicyGradient(Model):
    group_size: Count
    """Trajectories per prompt."""
    clip: Clip = Clip()
    kl: Kl = NoKl(type="off")
    entropy_coefficient: NonNegative = 0.0
    """Weight of the entropy bonus."""
    epochs: Count = 1
    """Passes over each batch of trajectories."""


class Grpo(_PolicyGradient):
    """Group-relative advantages with PPO's clipped loss per token."""

    type: Literal["grpo"]
    normalize_by_std: bool = True
    """Divide advantages by the standard deviation within the group (false: Dr. GRPO)."""
    loss_aggregation: LossAggregation = "token-mean"


class Gspo(_PolicyGradient):
    """Group-relative advantages with one ratio per sequence; the clip range is about a thousand times narrower than
    PPO's."""

    type: Literal["gspo"]
    normalize_by_std: bool = True
    """Divide advantages by the standard deviation within the group."""
    loss_aggregation: LossAggregation = "seq-mean-token-mean"


class Critic(Model):
    """The value model of PPO, initialised from the policy."""

    learning_rate: LearningRate
    warmup_steps: Whole = 0
    """Steps in which only the critic learns."""
    clip_range: Positive = 0.5
    """Range of the value loss."""


class Ppo(_PolicyGradient):
    """Generalised advantage estimation with a critic."""

    type: Literal["ppo"]
    critic: Critic
    gamma: Share = 1.0
    """Discount per token."""
    gae_lambda: Share = 1.0
    """Bias against variance of the advantage."""
    loss_aggregation: LossAggregation = "token-mean"


Algorithm = Annotated[Grpo | Gspo | Ppo, Field(discriminator="type")]
