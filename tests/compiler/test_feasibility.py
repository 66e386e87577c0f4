"""The examples are sound, and each thing that would fail on GPUs is refused at its field before anything starts."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from compiler.check import check
from compiler.errors import Problem
from compiler.load import evaluate
from compiler.memory import GPU_GIB
from compiler.models import TABLE, dense_parameters, expert_parameters
from compiler.plan import make_plan
from compiler.validate import validate
from tests.compiler.golden_cases import EXAMPLES, spec_path

GIB = 1 << 30


@pytest.fixture(scope="session")
def _examples() -> dict[str, str]:
    return {name: json.dumps(evaluate(spec_path(name)).value) for name in EXAMPLES}


@pytest.fixture
def example(_examples: dict[str, str]) -> Any:
    return lambda name: json.loads(_examples[name])


def changed(value: Any, changes: dict[str, Any]) -> Any:
    value = copy.deepcopy(value)
    for path, new in changes.items():
        node = value
        *parents, last = path.split(".")
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = new
    return value


def problems(value: Any) -> list[Problem]:
    return check(make_plan(validate(value)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_sound(example: Any, name: str) -> None:
    assert [problem.text for problem in problems(example(name)) if problem.severity == "fatal"] == []


DENSE: list[tuple[dict[str, Any], str, str]] = [
    ({"rollout.tensor_parallel_size": 3}, "rollout.tensor_parallel_size", "fatal"),
    ({"rollout.replicas": 3}, "rollout.replicas", "fatal"),
    ({"trainer.sequence_parallel": 3}, "trainer.sequence_parallel", "fatal"),
    ({"trainer.shard_size": 3}, "trainer.shard_size", "fatal"),
    ({"trainer.attention": "sdpa"}, "trainer.attention", "fatal"),
    ({"trainer.share_prefixes": True}, "trainer.attention", "fatal"),
    ({"trainer.share_prefixes": True, "trainer.attention": "varlen"}, "trainer.share_prefixes", "fatal"),
    ({"trainer.share_prefixes": True, "trainer.attention": "varlen", "trainer.sequence_parallel": 1},
     "trainer.share_prefixes", "warn"),
    ({"trainer.share_prefixes": True, "trainer.attention": "varlen", "trainer.sequence_parallel": 1,
      "algorithm": {"type": "ppo", "group_size": 8, "critic": {"learning_rate": 1e-5}}},
     "trainer.share_prefixes", "fatal"),
    ({"trainer.compile": True}, "trainer.attention", "fatal"),
    ({"trainer.compile": True, "trainer.attention": "varlen"}, "trainer.compile", "fatal"),
    ({"trainer.compile": True, "trainer.attention": "varlen", "trainer.sequence_parallel": 1,
      "trainer.share_prefixes": True}, "trainer.compile", "fatal"),
    ({"trainer.compile": True, "trainer.attention": "varlen", "trainer.sequence_parallel": 1, "routing_replay": "R3",
      "policy.path": "Qwen/Qwen3-Coder-30B-A3B-Instruct", "rollout.tool_parser": "qwen3_coder"},
     "trainer.compile", "fatal"),
    ({"trainer.max_tokens_per_rank": 4096}, "trainer.max_tokens_per_rank", "fatal"),
    ({"trainer.offload": {}, "rollout.gpu_memory_utilization": 0.9}, "rollout.gpu_memory_utilization", "fatal"),
    ({"trainer.gpu": "L4", "rollout.gpu_memory_utilization": 0.4}, "rollout.gpu_memory_utilization", "fatal"),
    ({"trainer.gpu": "L4", "policy.path": "Qwen/Qwen3-32B"}, "trainer.ranks_per_node", "fatal"),
    ({"trainer.max_tokens_per_rank": 131072}, "trainer.max_tokens_per_rank", "warn"),
    ({"policy.path": "somebody/some-model"}, "policy.path", "warn"),
    ({"policy.path": "Qwen/Qwen3-Coder-30B-A3B-Instruct"}, "rollout.tool_parser", "fatal"),
    ({"rollout.response_length": 40000}, "rollout.response_length", "fatal"),
    ({"rollout.expert_parallel": True}, "rollout.expert_parallel", "fatal"),
    ({"rollout.max_batched_tokens": 8}, "rollout.max_batched_tokens", "fatal"),
    ({"routing_replay": "R3"}, "routing_replay", "fatal"),
    ({"routing_replay": "R3", "policy.path": "Qwen/Qwen3-Coder-30B-A3B-Instruct", "rollout.tool_parser": "qwen3_coder",
      "trainer.share_prefixes": True, "trainer.attention": "varlen", "trainer.sequence_parallel": 1},
     "trainer.share_prefixes", "fatal"),
    ({"schedule.train_batch_size": 33, "schedule.mini_batch_size": 33, "algorithm.group_size": 5},
     "schedule.train_batch_size", "fatal"),
    ({"algorithm.correction": {"type": "bypass"}, "algorithm.loss": {"type": "cispo"}},
     "algorithm.correction.type", "fatal"),
    ({"algorithm.correction.importance": {"lower": 3.0}}, "algorithm.correction.importance.lower", "fatal"),
    ({"algorithm.correction.importance": {"level": "sequence"}}, "algorithm.correction.importance.level", "warn"),
    ({"policy.path": "Qwen/Qwen3-Coder-30B-A3B-Instruct", "policy.lora": {"merge": True},
      "rollout.tool_parser": "qwen3_coder"}, "policy.lora.merge", "fatal"),
    ({"policy.lora": {}, "algorithm": {"type": "ppo", "group_size": 8, "critic": {"learning_rate": 1e-5}}},
     "policy.lora", "warn"),
    ({"policy.lora": {"merge": False}, "schedule.mini_batch_size": 64, "mode": {"type": "separate_async"}},
     "policy.lora.merge", "fatal"),
    ({"rollout.tensor_parallel_size": 16, "rollout.replicas": 1, "trainer.nodes": 2},
     "rollout.tensor_parallel_size", "warn"),
    ({"policy.facts": {"num_heads": 32, "num_key_value_heads": 2}, "rollout.tensor_parallel_size": 64},
     "rollout.tensor_parallel_size", "fatal"),
    ({"policy.facts": {"num_heads": 24, "num_key_value_heads": 6}}, "trainer.sequence_parallel", "fatal"),
    ({"policy.facts": {"num_heads": 32, "num_key_value_heads": 5}}, "policy.facts.num_key_value_heads", "fatal"),
    ({"policy.facts": {"num_experts": 8}}, "policy.facts.expert_intermediate_size", "fatal"),
    ({"policy.facts": {"num_experts": 8, "experts_per_token": 9, "expert_intermediate_size": 64}},
     "policy.facts.experts_per_token", "fatal"),
    ({"schedule.train_batch_size": 32, "schedule.mini_batch_size": 1, "algorithm.group_size": 5},
     "schedule.mini_batch_size", "fatal"),
    ({"trainer.max_tokens_per_rank": None, "schedule.train_batch_size": 2, "schedule.mini_batch_size": 1,
      "algorithm.group_size": 2}, "schedule.train_batch_size", "fatal"),
    ({"observability.loggers": ["file", "file"]}, "observability.loggers.1", "fatal"),
    ({"rollout.prompt_length": 9000}, "rollout.prompt_length", "warn"),
    ({"algorithm": {"type": "ppo", "group_size": 8, "critic": {"learning_rate": 1e-5}}, "trainer.offload": {},
      "trainer.gpu": "A100", "rollout.gpu_memory_utilization": 0.2}, "rollout.gpu_memory_utilization", "fatal"),
    ({"algorithm.kl": {"type": "loss", "coefficient": 0.1}, "trainer.offload": {}, "trainer.gpu": "L4"},
     "trainer.max_tokens_per_rank", "warn"),
    ({"trainer.optimizer.warmup_steps": 200}, "trainer.optimizer.warmup_steps", "warn"),
    ({"environment.agent_timeout_sec": 1_800_000}, "environment.agent_timeout_sec", "warn"),
    ({"environment.verifier_timeout_sec": 1801}, "environment.verifier_timeout_sec", "warn"),
    ({"rollout.flags": {"hf-token": "x"}}, "rollout.flags.hf-token", "fatal"),
    ({"environment": {"type": "docker", "base_image": "team/box"}}, "environment.base_image", "fatal"),
    ({"environment": {"type": "docker", "base_image": "team/box:latest"}}, "environment.base_image", "warn"),
]  # fmt: skip
_QWEN3_8B: dict[str, Any] = {
    "num_layers": 36, "hidden_size": 4096, "intermediate_size": 12288, "num_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "vocabulary_size": 151936, "max_position": 40960,
}  # fmt: skip
MIXTURE: list[tuple[dict[str, Any], str, str]] = [
    ({"trainer.expert_parallel": 3}, "trainer.expert_parallel", "fatal"),
    ({"routing_replay": "off"}, "routing_replay", "warn"),
    ({"routing_replay": "R2", "algorithm": {"type": "grpo", "group_size": 8, "correction": {"type": "bypass"}}},
     "routing_replay", "fatal"),
    ({"routing_replay": "R2", "trainer.type": "fsdp2", "trainer.expert_parallel": None}, "routing_replay", "fatal"),
    ({"mode.sync_every": 3}, "mode.sync_every", "fatal"),
    ({"mode.rollout_nodes": 3}, "mode.rollout_nodes", "fatal"),
    ({"rollout.flags": {"kv-transfer-config": {}}}, "rollout.flags.kv-transfer-config", "fatal"),
]  # fmt: skip
MEGATRON: list[tuple[dict[str, Any], str, str]] = [
    ({"trainer.tensor_parallel": 8}, "trainer.tensor_parallel", "fatal"),
    ({"trainer.pipeline_parallel": 3}, "trainer.pipeline_parallel", "fatal"),
    ({"trainer.pipeline_parallel": 4}, "trainer.pipeline_parallel", "fatal"),
    ({"trainer.expert_parallel": 96}, "trainer.expert_parallel", "fatal"),
    ({"trainer.pipeline_parallel": 1, "trainer.virtual_pipeline": 2}, "trainer.virtual_pipeline", "fatal"),
    ({"trainer.nodes": 4, "rollout.replicas": 4, "trainer.expert_parallel": 8}, "trainer.ranks_per_node", "fatal"),
]
CASES = [
    *[("dense-8gpu", *case) for case in DENSE],
    *[("moe-async", *case) for case in MIXTURE],
    *[("moe-megatron", *case) for case in MEGATRON],
]


@pytest.mark.parametrize(("name", "changes", "path", "severity"), CASES)
def test_each_is_found_at_its_field(example: Any, name: str, changes: dict[str, Any], path: str, severity: str) -> None:
    value = changed(example(name), changes)
    if value["policy"].get("facts") is not None:
        value["policy"]["facts"] = {**_QWEN3_8B, **value["policy"]["facts"]}
    value["trainer"] = {key: inner for key, inner in value["trainer"].items() if inner is not None}
    found = [(".".join(map(str, problem.path)), problem.severity) for problem in problems(value)]
    assert (path, severity) in found


def test_secrets_are_refused_and_not_shown(example: Any) -> None:
    value = changed(example("dense-8gpu"), {"policy.path": "hf_" + "a" * 34})
    found = [problem for problem in problems(value) if "name it in secrets" in problem.text]
    assert [problem.path for problem in found] == [("policy", "path")]
    assert not any("hf_a" in problem.text for problem in problems(value))


@pytest.mark.parametrize(
    ("name", "billions"),
    [("Qwen/Qwen2.5-7B-Instruct", 7.62), ("Qwen/Qwen3-8B", 8.19), ("Qwen/Qwen3-30B-A3B", 30.5),
     ("Qwen/Qwen3-235B-A22B", 235.1)],
)  # fmt: skip
def test_parameters_are_those_that_the_models_cards_state(name: str, billions: float) -> None:
    facts = TABLE[name]
    assert (dense_parameters(facts) + expert_parameters(facts)) / 1e9 == pytest.approx(billions, rel=0.005)


def test_memory_is_shared_by_the_ranks(example: Any) -> None:
    one = make_plan(validate(example("dense-8gpu"))).policy_memory
    two = make_plan(validate(changed(example("dense-8gpu"), {"trainer.nodes": 2}))).policy_memory
    assert one is not None and two is not None
    assert one.weights == 4 * one.parameters // 8
    assert two.trainer_state == pytest.approx(one.trainer_state / 2, rel=1e-6)
    assert one.trainer_total < GPU_GIB["H100"] * GIB


def test_lora_trains_little(example: Any) -> None:
    full = make_plan(validate(example("dense-8gpu"))).policy_memory
    lora = make_plan(validate(changed(example("dense-8gpu"), {"policy.lora": {"rank": 16}}))).policy_memory
    assert full is not None and lora is not None
    assert lora.weights == full.weights
    assert lora.optimizer < full.optimizer / 50
    kl = {"policy.lora": {"rank": 16}, "algorithm.kl": {"type": "loss", "coefficient": 0.001}}
    for changes, there in ((kl, False), ({"algorithm.kl": kl["algorithm.kl"]}, True)):
        memory = make_plan(validate(changed(example("dense-8gpu"), changes))).policy_memory
        assert memory is not None and (memory.reference > 0) is there, "adapters left out, the policy is its reference"
