"""What is optimised: estimator, policy loss, clipping, KL. Names in verl's own terms where verl has one."""

from typing import Annotated, Literal

from pydantic import Field

from runtime.config.base import Count, LearningRate, Model, NonNegative, Positive, Share, Whole
from runtime.config.run import TrajectoryFilter

LossAggregation = Literal[
    "token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
]
Covariance = Annotated[float, Field(ge=-1e6, le=1e6)]
KlEstimator = Literal["kl", "abs", "mse", "low_var_kl"]
"""verl's names. Its ``full`` is left out: verl 0.9.1 names it and has not written it."""


class Clip(Model):
    """Range of the probability ratio."""

    low: Share = 0.2
    """The ratio is clipped below 1 - low."""
    high: NonNegative = 0.2
    """... and above 1 + high."""
    dual: Annotated[float, Field(gt=1.0, le=1e6)] = 3.0
    """Bound of the loss where the advantage is negative (dual-clip PPO)."""


class NoKl(Model):
    """No pull towards the starting policy."""

    type: Literal["off"]


class KlLoss(Model):
    """KL to the reference policy as a term of the loss."""

    type: Literal["loss"]
    coefficient: NonNegative
    estimator: KlEstimator = "low_var_kl"


class KlReward(Model):
    """KL to the reference policy taken off the reward."""

    type: Literal["reward"]
    coefficient: NonNegative
    estimator: KlEstimator = "kl"


Kl = Annotated[NoKl | KlLoss | KlReward, Field(discriminator="type")]


class PlainLoss(Model):
    """A policy loss of verl without settings beyond the clip range: PPO's (``vanilla``), GPG's, the geometric mean of
    the ratios (``geo_mean``), CISPO's, or DPPO's, whose clip range bounds the total variation (``dppo_tv``) or the KL
    divergence (``dppo_kl``)."""

    type: Literal["vanilla", "gpg", "geo_mean", "cispo", "dppo_tv", "dppo_kl"]


class SapoLoss(Model):
    """Soft gates in place of clipping (SAPO)."""

    type: Literal["sapo"]
    tau_positive: Positive = 1.0
    """Temperature of the gate where the advantage is positive."""
    tau_negative: Positive = 1.05
    """... and where it is negative; larger is stricter."""


class ClipCovLoss(Model):
    """Tokens whose log-probability and advantage vary together most are left out (Clip-Cov)."""

    type: Literal["clip_cov"]
    ratio: Share = 0.0002
    """Share of tokens left out."""
    lower: Covariance = 1.0
    """Covariance from which a token may be left out."""
    upper: Covariance = 5.0
    """... and up to which."""


class KlCovLoss(Model):
    """The same tokens get a KL penalty instead (KL-Cov)."""

    type: Literal["kl_cov"]
    ratio: Share = 0.0002
    """Share of tokens that are penalised."""
    coefficient: NonNegative = 0.1
    """Weight of the penalty."""


class DroLoss(Model):
    """A quadratic penalty on the log-ratio in place of clipping (DRO)."""

    type: Literal["dro"]
    beta: Positive
    """Weight of the penalty."""


Loss = Annotated[PlainLoss | SapoLoss | ClipCovLoss | KlCovLoss | DroLoss, Field(discriminator="type")]


class Importance(Model):
    """Weights for the difference between the policy that sampled and the one that trains."""

    level: Literal["token", "sequence"] = "token"
    """One weight per token, or one per trajectory (unbiased, but of high variance on long ones)."""
    upper: Positive = 2.0
    """Weights above are cut to this value; with ``lower`` they count as 0 (IcePop)."""
    lower: Positive | None = None
    """Weights below count as 0."""
    normalize: bool = False
    """Scale the weights of a batch to a mean of 1."""


Divergence = Literal[
    "token_k2",
    "token_k3",
    "seq_sum_k2",
    "seq_sum_k3",
    "seq_mean_k2",
    "seq_mean_k3",
    "seq_max_k2",
    "seq_max_k3",
]


class RatioRejection(Model):
    """Leave out where the ratio of the two policies is outside a range."""

    type: Literal["token_k1", "seq_sum_k1", "seq_mean_k1"]
    lower: Positive
    upper: Positive


class DivergenceRejection(Model):
    """Leave out where an estimate of the divergence of the two policies is large."""

    type: Divergence
    upper: Positive


Rejection = Annotated[RatioRejection | DivergenceRejection, Field(discriminator="type")]


class NoCorrection(Model):
    """The rollout's and the trainer's log-probabilities are compared in the metrics and nothing more."""

    type: Literal["off"]


class DecoupledCorrection(Model):
    """Old log-probabilities are computed again by the trainer; weights or rejection correct for the sampler."""

    type: Literal["decoupled"]
    importance: Importance | None = Importance.model_construct()
    """null: no weights."""
    rejection: tuple[Rejection, ...] = ()
    """Criteria by which tokens or trajectories are left out."""


class BypassCorrection(Model):
    """The rollout's log-probabilities serve as the old ones: one forward pass less per step."""

    type: Literal["bypass"]
    loss: Literal["ppo_clip", "reinforce"] = "ppo_clip"
    """``ppo_clip``: the clipped ratio corrects; ``reinforce``: explicit weights do, without clipping."""
    importance: Importance | None = None
    """Weights of ``reinforce``."""
    rejection: tuple[Rejection, ...] = ()


Correction = Annotated[NoCorrection | DecoupledCorrection | BypassCorrection, Field(discriminator="type")]


class _PolicyGradient(Model):
    group_size: Count
    """Trajectories per prompt."""
    clip: Clip = Clip.model_construct()
    kl: Kl = NoKl.model_construct(type="off")
    correction: Correction = NoCorrection.model_construct(type="off")
    """What is done about the difference between the engine that samples and the one that trains."""
    drop_uniform_groups: bool = False
    """Replace groups whose trajectories all have the same reward by new ones (DAPO's dynamic sampling)."""
    trajectory_filter: TrajectoryFilter = TrajectoryFilter.model_construct()
    entropy_coefficient: NonNegative = 0.0
    """Weight of the entropy bonus."""
    epochs: Count = 1
    """Passes over each batch of trajectories."""


class Grpo(_PolicyGradient):
    """Group-relative advantages. ``grpo_passk`` rewards only the best of a group, by its lead over the second best."""

    type: Literal["grpo", "grpo_vectorized", "grpo_passk"]
    normalize_by_std: bool = True
    """Divide advantages by the standard deviation within the group (false: Dr. GRPO)."""
    loss: Loss = PlainLoss.model_construct(type="vanilla")
    loss_aggregation: LossAggregation = "token-mean"


class Gspo(_PolicyGradient):
    """Group-relative advantages with one ratio per sequence; the clip range is about a thousand times narrower than
    PPO's."""

    type: Literal["gspo"]
    normalize_by_std: bool = True
    """Divide advantages by the standard deviation within the group."""
    loss_aggregation: LossAggregation = "seq-mean-token-mean"


class GroupBaseline(_PolicyGradient):
    """REINFORCE with a baseline from the other trajectories of the prompt: RLOO (leave one out), OPO (weighted by
    length), GPG, or REINFORCE++ with baseline."""

    type: Literal["rloo", "rloo_vectorized", "opo", "gpg", "reinforce_plus_plus_baseline"]
    loss: Loss = PlainLoss.model_construct(type="vanilla")
    loss_aggregation: LossAggregation = "token-mean"


class ReinforcePlusPlus(_PolicyGradient):
    """REINFORCE with advantages whitened over the batch, without a group."""

    type: Literal["reinforce_plus_plus"]
    gamma: Share = 1.0
    """Discount per token."""
    loss: Loss = PlainLoss.model_construct(type="vanilla")
    loss_aggregation: LossAggregation = "token-mean"


class Remax(_PolicyGradient):
    """REINFORCE with the reward of one greedy trial of the prompt as its baseline (ReMax). That trial is rolled out
    beside the group and not trained on; without its grade the prompt is left out."""

    type: Literal["remax"]
    loss: Loss = PlainLoss.model_construct(type="vanilla")
    loss_aggregation: LossAggregation = "token-mean"


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
    loss: Loss = PlainLoss.model_construct(type="vanilla")
    loss_aggregation: LossAggregation = "token-mean"


Algorithm = Annotated[Grpo | Gspo | GroupBaseline | ReinforcePlusPlus | Remax | Ppo, Field(discriminator="type")]
