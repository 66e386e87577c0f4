"""Plan -> arguments of ``vllm serve --config`` (``vllm.yaml``), canonical long names only.

Where the experiment rolls out with LiveRL's own engine, this file serves the same policy under the same limits for a
look by hand.
"""

from __future__ import annotations

from compiler.facts import Facts, section
from compiler.plan import Plan
from compiler.spec.rollout import VllmRollout
from compiler.vllm_flags import catalogue
from runtime.config.policy import NewPolicy


def lower_vllm(plan: Plan) -> Facts:
    facts = Facts(plan.reads)
    spec, put = plan.spec, facts.derive
    put(
        "model",
        lambda: "policy" if isinstance(spec.policy, NewPolicy) else spec.policy.path,
        why="relative to the run directory, where a new policy is made",
    )
    facts.decide("served-model-name", ["policy"], "the name that scaffolds ask for")
    put("dtype", lambda: "float32" if spec.trainer.precision == "fp32" else "bfloat16")
    put("max-model-len", lambda: plan.sequence_length)
    put("max-num-seqs", lambda: spec.rollout.slots)
    put("seed", lambda: spec.seed)
    facts.decide("generation-config", "vllm", "sampling comes with each request, never from the model folder")
    facts.decide("logprobs-mode", "processed_logprobs", "log-probabilities of the distribution that was sampled from")
    facts.decide("enable-prefix-caching", True, "turns of one trajectory share their beginning")
    with facts.section():
        if isinstance(spec.rollout, VllmRollout):
            _engine(plan, facts, spec.rollout)
    return facts


def _engine(plan: Plan, facts: Facts, rollout: VllmRollout) -> None:
    put = facts.derive
    put("tensor-parallel-size", lambda: rollout.tensor_parallel_size)
    put("gpu-memory-utilization", lambda: rollout.gpu_memory_utilization)
    put("enforce-eager", lambda: rollout.enforce_eager)
    put("max-num-batched-tokens", lambda: rollout.max_batched_tokens)
    with facts.section():
        if rollout.expert_parallel:
            put("enable-expert-parallel", lambda: rollout.expert_parallel)
    with facts.section():
        if plan.spec.routing_replay == "R3":
            put("enable-return-routed-experts", lambda: plan.spec.routing_replay == "R3")
    for name in rollout.flags:
        _put_flag(rollout, facts, name)


@section
def _put_flag(rollout: VllmRollout, facts: Facts, name: str) -> None:
    """As the file's reader takes it: null would become the text "None", and false nothing at all, also where the
    default is true or left to vLLM."""
    value = rollout.flags[name]
    if value is False and f"--no-{name}" in catalogue(rollout.version)[name]["options"]:
        why = "in this file false would be the same as not set"
        facts.derive(f"no-{name}", lambda: rollout.flags[name] is False, why=why)
    elif value is not None:
        facts.derive(name, lambda: rollout.flags[name])
