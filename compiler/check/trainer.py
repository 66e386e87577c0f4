"""Will it run? Rules about GPUs: parallel sizes, memory, the rollout's flags, and what verl 0.9.1 itself leaves
unchecked or silently ignores. Same form as ``compiler.check``: every rule looks at the plan and yields problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

from compiler.errors import Path, Problem
from compiler.lower_algorithm import policy_loss
from compiler.memory import GPU_GIB
from compiler.models import facts_of
from compiler.plan import Plan
from compiler.spec.algorithm import BypassCorrection, DecoupledCorrection, GradedEnd, PlainLoss, RatioRejection
from compiler.spec.mode import SeparateAsync
from compiler.spec.policy import NewPolicy, PretrainedPolicy
from compiler.spec.rollout import VllmRollout
from compiler.spec.trainer import Fsdp, Megatron
from compiler.vllm_flags import UNPAIRED, VERSION, flag_problems

Rule = Callable[[Plan], Iterator[Problem]]
_GIB = 1 << 30


def parallelism(plan: Plan) -> Iterator[Problem]:
    trainer, ranks = plan.spec.trainer, plan.trainer_ranks
    if isinstance(trainer, Megatron):
        yield from _megatron(plan, trainer)
        return
    facts = facts_of(plan.spec.policy)
    size = trainer.sequence_parallel
    if ranks % size:
        yield Problem(("trainer", "sequence_parallel"), f"{size} does not divide the {ranks} ranks", divisors(ranks))
    elif facts is not None and facts.num_heads % size:
        yield Problem(
            ("trainer", "sequence_parallel"),
            f"{size} does not divide the model's {facts.num_heads} attention heads",
            divisors(facts.num_heads),
        )
    elif facts is not None and facts.num_key_value_heads % size and size % facts.num_key_value_heads:
        yield Problem(
            ("trainer", "sequence_parallel"),
            f"{size} neither divides the model's {facts.num_key_value_heads} key-value heads nor is a multiple of them",
            divisors(facts.num_key_value_heads),
        )
    if size > 1 and not trainer.attention.startswith("flash_attention"):
        yield Problem(
            ("trainer", "attention"),
            f'"{trainer.attention}" with sequence_parallel {size}, which needs packed sequences',
            "flash_attention_2",
        )
    if trainer.shard_size is not None and (ranks // size or 1) % trainer.shard_size:
        yield Problem(
            ("trainer", "shard_size"),
            f"{trainer.shard_size} does not divide the {ranks // size} data-parallel ranks",
            divisors(ranks // size or 1),
        )
    if not isinstance(trainer, Fsdp):
        yield from _experts(plan, trainer.expert_parallel, of=ranks)


def _megatron(plan: Plan, trainer: Megatron) -> Iterator[Problem]:
    facts, ranks = facts_of(plan.spec.policy), plan.trainer_ranks
    group = trainer.tensor_parallel * trainer.pipeline_parallel * trainer.context_parallel
    if ranks % group:
        yield Problem(
            ("trainer", "pipeline_parallel"),
            f"tensor_parallel {trainer.tensor_parallel} x pipeline_parallel {trainer.pipeline_parallel} x "
            f"context_parallel {trainer.context_parallel} = {group} does not divide the {ranks} ranks",
            fix="change the parallel sizes, nodes or ranks_per_node",
        )
    if trainer.tensor_parallel > trainer.ranks_per_node:
        yield Problem(
            ("trainer", "tensor_parallel"),
            f"{trainer.tensor_parallel} ranks span machines of {trainer.ranks_per_node}, over slow links",
            f"1 to {trainer.ranks_per_node}",
            severity="warn",
        )
    expert_tensor = trainer.expert_tensor_parallel or trainer.tensor_parallel
    expert_group = expert_tensor * trainer.expert_parallel * trainer.pipeline_parallel
    if ranks % expert_group:
        yield Problem(
            ("trainer", "expert_parallel"),
            f"expert_parallel {trainer.expert_parallel} x expert_tensor_parallel {expert_tensor} x pipeline_parallel "
            f"{trainer.pipeline_parallel} = {expert_group} does not divide the {ranks} ranks",
            fix="change the parallel sizes; expert_tensor_parallel 1 is common",
        )
    yield from _experts(plan, trainer.expert_parallel, of=ranks)
    if trainer.virtual_pipeline is not None and trainer.pipeline_parallel == 1:
        yield Problem(("trainer", "virtual_pipeline"), "needs pipeline_parallel of 2 or more", "null")
    if facts is None:
        return
    if facts.num_heads % trainer.tensor_parallel or facts.num_key_value_heads % trainer.tensor_parallel:
        yield Problem(
            ("trainer", "tensor_parallel"),
            f"{trainer.tensor_parallel} does not divide num_heads {facts.num_heads} and num_key_value_heads "
            f"{facts.num_key_value_heads}",
            divisors(facts.num_key_value_heads),
        )
    stages = trainer.pipeline_parallel * (trainer.virtual_pipeline or 1)
    if facts.num_layers % stages:
        yield Problem(
            ("trainer", "pipeline_parallel"),
            f"{stages} slices do not divide the model's {facts.num_layers} layers",
            divisors(facts.num_layers),
        )


def _experts(plan: Plan, size: int, *, of: int) -> Iterator[Problem]:
    facts, place = facts_of(plan.spec.policy), ("trainer", "expert_parallel")
    if size == 1:
        return
    if of % size:
        yield Problem(place, f"{size} does not divide the {of} ranks", divisors(of))
    if facts is not None and not facts.num_experts:
        yield Problem(place, f"{size}, but the model is dense", "1")
    elif facts is not None and facts.num_experts and facts.num_experts % size:
        yield Problem(
            place, f"{size} does not divide the model's {facts.num_experts} experts", divisors(facts.num_experts)
        )


def model_facts(plan: Plan) -> Iterator[Problem]:
    """Sizes of a model that no model has."""
    policy, place = plan.spec.policy, ("policy", "facts")
    stated = policy.facts if isinstance(policy, PretrainedPolicy) else None
    if stated is None:
        return
    if stated.num_heads % stated.num_key_value_heads:
        yield Problem(
            (*place, "num_key_value_heads"),
            f"{stated.num_key_value_heads} does not divide num_heads {stated.num_heads}",
            divisors(stated.num_heads),
        )
    if stated.num_experts is None:
        return
    for name in ("experts_per_token", "expert_intermediate_size"):
        if getattr(stated, name) is None:
            yield Problem((*place, name), f"null, but num_experts is {stated.num_experts}", "as in its config.json")
    if stated.experts_per_token is not None and stated.experts_per_token > stated.num_experts:
        yield Problem(
            (*place, "experts_per_token"),
            f"{stated.experts_per_token} of {stated.num_experts} experts",
            f"1 to {stated.num_experts}",
        )


def routing_replay(plan: Plan) -> Iterator[Problem]:
    """verl accepts R3 with FSDP and ignores it; it wires megatron and veomni."""
    spec, place = plan.spec, ("routing_replay",)
    facts = facts_of(spec.policy)
    if spec.routing_replay == "off":
        if facts is not None and facts.num_experts and spec.trainer.type in ("megatron", "veomni"):
            yield Problem(
                place,
                '"off" with a mixture of experts: trainer and rollout choose different experts for the same tokens',
                "R3",
                severity="warn",
            )
        return
    shown = f'"{spec.routing_replay}"'
    if isinstance(spec.trainer, Fsdp):
        yield Problem(
            place, f"{shown} is silently ignored by verl's {spec.trainer.type}", "off", "use veomni or megatron"
        )
    elif not isinstance(spec.trainer, Megatron) and not spec.trainer.attention.startswith("flash_attention"):
        yield Problem(("trainer", "attention"), f"routing replay {shown} needs packed sequences", "flash_attention_2")
    if facts is not None and not facts.num_experts:
        yield Problem(place, f"{shown} with a dense model, which routes nothing", "off")
    if spec.routing_replay == "R2" and isinstance(spec.algorithm.correction, BypassCorrection):
        yield Problem(
            place,
            '"R2" records routes while old log-probabilities are computed, which correction "bypass" leaves out',
            "off, R3",
        )
    if spec.routing_replay == "R3" and not isinstance(spec.rollout, VllmRollout):
        yield Problem(place, '"R3" needs routes from the rollout, which only vLLM returns', "off, R2")
    if spec.routing_replay == "R3" and isinstance(spec.rollout, VllmRollout):
        for flag in ("kv-transfer-config", "decode-context-parallel-size"):
            if flag in spec.rollout.flags:
                yield Problem(("rollout", "flags", flag), "vLLM returns no routes with it", fix="remove it")


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
    beside = memory.resident_beside(spec)
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
    kept += memory.resident_beside(spec)
    if share + kept > limit * _GIB:
        yield Problem(
            ("rollout", "gpu_memory_utilization"),
            f"vLLM's {_gib(share)} and the trainer's resident {_gib(kept)} exceed the {limit} GiB of the "
            f"{spec.trainer.gpu} while rolling out",
            fix="set trainer.offload, lower gpu_memory_utilization, or train on more GPUs",
        )


def rollout(plan: Plan) -> Iterator[Problem]:
    spec = plan.spec
    engine, mode = spec.rollout, spec.mode
    if not isinstance(engine, VllmRollout):
        return
    facts = facts_of(spec.policy)
    size = engine.tensor_parallel_size
    if isinstance(mode, SeparateAsync):
        per_node, left = divmod(plan.rollout_gpus, mode.rollout_nodes)
        if left or per_node % size:
            yield Problem(
                ("mode", "rollout_nodes"),
                f"{engine.replicas} replicas x tensor_parallel_size {size} = {plan.rollout_gpus} GPUs cannot be spread "
                f"over {mode.rollout_nodes} machines in whole replicas",
                divisors(engine.replicas),
            )
    if engine.expert_parallel and facts is not None and not facts.num_experts:
        yield Problem(("rollout", "expert_parallel"), "true, but the model is dense", "false")
    if engine.max_batched_tokens < engine.slots:
        yield Problem(
            ("rollout", "max_batched_tokens"),
            f"{engine.max_batched_tokens} is less than one token for each of the {engine.slots} slots",
            f">= {engine.slots}",
        )
    if why := UNPAIRED.get(engine.version):
        yield Problem(("rollout", "version"), f'"{engine.version}" cannot run here: {why}', VERSION)
    yield from flag_problems(engine.flags, version=engine.version)


def parsers(plan: Plan) -> Iterator[Problem]:
    facts, parser = facts_of(plan.spec.policy), plan.spec.rollout.tool_parser
    if not isinstance(plan.spec.policy, PretrainedPolicy) or facts is None or facts.tool_calls is None:
        return
    if facts.tool_calls != parser:
        yield Problem(
            ("rollout", "tool_parser"),
            f'"{parser}", but the model writes {facts.tool_calls} calls: none would be understood',
            "" if facts.tool_calls == "other" else facts.tool_calls,
            "choose a model whose calls the proxy reads" if facts.tool_calls == "other" else "",
        )


def algorithm(plan: Plan) -> Iterator[Problem]:
    chosen, place = plan.spec.algorithm, ("algorithm", "correction")
    correction = chosen.correction
    if chosen.drop_uniform_groups and not isinstance(plan.spec.rollout, VllmRollout):
        yield Problem(("algorithm", "drop_uniform_groups"), "the torch rollout's sampler keeps all groups", "false")
    if isinstance(correction, BypassCorrection) and policy_loss(plan) != PlainLoss.model_construct(type="vanilla"):
        yield Problem(
            (*place, "type"),
            '"bypass" brings its own loss, so the one of algorithm would be silently ignored',
            "off, decoupled",
            "use decoupled, or the loss vanilla",
        )
    if set(get_args(GradedEnd)) <= set(chosen.trajectory_filter.drop):
        yield Problem(
            ("algorithm", "trajectory_filter", "drop"),
            "every end is dropped, so nothing would be trained on",
            fix="keep agent_completed",
        )
    if not isinstance(correction, DecoupledCorrection | BypassCorrection):
        return
    if correction.importance is not None and correction.importance.level == "sequence":
        yield Problem(
            (*place, "importance", "level"),
            '"sequence" weights of long trajectories are almost all cut',
            "token",
            severity="warn",
        )
    ranges: list[tuple[Path, float, float]] = []
    if correction.importance is not None and correction.importance.lower is not None:
        ranges.append(((*place, "importance"), correction.importance.lower, correction.importance.upper))
    for index, one in enumerate(correction.rejection):
        if isinstance(one, RatioRejection):
            ranges.append(((*place, "rejection", index), one.lower, one.upper))
    for where, lower, upper in ranges:
        if lower >= upper:
            yield Problem((*where, "lower"), f"{lower} is not below upper {upper}", f"< {upper}")


def packing(plan: Plan) -> Iterator[Problem]:
    tokens = plan.spec.trainer.max_tokens_per_rank
    if tokens is None:
        return
    trainer = plan.spec.trainer
    shared = trainer.context_parallel if isinstance(trainer, Megatron) else trainer.sequence_parallel
    if tokens * shared < plan.sequence_length:
        yield Problem(
            ("trainer", "max_tokens_per_rank"),
            f"{tokens} x {shared} ranks per sequence cannot hold one sequence of {plan.sequence_length} tokens",
            f">= {-(-plan.sequence_length // shared)}",
        )


def lora(plan: Plan) -> Iterator[Problem]:
    policy = plan.spec.policy
    if not isinstance(policy, PretrainedPolicy) or policy.lora is None:
        return
    if not isinstance(plan.spec.rollout, VllmRollout):
        yield Problem(("policy", "lora"), "LiveRL's own engine serves whole weights, no adapters", "null")
    if plan.needs_critic:
        yield Problem(("policy", "lora"), "the critic of ppo is trained in full", severity="warn")


def divisors(number: int) -> str:
    """Numbers that divide ``number``, for people; long lists are cut."""
    found = [candidate for candidate in range(1, min(number, 1 << 16) + 1) if number % candidate == 0]
    shown = found if len(found) <= 12 else [*found[:11], number]
    return ", ".join(map(str, shown))


def _path(plan: Plan) -> str:
    return "a new policy" if isinstance(plan.spec.policy, NewPolicy) else plan.spec.policy.path


def _gib(size: float) -> str:
    return f"{size / _GIB:,.1f} GiB"


RULES: tuple[Rule, ...] = (
    model_facts,
    parallelism,
    routing_replay,
    gpu_memory,
    rollout,
    parsers,
    algorithm,
    packing,
    lora,
)
