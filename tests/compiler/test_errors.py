"""What people are told about a wrong spec: every problem at once, where, what, what is allowed, what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from compiler import SpecError, check_spec, compile_in_memory, compile_spec
from compiler.errors import Problem, dotted
from compiler.plan import make_plan
from compiler.spec.experiment import ExperimentSpec
from compiler.validate import validate
from runtime.config.base import PATTERNS
from runtime.config.tasks import BugFamily
from tests.compiler.golden_cases import LAB, spec_path

NOTHING_LEFT = dict.fromkeys(get_args(BugFamily), 0)
SPEC = """local liverl = import 'liverl.libsonnet';
(import 'quick.libsonnet') + {
  name: 'Bad_Name',
  algorithm+: { group_sise: 4, clip+: { low: 'x' } },
  mode: { type: 'synch' },
  scaffold: liverl.scaffold.repair { max_turns: 2.5 },
  trainer+: { optimizer: {} },
  tasks+: { train: [] },
}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "quick.libsonnet").write_text(LAB.read_text())
    (tmp_path / "lab.libsonnet").write_text(LAB.with_name("lab.libsonnet").read_text())
    path = tmp_path / "bad.jsonnet"
    path.write_text(SPEC)
    return path


def test_all_problems_at_once_with_the_line_that_set_the_value(spec: Path) -> None:
    problems = check_spec(spec)
    found = {dotted(problem.path): problem for problem in problems}
    assert {path: problem.position.removeprefix(str(spec)) for path, problem in found.items()} == {
        "name": ":3:3",
        "algorithm.clip.low": ":4:41",
        "algorithm.group_sise": ":4:17",
        "mode.type": ":5:11",
        "trainer.optimizer.learning_rate": ":7:15",
        "scaffold.max_turns": ":6:38",
        "tasks.train": ":8:13",
    }
    assert "did you mean group_size?" in str(found["algorithm.group_sise"])
    assert "allowed: sync, colocate_async, separate_async; did you mean sync?" in str(found["mode.type"])
    assert "not a whole number" in str(found["scaffold.max_turns"])
    assert "lower-case" in str(found["name"])


def test_nothing_is_written_for_a_wrong_spec(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SpecError):
        compile_spec(spec, out=out)
    assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonnet", "lab.libsonnet", "quick.libsonnet"]


def put(value: Any, path: str, new: Any) -> None:
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        value = value[part]
    value[last] = new


@pytest.mark.parametrize(
    ("path", "new", "said"),
    [
        ("seed", True, "not a whole number"),
        ("seed", "1", "not a whole number"),
        ("seed", -1, "allowed: >= 0"),
        ("name", "a" * 51, "too long"),
        ("policy.type", "gpt", 'policy.type: "gpt" is unknown; allowed: new, pretrained'),
        ("policy", None, "not an object"),
        ("policy", {}, "policy.type: missing; allowed: an object with type new, pretrained"),
        ("policy.architecture.hidden_size", 0, "allowed: >= 1"),
        ("policy.warm_start.informed_fraction", 1.5, "allowed: <= 1.0"),
        ("policy.warm_start.demonstrations.split", "training", "did you mean train?"),
        ("policy.warm_start.demonstrations.families", {"operators": 2}, "did you mean operator?"),
        ("policy.warm_start.demonstrations.families", {"operator": -2}, "allowed: >= 0"),
        ("rollout.temperature", 0, "allowed: > 0"),
        ("rollout.tool_parser", "xml", "allowed: compact, glm45, hermes, llama3_json, openai, qwen3_coder"),
        ("environment.memory_mib", 1.5, "not a whole number"),
        ("tasks.train.0.source.seed", [], "not a whole number"),
        ("tasks.validation.1.temperature", "hot", "tasks.validation[1].temperature: \"hot\": not a number"),
        ("scaffold", {"type": "import", "import_path": "module"}, "package.module:Class"),
        ("observability", {"loggers": ["console", "wandbb"]}, "did you mean wandb?"),
        ("observability", {"loggers": []}, "too few elements"),
        ("cluster", {"head": {"cpus": 1}}, "cluster.head.memory_gib: missing"),
        ("schedule.steps", 1e300, "not a whole number"),
        ("policy", {"type": "pretrained", "path": "x", "lora": [{"rank": 8}, {"rank": 16}]},
         "policy.lora: a list of adapters, but a run trains one"),
        ("policy", {"type": "pretrained", "path": "x", "adapters": {"a": {"rank": 8}}},
         "policy.adapters: several adapters, but a run trains one"),
        ("policy", {"type": "pretrained", "path": "x", "lora": {"a": {"rank": 8}}},
         "policy.lora.a: several adapters, but a run trains one"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_explained(quickstart: Any, path: str, new: Any, said: str) -> None:
    put(quickstart, path, new)
    with pytest.raises(SpecError) as caught:
        validate(quickstart)
    assert said in str(caught.value)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("value", [None, [], 3, "text", {}])
def test_a_value_that_is_no_spec_at_all(value: Any) -> None:
    with pytest.raises(SpecError):
        validate(value)


@pytest.mark.parametrize(
    ("changes", "path", "severity"),
    [
        ({"schedule.mini_batch_size": 5}, "schedule.mini_batch_size", "fatal"),
        ({"schedule.mini_batch_size": 32}, "schedule.mini_batch_size", "fatal"),
        ({"trainer.offload": {"optimizer": True}}, "trainer.offload.optimizer", "fatal"),
        ({"trainer.shard_size": 1}, "trainer.shard_size", "fatal"),
        ({"policy": {"type": "pretrained", "path": "x", "lora": {"merge": True}}}, "policy.lora.merge", "fatal"),
        (
            {"policy": {"type": "pretrained", "path": "x", "lora": {"target_modules": "lm_head"}}},
            "policy.lora.target_modules",
            "fatal",
        ),
        (
            {
                "policy": {"type": "pretrained", "path": "x", "lora": {}},
                "mode": {"type": "separate_async"},
                "schedule.train_batch_size": 4,
            },
            "policy.lora",
            "fatal",
        ),
        ({"trainer.micro_batch_size": 48}, "trainer.micro_batch_size", "fatal"),
        ({"trainer.micro_batch_size": 4096}, "trainer.micro_batch_size", "fatal"),
        ({"trainer.ranks_per_node": 3}, "schedule.train_batch_size", "fatal"),
        ({"algorithm.group_size": 1}, "algorithm.group_size", "fatal"),
        ({"algorithm.clip.high": 5}, "algorithm.clip.dual", "fatal"),
        ({"algorithm.type": "gspo"}, "algorithm.clip.high", "warn"),
        ({"rollout.response_length": 100000}, "rollout.response_length", "fatal"),
        ({"rollout.max_tokens_per_turn": 513}, "rollout.max_tokens_per_turn", "fatal"),
        ({"policy.architecture.num_heads": 5}, "policy.architecture.num_heads", "fatal"),
        ({"policy.architecture.num_heads": 32}, "policy.architecture.num_heads", "fatal"),
        ({"policy.architecture.num_key_value_heads": 3}, "policy.architecture.num_key_value_heads", "fatal"),
        ({"trainer.device": "cuda"}, "rollout.type", "fatal"),
        ({"trainer.type": "fsdp"}, "trainer.type", "fatal"),
        ({"trainer.precision": "bf16"}, "trainer.precision", "fatal"),
        ({"trainer.attention": "flash_attention_2"}, "trainer.attention", "fatal"),
        ({"rollout.type": "vllm"}, "rollout.type", "fatal"),
        ({"mode": {"type": "separate_async", "sync_every": 2}}, "mode.sync_every", "fatal"),
        ({"scaffold.max_edits": 9}, "scaffold.max_edits", "fatal"),
        ({"rollout.tool_parser": "hermes"}, "rollout.tool_parser", "fatal"),
        ({"rollout.concurrency": 65}, "rollout.concurrency", "warn"),
        ({"rollout.agent_loop": {"workers": 65}}, "rollout.agent_loop.workers", "fatal"),
        ({"rollout.agent_loop": {"workers": 3}, "environment.max_sandboxes": 2}, "rollout.agent_loop.workers", "fatal"),
        ({"rollout.agent_loop": {"resource": "boxes"}}, "rollout.agent_loop.resource", "fatal"),
        ({"rollout.agent_loop": {"workers": 2, "resource": "GPU"}}, "rollout.agent_loop.resource", "fatal"),
        ({"tasks.validation.1.name": "held-out"}, "tasks.validation[1].name", "fatal"),
        ({"tasks.train.0.source.split": "held_out"}, "tasks.train[0].source.split", "fatal"),
        ({"tasks.validation.0.source.split": "demonstrations"}, "tasks.validation[0].source.split", "fatal"),
        ({"policy.warm_start.demonstrations.split": "train"}, "policy.warm_start.demonstrations.split", "fatal"),
        ({"tasks.train.0.source.families": NOTHING_LEFT}, "tasks.train[0].source.families", "fatal"),
        ({"policy.warm_start.informed_families": ["operatr"]}, "policy.warm_start.informed_families", "fatal"),
        ({"tasks.train.0.temperature": 1}, "tasks.train[0].temperature", "fatal"),
        ({"tasks.train.0.source.count": 15}, "schedule.train_batch_size", "fatal"),
        ({"tasks.validation": [], "schedule.validate_every": 0}, "tasks.baselines", "fatal"),
        ({"tasks.validation": [], "tasks.baselines": False}, "schedule.validate_every", "warn"),
        ({"policy": {"type": "pretrained", "path": "Qwen/Qwen3-8B"}}, "policy.path", "warn"),
        ({"policy": {"type": "pretrained", "path": "models/mine"}}, "policy.path", "warn"),
        ({"policy": {"type": "pretrained", "path": "Qwen/Qwen3-30B-A3B"}}, "policy.path", "warn"),
    ],
)  # fmt: skip
def test_impossible_combinations(quickstart: Any, changes: dict[str, Any], path: str, severity: str) -> None:
    from compiler.check import check

    for where, new in changes.items():
        put(quickstart, where, new)
    found = [(dotted(problem.path), problem.severity) for problem in check(make_plan(validate(quickstart)))]
    assert (path, severity) in found


@pytest.mark.parametrize("path", ["/models/mine", "./mine", "../mine", "~/mine"])
def test_a_folder_or_an_engine_of_ones_own_is_no_name_of_a_model(quickstart: Any, path: str) -> None:
    from compiler.check import check

    put(quickstart, "policy", {"type": "pretrained", "path": path})
    assert not [one for one in check(make_plan(validate(quickstart))) if one.path[0] == "policy"]
    put(quickstart, "policy.path", "Qwen/Qwen3-8B")
    put(quickstart, "rollout.import_path", "package.module:Engine")
    assert not [one for one in check(make_plan(validate(quickstart))) if one.path[0] == "policy"]


def test_the_example_specs_raise_no_warning() -> None:
    for name in ("quickstart", "quickstart-gspo", "quickstart-ppo", "real-repos"):
        assert check_spec(spec_path(name)) == []


def test_warnings_do_not_stop_a_compilation(tmp_path: Path) -> None:
    bundle = compile_spec(LAB, out=tmp_path / "b", sets=["rollout.concurrency=1000"])
    assert [problem.severity for problem in bundle.warnings] == ["warn"]
    assert "1000 trials share" in bundle.files["SUMMARY.md"]
    assert str(LAB) not in bundle.files["SUMMARY.md"]


def test_missing_files_of_the_local_target(tmp_path: Path) -> None:
    sets = [f'tasks.train=[{{"name": "t", "source": {{"type": "directories", "paths": ["{tmp_path}/nowhere"]}}}}]']
    problems = check_spec(LAB, sets=sets)
    assert [dotted(problem.path) for problem in problems] == ["tasks.train[0].source.paths[0]"]
    assert "no such folder" in str(problems[0])


def test_unknown_targets() -> None:
    with pytest.raises(SpecError, match="did you mean k8s"):
        compile_spec(LAB, target="k9s")
    for wrong in ("no.such.module:Target", "os:path", "runtime.config:RuntimeConfig", "../x:Y", ":", "os:"):
        with pytest.raises(SpecError, match="implements targets"):
            compile_spec(LAB, target=wrong)


def test_a_missing_spec() -> None:
    with pytest.raises(SpecError, match="no such file"):
        compile_spec("specs/nowhere.jsonnet")


def test_every_form_has_words() -> None:
    """Nobody is shown a regular expression."""
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            found.update(node[key] for key in ("pattern",) if isinstance(node.get(key), str))
            found.update(node.get("patternProperties", ()))
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(child)

    walk(ExperimentSpec.model_json_schema())
    assert len(found) > 20 and found <= set(PATTERNS), found - set(PATTERNS)


@pytest.mark.parametrize(
    ("path", "new", "said"),
    [
        ("cluster", {"image": "repo/x y:1"}, "not the name of a container image"),
        ("cluster", {"image": "repo/x:1\n  privileged: true"}, "not the name of a container image"),
        ("cluster", {"docker": {"sandbox_host": "tcp://host:65536"}}, "not of the form tcp://HOST:PORT"),
        ("cluster", {"docker": {"certificates": "/a/../../etc"}}, "without .."),
        ("cluster", {"ray": {"runs_dir": "/"}}, "below /"),
        ("cluster", {"ray": {"address": "host:8265"}}, "not of the form http://HOST:PORT"),
        ("rollout.agent_loop", {"resource": "a b"}, "not the name of a resource of Ray's"),
        ("proxy", {"host": "not a host"}, "not the name or address of a machine"),
        ("observability", {"dashboard": {"host": "999.1.1.1"}}, "not an IPv4 address"),
        ("policy", {"type": "pretrained", "path": "a\nb"}, "holds a control character"),
        ("policy", {"type": "pretrained", "path": "a\0b"}, "holds a control character"),
        ("secrets", [{"variable": "1A", "used_by": "policy"}], "not the name of an environment variable"),
        ("trainer.optimizer.beta2", 1.0, "allowed: < 1.0"),
        ("environment", {"type": "docker", "base_image": ""}, "not the name of a container image"),
        ("environment", {"type": "docker", "base_image": "a:1", "docker_host": "tcp://h:99999"}, "unix:///PATH"),
    ],
)
def test_forms_of_names_and_addresses(quickstart: Any, path: str, new: Any, said: str) -> None:
    put(quickstart, path, new)
    with pytest.raises(SpecError) as caught:
        validate(quickstart)
    assert said in str(caught.value)


def test_names_of_variables_may_be_in_lower_case(quickstart: Any) -> None:
    put(quickstart, "secrets", [{"variable": "hf_token", "used_by": "policy"}])
    assert validate(quickstart).secrets[0].variable == "hf_token"


def test_problems_print_as_one_line() -> None:
    problem = Problem(("a", 0, "b"), "wrong", "right", "do it", position="x.jsonnet:1:2")
    assert str(problem) == "x.jsonnet:1:2: a[0].b: wrong; allowed: right; do it"


def test_a_spec_may_name_its_schema_for_editors(tmp_path: Path, quickstart: Any) -> None:
    plain, named, sweep = (tmp_path / f"{name}.json" for name in ("plain", "named", "sweep"))
    schema = {"$schema": "./liverl.schema.json"}
    plain.write_text(json.dumps(quickstart))
    named.write_text(json.dumps(schema | quickstart))
    sweep.write_text(json.dumps(schema | {"name": "both", "sweep": {"a": schema | quickstart}}))
    files = [compile_in_memory(spec).files["resolved.json"] for spec in (plain, named)]
    assert files[0] == files[1] and check_spec(sweep) == []
    named.write_text(json.dumps({"$schema": 1} | quickstart))
    assert [dotted(problem.path) for problem in check_spec(named)] == ["$schema"]


def test_kubernetes_is_another_name_of_its_target() -> None:
    assert compile_in_memory(LAB, target="kubernetes").files == compile_in_memory(LAB, target="k8s").files
