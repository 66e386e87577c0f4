"""The policy itself: shapes that no model has, and adapters."""

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
from compiler.spec.trainer import Fsdp, VeOmni
from runtime.config.policy import NewPolicy
from runtime.config.rollout import TorchRollout


def architecture(plan: Plan) -> Iterator[Problem]:
    policy = plan.spec.policy
    if not isinstance(policy, NewPolicy):
        return
    shape, place = policy.architecture, ("policy", "architecture")
    if shape.hidden_size % shape.num_heads:
        yield Problem(
            (*place, "num_heads"),
            f"{shape.num_heads} does not divide hidden_size {shape.hidden_size}",
            divisors(shape.hidden_size),
        )
    elif shape.hidden_size // shape.num_heads % 2:
        yield Problem(
            (*place, "num_heads"),
            f"heads of width {shape.hidden_size // shape.num_heads}: rotary positions need an even width",
            fix="change num_heads or hidden_size",
        )
    if shape.num_heads % shape.num_key_value_heads:
        yield Problem(
            (*place, "num_key_value_heads"),
            f"{shape.num_key_value_heads} does not divide num_heads {shape.num_heads}",
            divisors(shape.num_heads),
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


def lora(plan: Plan) -> Iterator[Problem]:
    policy, spec, place = plan.spec.policy, plan.spec, ("policy", "lora")
    if not isinstance(policy, PretrainedPolicy) or policy.lora is None:
        return
    if plan.needs_critic:
        yield Problem(place, "the critic of ppo is trained in full", severity="warn")
    if isinstance(spec.trainer, VeOmni):
        yield Problem(place, "verl 0.9.1's VeOmni engine makes no adapters: all weights would be trained", "null")
        return
    facts = facts_of(policy)
    apart, rounds = isinstance(spec.mode, SeparateAsync), spec.trainer.precision == "fp32"
    if apart and rounds:
        fix = "choose mode sync or colocate_async"
        yield Problem(place, "with separate_async, to which verl sends merged weights in bf16, in fp32", "null", fix)
    elif apart and not policy.lora.merge:
        why = (
            "false with separate_async: verl brings rollouts on hardware of their own the base alone, never the adapter"
        )
        yield Problem((*place, "merge"), why, "true")
    elif policy.lora.merge and rounds:
        why = "true in fp32: verl rounds merged weights to bf16, so another policy would roll out than is trained"
        yield Problem((*place, "merge"), why, "false")
    if policy.lora.merge and isinstance(spec.trainer, Fsdp) and facts is not None and facts.num_experts:
        why = "true for a mixture of experts: verl's FSDP engine would send fused experts, which vLLM does not read"
        yield Problem((*place, "merge"), why, "false")
    named = policy.lora.target_modules
    names = () if named == "all-linear" else (named,) if isinstance(named, str) else named
    own = isinstance(spec.rollout, TorchRollout)
    for name in names:
        if name in _NOT_ADAPTED or (own and name not in _LINEAR):
            why = f'"{name}" gets no adapter' + (" in LiveRL's own engine" if name not in _NOT_ADAPTED else "")
            yield Problem((*place, "target_modules"), why, ", ".join(_LINEAR))


_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_NOT_ADAPTED = ("embed_tokens", "lm_head")


def weights(plan: Plan) -> Iterator[Problem]:
    """What LiveRL's own engine can load. It reads folders; whether one is there is for the machine to say that runs."""
    policy, rollout = plan.spec.policy, plan.spec.rollout
    if not isinstance(policy, PretrainedPolicy) or not isinstance(rollout, TorchRollout) or rollout.import_path:
        return
    if not policy.path.startswith(("/", "./", "../", "~")):
        yield Problem(
            ("policy", "path"),
            f'"{policy.path}" reads as a name, but LiveRL\'s own engine reads a folder and downloads nothing',
            "a Hugging Face model folder, as /FOLDER or ./FOLDER, or a name of `liverl models list`",
            "`liverl models add` it here; elsewhere name a folder that cluster.weights or cluster.volumes mounts",
            severity="warn",
        )


def references(plan: Plan) -> Iterator[Problem]:
    """Texts that ``verl.yaml`` or ``vllm.yaml`` cannot hold."""
    policy, place = plan.spec.policy, ("policy",)
    if not isinstance(policy, PretrainedPolicy):
        return
    yield from unreadable(policy.path, (*place, "path"), readers.model)
    yield from unreadable(policy.path, (*place, "path"), readers.omegaconf)
    if isinstance(plan.spec.rollout, VllmRollout):
        yield from unreadable(policy.path, (*place, "path"), readers.vllm)
    if policy.lora is not None:
        yield from unreadable(policy.lora.target_modules, (*place, "lora", "target_modules"), readers.omegaconf)


RULES: tuple[Rule, ...] = (architecture, model_facts, lora, weights, references)
