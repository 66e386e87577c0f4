"""Plan -> verl's ``algorithm`` section and the actor's policy loss."""

from __future__ import annotations

from compiler.facts import Facts
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
    PlainLoss,
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
    algorithm, put = plan.spec.algorithm, facts.follow
    put("algorithm.adv_estimator", estimator(plan), "algorithm.type")
    if isinstance(algorithm, Ppo):
        put("algorithm.gamma", algorithm.gamma, "algorithm.gamma")
        put("algorithm.lam", algorithm.gae_lambda, "algorithm.gae_lambda")
    elif isinstance(algorithm, ReinforcePlusPlus):
        put("algorithm.gamma", algorithm.gamma, "algorithm.gamma")
    elif isinstance(algorithm, Grpo | Gspo):
        put("algorithm.norm_adv_by_std_in_grpo", algorithm.normalize_by_std, "algorithm.normalize_by_std")
    put("algorithm.use_kl_in_reward", isinstance(algorithm.kl, KlReward), "algorithm.kl.type")
    if isinstance(algorithm.kl, KlReward):
        put("algorithm.kl_penalty", algorithm.kl.estimator, "algorithm.kl.estimator")
        facts.decide("algorithm.kl_ctrl.type", "fixed", "a fixed coefficient")
        put("algorithm.kl_ctrl.kl_coef", algorithm.kl.coefficient, "algorithm.kl.coefficient")
    if algorithm.drop_uniform_groups:
        put("algorithm.filter_groups.enable", True, "algorithm.drop_uniform_groups")
        facts.decide("algorithm.filter_groups.metric", "reward", "the verifier's reward, before any KL")
    _correction(plan, facts)


def _correction(plan: Plan, facts: Facts) -> None:
    correction, prefix = plan.spec.algorithm.correction, "algorithm.rollout_correction"
    put, place = facts.follow, "algorithm.correction"
    if not isinstance(correction, DecoupledCorrection | BypassCorrection):
        return
    importance = correction.importance
    put(f"{prefix}.rollout_is", importance.level if importance else None, f"{place}.importance")
    if importance is not None:
        put(f"{prefix}.rollout_is_threshold", _threshold(importance), f"{place}.importance")
        put(f"{prefix}.rollout_is_batch_normalize", importance.normalize, f"{place}.importance.normalize")
    criteria = ",".join(one.type for one in correction.rejection)
    put(f"{prefix}.rollout_rs", criteria or None, f"{place}.rejection")
    if criteria:
        put(f"{prefix}.rollout_rs_threshold", ",".join(map(_bounds, correction.rejection)), f"{place}.rejection")
    put(f"{prefix}.bypass_mode", isinstance(correction, BypassCorrection), f"{place}.type")
    if isinstance(correction, BypassCorrection):
        put(f"{prefix}.loss_type", correction.loss, f"{place}.loss")


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
    algorithm, put = plan.spec.algorithm, facts.follow
    loss = policy_loss(plan)
    prefix = f"{ACTOR}.policy_loss"
    origin = (
        "algorithm.type" if loss is None or loss == PlainLoss.model_construct(type="vanilla") else "algorithm.loss.type"
    )
    put(f"{prefix}.loss_mode", "gspo" if loss is None else loss.type, origin)
    if isinstance(loss, SapoLoss):
        put(f"{ACTOR}.tau_pos", loss.tau_positive, "algorithm.loss.tau_positive")
        put(f"{ACTOR}.tau_neg", loss.tau_negative, "algorithm.loss.tau_negative")
    elif isinstance(loss, ClipCovLoss):
        put(f"{prefix}.clip_cov_ratio", loss.ratio, "algorithm.loss.ratio")
        put(f"{prefix}.clip_cov_lb", loss.lower, "algorithm.loss.lower")
        put(f"{prefix}.clip_cov_ub", loss.upper, "algorithm.loss.upper")
    elif isinstance(loss, KlCovLoss):
        put(f"{prefix}.kl_cov_ratio", loss.ratio, "algorithm.loss.ratio")
        put(f"{prefix}.ppo_kl_coef", loss.coefficient, "algorithm.loss.coefficient")
    elif isinstance(loss, DroLoss):
        put(f"{prefix}.dro_beta", loss.beta, "algorithm.loss.beta")
    put(f"{ACTOR}.loss_agg_mode", algorithm.loss_aggregation, "algorithm.loss_aggregation")
    put(f"{ACTOR}.clip_ratio", algorithm.clip.low, "algorithm.clip.low")
    put(f"{ACTOR}.clip_ratio_low", algorithm.clip.low, "algorithm.clip.low")
    put(f"{ACTOR}.clip_ratio_high", algorithm.clip.high, "algorithm.clip.high")
    put(f"{ACTOR}.clip_ratio_c", algorithm.clip.dual, "algorithm.clip.dual")
    put(f"{ACTOR}.entropy_coeff", algorithm.entropy_coefficient, "algorithm.entropy_coefficient")
    put(f"{ACTOR}.use_kl_loss", isinstance(algorithm.kl, KlLoss), "algorithm.kl.type")
    if isinstance(algorithm.kl, KlLoss):
        put(f"{ACTOR}.kl_loss_coef", algorithm.kl.coefficient, "algorithm.kl.coefficient")
        put(f"{ACTOR}.kl_loss_type", algorithm.kl.estimator, "algorithm.kl.estimator")
