"""Plan -> verl's ``algorithm`` section and the actor's policy loss."""

from __future__ import annotations

from compiler.facts import Facts, section
from compiler.plan import Plan
from compiler.spec.algorithm import (
    BypassCorrection,
    ClipCovLoss,
    DecoupledCorrection,
    DroLoss,
    Grpo,
    Gspo,
    Importance,
    KlCovLoss,
    KlLoss,
    KlReward,
    Loss,
    Ppo,
    RatioRejection,
    ReinforcePlusPlus,
    Rejection,
    SapoLoss,
)

ACTOR = "actor_rollout_ref.actor"
RENAMED_ESTIMATORS = {"gspo": "grpo", "ppo": "gae", "remax": "liverl_remax"}
"""Spec algorithms whose name is not verl's ``algorithm.adv_estimator``. ``liverl_remax`` is verl's own ReMax with the
greedy baseline that its V1 trainer does not hand over (``runtime.trainer.estimators``)."""
UNSERVED_ESTIMATORS = {
    "gdpo": "verl 0.9.1's V1 trainer hands it no rewards but the one of the verifier",
    "optimal_token_baseline": "verl 0.9.1's V1 trainer neither computes nor hands it sum_pi_squared",
    "tir_optimal_token_baseline": "verl 0.9.1's V1 trainer neither computes nor hands it sum_pi_squared",
}
"""What verl registers and the spec leaves out, and why; a test shows that verl still fails on each."""


def estimator(plan: Plan) -> str:
    return RENAMED_ESTIMATORS.get(plan.spec.algorithm.type, plan.spec.algorithm.type)


def put_algorithm(plan: Plan, facts: Facts) -> None:
    algorithm, put = plan.spec.algorithm, facts.derive
    kl = algorithm.kl
    put("algorithm.adv_estimator", lambda: estimator(plan))
    with facts.section():
        if isinstance(algorithm, Ppo):
            put("algorithm.gamma", lambda: algorithm.gamma)
            put("algorithm.lam", lambda: algorithm.gae_lambda)
        elif isinstance(algorithm, ReinforcePlusPlus):
            put("algorithm.gamma", lambda: algorithm.gamma)
        elif isinstance(algorithm, Grpo | Gspo):
            put("algorithm.norm_adv_by_std_in_grpo", lambda: algorithm.normalize_by_std)
    put("algorithm.use_kl_in_reward", lambda: isinstance(kl, KlReward))
    with facts.section():
        if isinstance(kl, KlReward):
            put("algorithm.kl_penalty", lambda: kl.estimator)
            facts.decide("algorithm.kl_ctrl.type", "fixed", "a fixed coefficient")
            put("algorithm.kl_ctrl.kl_coef", lambda: kl.coefficient)
    with facts.section():
        if algorithm.drop_uniform_groups:
            put("algorithm.filter_groups.enable", lambda: algorithm.drop_uniform_groups)
            facts.decide("algorithm.filter_groups.metric", "reward", "the verifier's reward, before any KL")
    _correction(plan, facts)


@section
def _correction(plan: Plan, facts: Facts) -> None:
    correction, prefix, put = plan.spec.algorithm.correction, "algorithm.rollout_correction", facts.derive
    if not isinstance(correction, DecoupledCorrection | BypassCorrection):
        return
    put(f"{prefix}.rollout_is", lambda: correction.importance.level if correction.importance else None)
    with facts.section():
        if importance := correction.importance:
            put(f"{prefix}.rollout_is_threshold", lambda: _threshold(importance))
            put(f"{prefix}.rollout_is_batch_normalize", lambda: importance.normalize)
    put(f"{prefix}.rollout_rs", lambda: ",".join(one.type for one in correction.rejection) or None)
    with facts.section():
        if correction.rejection:
            put(f"{prefix}.rollout_rs_threshold", lambda: ",".join(map(_bounds, correction.rejection)))
    put(f"{prefix}.bypass_mode", lambda: isinstance(correction, BypassCorrection))
    if isinstance(correction, BypassCorrection):
        put(f"{prefix}.loss_type", lambda: correction.loss)


def _threshold(importance: Importance) -> float | str:
    """verl writes a range as ``lower_upper`` and a single bound as a number."""
    return importance.upper if importance.lower is None else f"{importance.lower!r}_{importance.upper!r}"


def _bounds(rejection: Rejection) -> str:
    if isinstance(rejection, RatioRejection):
        return f"{rejection.lower!r}_{rejection.upper!r}"
    return repr(rejection.upper)


def policy_loss(plan: Plan) -> Loss | None:
    """The loss of the spec; None where the algorithm brings its own."""
    algorithm = plan.spec.algorithm
    return None if isinstance(algorithm, Gspo) else algorithm.loss


def put_loss(plan: Plan, facts: Facts) -> None:
    """The actor's loss: aggregation, clipping, entropy, KL."""
    algorithm, put, prefix = plan.spec.algorithm, facts.derive, f"{ACTOR}.policy_loss"
    put(f"{prefix}.loss_mode", lambda: "gspo" if (loss := policy_loss(plan)) is None else loss.type)
    with facts.section():
        loss = policy_loss(plan)
        if isinstance(loss, SapoLoss):
            put(f"{ACTOR}.tau_pos", lambda: loss.tau_positive)
            put(f"{ACTOR}.tau_neg", lambda: loss.tau_negative)
        elif isinstance(loss, ClipCovLoss):
            put(f"{prefix}.clip_cov_ratio", lambda: loss.ratio)
            put(f"{prefix}.clip_cov_lb", lambda: loss.lower)
            put(f"{prefix}.clip_cov_ub", lambda: loss.upper)
        elif isinstance(loss, KlCovLoss):
            put(f"{prefix}.kl_cov_ratio", lambda: loss.ratio)
            put(f"{prefix}.ppo_kl_coef", lambda: loss.coefficient)
        elif isinstance(loss, DroLoss):
            put(f"{prefix}.dro_beta", lambda: loss.beta)
    put(f"{ACTOR}.loss_agg_mode", lambda: algorithm.loss_aggregation)
    put(f"{ACTOR}.clip_ratio", lambda: algorithm.clip.low)
    put(f"{ACTOR}.clip_ratio_low", lambda: algorithm.clip.low)
    put(f"{ACTOR}.clip_ratio_high", lambda: algorithm.clip.high)
    put(f"{ACTOR}.clip_ratio_c", lambda: algorithm.clip.dual)
    put(f"{ACTOR}.entropy_coeff", lambda: algorithm.entropy_coefficient)
    kl = algorithm.kl
    put(f"{ACTOR}.use_kl_loss", lambda: isinstance(kl, KlLoss))
    with facts.section():
        if isinstance(kl, KlLoss):
            put(f"{ACTOR}.kl_loss_coef", lambda: kl.coefficient)
            put(f"{ACTOR}.kl_loss_type", lambda: kl.estimator)
