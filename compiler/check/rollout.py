"""The rollout against lengths, GPUs and the model: sizes, flags, parsers."""

from __future__ import annotations

from collections.abc import Iterator

from compiler import readers
from compiler.check.rule import Rule, divisors, unreadable
from compiler.errors import Problem
from compiler.models import facts_of
from compiler.plan import Plan
from compiler.spec.mode import SeparateAsync
from compiler.spec.policy import PretrainedPolicy
from compiler.spec.rollout import VllmRollout
from compiler.vllm_flags import UNPAIRED, VERSION, flag_problems
from runtime.config.policy import NewPolicy
from runtime.config.rollout import TorchRollout


def lengths(plan: Plan) -> Iterator[Problem]:
    rollout, policy = plan.spec.rollout, plan.spec.policy
    facts = facts_of(policy)
    given = None if isinstance(policy, NewPolicy) else policy.max_position
    limit = given or (facts.max_position if facts is not None else None)
    if limit is not None and plan.sequence_length > limit:
        where = "policy.max_position" if given else "the model's longest sequence"
        if isinstance(policy, NewPolicy):
            where = "policy.architecture.max_position"
        yield Problem(
            ("rollout", "response_length"),
            f"prompt_length {rollout.prompt_length} + response_length "
            f"{rollout.response_length} = {plan.sequence_length} exceeds {where} {limit}",
            f"<= {limit - rollout.prompt_length}" if limit > rollout.prompt_length else "",
            f"shorten the lengths or raise {where}",
        )
    if rollout.max_tokens_per_turn > rollout.response_length:
        yield Problem(
            ("rollout", "max_tokens_per_turn"),
            f"{rollout.max_tokens_per_turn} is more than response_length {rollout.response_length}",
            f"1 to {rollout.response_length}",
        )


def engines(plan: Plan) -> Iterator[Problem]:
    """The engine that goes with the trainer's device."""
    vllm, cpu = isinstance(plan.spec.rollout, VllmRollout), plan.spec.trainer.device == "cpu"
    if vllm and cpu:
        yield Problem(
            ("rollout", "type"),
            '"vllm" needs trainer.device cuda',
            "torch",
            "use liverl.rollout.torch, or liverl.trainer.fsdp2",
        )
    elif not vllm and not cpu:
        yield Problem(
            ("rollout", "type"),
            '"torch" runs small policies on a CPU, next to a CPU trainer',
            "vllm",
            "use liverl.rollout.vllm",
        )


def tensor_parallel(plan: Plan) -> Iterator[Problem]:
    """vLLM's replicas against the GPUs that they share with the trainer, and against the model."""
    rollout = plan.spec.rollout
    if not isinstance(rollout, VllmRollout):
        return
    size, ranks, here = rollout.tensor_parallel_size, plan.trainer_ranks, plan.spec.trainer.ranks_per_node
    shared = not isinstance(plan.spec.mode, SeparateAsync)
    if shared and rollout.replicas * size != ranks:
        yield Problem(
            ("rollout", "replicas"),
            f"{rollout.replicas} replicas x tensor_parallel_size {size} must equal the {ranks} GPUs shared with the "
            "trainer",
            str(ranks // size) if ranks % size == 0 else "",
            "change replicas, tensor_parallel_size or the trainer's ranks",
        )
    facts = facts_of(plan.spec.policy)
    heads = facts.num_key_value_heads if facts is not None else None
    # vLLM repeats key-value heads on GPUs that are a multiple of them.
    if heads is not None and heads % size and size % heads:
        yield Problem(
            ("rollout", "tensor_parallel_size"),
            f"{size} does not divide num_key_value_heads {heads}",
            divisors(heads),
        )
    elif facts is not None and facts.num_heads % size:
        yield Problem(
            ("rollout", "tensor_parallel_size"),
            f"{size} does not divide the model's {facts.num_heads} attention heads",
            divisors(facts.num_heads),
        )
    if shared and size > here:
        yield Problem(
            ("rollout", "tensor_parallel_size"),
            f"{size} GPUs of a replica span machines of {here}, over slow links",
            f"1 to {here}",
            severity="warn",
        )


def imported(plan: Plan) -> Iterator[Problem]:
    rollout = plan.spec.rollout
    if isinstance(rollout, TorchRollout) and rollout.kwargs and rollout.import_path is None:
        yield Problem(("rollout", "kwargs"), "arguments for an engine that import_path does not name", "{}")


def concurrency(plan: Plan) -> Iterator[Problem]:
    rollout = plan.spec.rollout
    if rollout.concurrency > rollout.replicas * rollout.slots:
        yield Problem(
            ("rollout", "concurrency"),
            f"{rollout.concurrency} trials share {rollout.replicas} "
            f"x {rollout.slots} slots, so some wait for the engine",
            f"<= {rollout.replicas * rollout.slots}",
            severity="warn",
        )


def vllm(plan: Plan) -> Iterator[Problem]:
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


def references(plan: Plan) -> Iterator[Problem]:
    """Values of vLLM's flags that ``verl.yaml`` or ``vllm.yaml`` cannot hold."""
    rollout = plan.spec.rollout
    if isinstance(rollout, VllmRollout):
        for reader in (readers.omegaconf, readers.vllm):
            yield from unreadable(rollout.flags, ("rollout", "flags"), reader)


def agent_loop(plan: Plan) -> Iterator[Problem]:
    """Several workers share what a run has of trials and sandboxes; one alone is no process of its own."""
    loop, most, place = plan.spec.rollout.agent_loop, plan.spec.environment.max_sandboxes, ("rollout", "agent_loop")
    concurrency = plan.spec.rollout.concurrency
    if loop.workers > concurrency:
        what = f"{loop.workers}, but {concurrency} trials at a time (rollout.concurrency) leave some without any"
        yield Problem((*place, "workers"), what, f"1 to {concurrency}")
    if most is not None and loop.workers > most:
        what = f"{loop.workers}, but each needs a sandbox of the {most} that environment.max_sandboxes allows"
        yield Problem((*place, "workers"), what, f"1 to {most}", "or raise environment.max_sandboxes")
    if loop.workers == 1 and loop.resource is not None:
        what = f"{loop.resource}, but one worker is the trainer's own process and takes nothing of Ray's"
        yield Problem((*place, "resource"), what, "null", "or set workers")
    elif loop.resource in _OWN_RESOURCES:
        what = f"{loop.resource}, which Ray counts by itself on every machine"
        yield Problem((*place, "resource"), what, "a resource that ray start was given with --resources", "or set cpus")


_OWN_RESOURCES = ("CPU", "GPU", "memory", "object_store_memory")


RULES: tuple[Rule, ...] = (
    references,
    lengths,
    engines,
    tensor_parallel,
    imported,
    concurrency,
    agent_loop,
    vllm,
    parsers,
)
