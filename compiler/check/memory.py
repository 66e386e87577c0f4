"""Whether weights, activations and the cache of keys and values fit into the GPUs. Knows no sizes by itself: they are
``compiler.memory``'s."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.check.rule import Rule
from compiler.errors import Problem
from compiler.memory import GPU_GIB
from compiler.plan import Plan
from compiler.spec.mode import SeparateAsync
from compiler.spec.rollout import VllmRollout
from runtime.config.policy import NewPolicy

_GIB = 1 << 30


def gpu_memory(plan: Plan) -> Iterator[Problem]:
    spec, memory = plan.spec, plan.policy_memory
    if spec.trainer.device == "cpu":
        return
    if memory is None:
        yield Problem(
            ("policy", "path"),
            f'the sizes of "{_path(plan)}" are unknown: neither parallel sizes nor memory can be checked',
            fix="add policy.facts",
            severity="warn",
        )
        return
    if spec.trainer.gpu is None:
        return
    limit = GPU_GIB[spec.trainer.gpu]
    state = memory.trainer_state
    shown = f"weights {_gib(memory.weights)} + gradients {_gib(memory.gradients)} + optimizer {_gib(memory.optimizer)}"
    beside = memory.resident_beside
    if beside:
        others = " and ".join(
            name for name, there in (("critic", plan.needs_critic), ("reference", plan.needs_reference)) if there
        )
        shown += f" + {others} {_gib(beside)}"
        state += beside
    if state > limit * _GIB:
        yield Problem(
            ("trainer", "ranks_per_node"),
            f"{shown} = {_gib(state)} per GPU, but the {spec.trainer.gpu} has {limit} GiB",
            fix="train on more GPUs, with LoRA" + (", or set trainer.offload" if beside else ""),
        )
    elif state + memory.activations > limit * _GIB:
        yield Problem(
            ("trainer", "micro_batch_size" if spec.trainer.max_tokens_per_rank is None else "max_tokens_per_rank"),
            f"{shown} + activations of about {_gib(memory.activations)} = {_gib(state + memory.activations)} per GPU, "
            f"but the {spec.trainer.gpu} has {limit} GiB",
            fix="shard sequences (sequence_parallel, context_parallel), recompute (gradient_checkpointing), or shorten",
            severity="warn",
        )
    yield from _vllm_memory(plan, limit)


def _vllm_memory(plan: Plan, limit: int) -> Iterator[Problem]:
    spec, memory = plan.spec, plan.policy_memory
    assert memory is not None
    if not isinstance(spec.rollout, VllmRollout):
        return
    share = spec.rollout.gpu_memory_utilization * limit * _GIB
    weights, cache = memory.rollout_weights, memory.kv_cache_per_sequence
    if weights + cache > share:
        yield Problem(
            ("rollout", "gpu_memory_utilization"),
            f"{spec.rollout.gpu_memory_utilization} x {limit} GiB = {_gib(share)} for vLLM, but weights take "
            f"{_gib(weights)} and one sequence of {plan.sequence_length:,} tokens {_gib(cache)}",
            fix="raise it or rollout.tensor_parallel_size",
        )
    if isinstance(spec.mode, SeparateAsync):
        return
    kept = 0 if spec.trainer.offload.parameters else memory.weights
    kept += 0 if spec.trainer.offload.optimizer else memory.optimizer
    kept += memory.resident_beside
    if share + kept > limit * _GIB:
        yield Problem(
            ("rollout", "gpu_memory_utilization"),
            f"vLLM's {_gib(share)} and the trainer's resident {_gib(kept)} exceed the {limit} GiB of the "
            f"{spec.trainer.gpu} while rolling out",
            fix="set trainer.offload, lower gpu_memory_utilization, or train on more GPUs",
        )


def _path(plan: Plan) -> str:
    return "a new policy" if isinstance(plan.spec.policy, NewPolicy) else plan.spec.policy.path


def _gib(size: float) -> str:
    return f"{size / _GIB:,.1f} GiB"


RULES: tuple[Rule, ...] = (gpu_memory,)
