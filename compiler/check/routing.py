"""Routing replay: what verl 0.9.1 accepts and then ignores, and what no engine gives."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.check.rule import Rule
from compiler.errors import Problem
from compiler.models import facts_of
from compiler.plan import Plan
from compiler.spec.algorithm import BypassCorrection
from compiler.spec.rollout import VllmRollout
from compiler.spec.trainer import Fsdp, Megatron


def routing_replay(plan: Plan) -> Iterator[Problem]:
    """verl 0.9.1 wires megatron and veomni (``workers/engine_workers.py:498``) and accepts the rest in silence. With
    FSDP an engine of our own replays what the rollout chose (``runtime/trainer/replay_engine.py``); it records
    nothing."""
    spec, place = plan.spec, ("routing_replay",)
    facts = facts_of(spec.policy)
    if spec.routing_replay == "off":
        if facts is not None and facts.num_experts:
            yield Problem(
                place,
                '"off" with a mixture of experts: trainer and rollout choose different experts for the same tokens',
                "R3",
                severity="warn",
            )
        return
    shown = f'"{spec.routing_replay}"'
    if isinstance(spec.trainer, Fsdp):
        if spec.routing_replay == "R2":
            yield Problem(
                place,
                f"{shown} is silently ignored by verl's {spec.trainer.type}, which records no routes",
                "off, R3",
                "use R3, or veomni or megatron",
            )
        elif spec.trainer.share_prefixes:
            why = f"true with routing_replay {shown}: rows share the pass of a token, and have experts of their own"
            yield Problem(("trainer", "share_prefixes"), why, "false")
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
    if spec.routing_replay == "R3" and isinstance(spec.rollout, VllmRollout):
        for flag in ("kv-transfer-config", "decode-context-parallel-size"):
            if flag in spec.rollout.flags:
                yield Problem(("rollout", "flags", flag), "vLLM returns no routes with it", fix="remove it")


RULES: tuple[Rule, ...] = (routing_replay,)
