"""Plan -> arguments of ``vllm serve --config`` (``vllm.yaml``), canonical long names only.

Where the experiment rolls out with LiveRL's own engine, this file serves the same policy under the same limits for a
look by hand.
"""

from __future__ import annotations

from compiler.facts import Facts, Value
from compiler.plan import Plan
from compiler.spec.rollout import VllmRollout
from compiler.vllm_flags import catalogue
from runtime.config.policy import NewPolicy


def lower_vllm(plan: Plan) -> Facts:
    spec, facts = plan.spec, Facts()
    rollout = spec.rollout
    model = "policy" if isinstance(spec.policy, NewPolicy) else spec.policy.path
    facts.follow("model", model, "policy", why="relative to the run directory, where a new policy is made")
    facts.decide("served-model-name", ["policy"], "the name that scaffolds ask for")
    facts.follow("dtype", "float32" if spec.trainer.precision == "fp32" else "bfloat16", "trainer.precision")
    facts.follow("max-model-len", plan.sequence_length, "rollout.prompt_length", "rollout.response_length")
    facts.follow("max-num-seqs", rollout.slots, "rollout.slots")
    facts.follow("seed", spec.seed, "seed")
    facts.decide("generation-config", "vllm", "sampling comes with each request, never from the model folder")
    facts.decide("logprobs-mode", "processed_logprobs", "log-probabilities of the distribution that was sampled from")
    facts.decide("enable-prefix-caching", True, "turns of one trajectory share their beginning")
    if isinstance(rollout, VllmRollout):
        facts.follow("tensor-parallel-size", rollout.tensor_parallel_size, "rollout.tensor_parallel_size")
        facts.follow("gpu-memory-utilization", rollout.gpu_memory_utilization, "rollout.gpu_memory_utilization")
        facts.follow("enforce-eager", rollout.enforce_eager, "rollout.enforce_eager")
        facts.follow("max-num-batched-tokens", rollout.max_batched_tokens, "rollout.max_batched_tokens")
        if rollout.expert_parallel:
            facts.follow("enable-expert-parallel", True, "rollout.expert_parallel")
        if spec.routing_replay == "R3":
            facts.follow("enable-return-routed-experts", True, "routing_replay")
        for name, value in rollout.flags.items():
            _put_flag(facts, name, value, version=rollout.version)
    return facts


def _put_flag(facts: Facts, name: str, value: Value, *, version: str) -> None:
    """As the file's reader takes it: null would become the text "None", and false nothing at all, also where the
    default is true or left to vLLM."""
    origin = f"rollout.flags.{name}"
    if value is None:
        return
    if value is False and f"--no-{name}" in catalogue(version)[name]["options"]:
        facts.follow(f"no-{name}", True, origin, why="in this file false would be the same as not set")
    else:
        facts.follow(name, value, origin)
