"""The trainer: what runs on a CPU, and parallel sizes that ranks, machines and the model allow."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.check.rule import Rule, divisors
from compiler.errors import Problem
from compiler.models import facts_of
from compiler.plan import Plan
from compiler.spec.trainer import PACKED_ATTENTION, Fsdp, Megatron, Trainer


def devices(plan: Plan) -> Iterator[Problem]:
    trainer = plan.spec.trainer
    if trainer.device != "cpu":
        return
    if trainer.type != "fsdp2":
        yield Problem(("trainer", "type"), f'"{trainer.type}" does not run on a CPU', "fsdp2")
    tree = isinstance(trainer, Fsdp) and trainer.share_prefixes and trainer.attention == "varlen"
    if isinstance(trainer, Fsdp) and trainer.attention in PACKED_ATTENTION and not tree:
        yield Problem(("trainer", "attention"), f'"{trainer.attention}" needs a GPU', "sdpa, eager")
    if trainer.precision != "fp32":
        yield Problem(("trainer", "precision"), f'"{trainer.precision}" is slow and inexact on a CPU', "fp32")
    yield from _unread_on_cpu(trainer)


def _unread_on_cpu(trainer: Trainer) -> Iterator[Problem]:
    """What nobody reads where there is no GPU."""
    for field in ("parameters", "optimizer"):
        if getattr(trainer.offload, field):
            yield Problem(("trainer", "offload", field), "true on a CPU, whose memory is the host's", "false")
    if isinstance(trainer, Fsdp) and trainer.shard_size is not None:
        yield Problem(("trainer", "shard_size"), f"{trainer.shard_size} on a CPU: it is for GPUs", "null")


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


def shared_prefixes(plan: Plan) -> Iterator[Problem]:
    trainer, place = plan.spec.trainer, ("trainer", "share_prefixes")
    if not isinstance(trainer, Fsdp) or not trainer.share_prefixes:
        return
    if trainer.attention != "varlen":
        shown = f'"{trainer.attention}" with share_prefixes, which needs attention that knows of it'
        yield Problem(("trainer", "attention"), shown, "varlen")
    if trainer.sequence_parallel > 1:
        yield Problem(place, f"true with sequence_parallel {trainer.sequence_parallel}, which cuts rows", "false")
    if plan.needs_critic:
        yield Problem(
            place, f'true with algorithm "{plan.spec.algorithm.type}", whose critic takes rows whole', "false"
        )
    if plan.trainer_ranks > 1:
        shown = f"true with {plan.trainer_ranks} ranks: verl spreads a group over them, and each shares what it has"
        yield Problem(place, shown, fix="more trials of a group come to one rank with fewer ranks", severity="warn")


def compiled(plan: Plan) -> Iterator[Problem]:
    trainer, place = plan.spec.trainer, ("trainer", "compile")
    if not isinstance(trainer, Fsdp) or not trainer.compile:
        return
    if trainer.device == "cpu":
        yield Problem(place, "true on a CPU, where it has no use", "false")
    elif trainer.attention != "varlen":
        shown = f'"{trainer.attention}" with compile, which needs attention that does not wait for the GPU'
        yield Problem(("trainer", "attention"), shown, "varlen")
    if trainer.share_prefixes:
        yield Problem(place, "true with share_prefixes: each brings an engine of its own", "false")
    if plan.spec.routing_replay == "R3":
        yield Problem(place, 'true with routing_replay "R3": each brings an engine of its own', "false")
    if trainer.sequence_parallel > 1:
        yield Problem(place, f"true with sequence_parallel {trainer.sequence_parallel}, which cuts rows", "false")


RULES: tuple[Rule, ...] = (devices, parallelism, packing, shared_prefixes, compiled)
