"""From a spec field to what follows, and from an artifact's line back to the spec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compiler import SpecError, compile_spec
from compiler.assemble import lower
from compiler.explain import explain_field, explain_line, flatten
from compiler.facts import Facts
from compiler.plan import make_plan
from compiler.registry import find_target
from compiler.schema import field_docs, reachable, spec_schema
from compiler.sourcemap import parse_path
from compiler.spec.experiment import ExperimentSpec
from compiler.validate import validate
from tests.compiler.golden_cases import LAB, REPOSITORY


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "b"
    compile_spec(LAB, out=folder, target="k8s")
    return folder


def line_of(path: Path, text: str) -> int:
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def test_a_field_names_its_line_and_its_consequences() -> None:
    said = explain_field(LAB, "trainer.optimizer.learning_rate")
    line = line_of(LAB, "learning_rate: 5e-4")
    assert f"quickstart.jsonnet:{line}:" in said
    assert "verl.yaml: actor_rollout_ref.actor.optim.lr = 0.0005" in said


def test_a_default_says_so() -> None:
    assert "default of its model" in explain_field(LAB, "trainer.optimizer.beta2")


def test_an_override_says_so() -> None:
    assert "--set seed" in explain_field(LAB, "seed", sets=["seed=3"])


def test_an_unknown_field_is_guessed() -> None:
    with pytest.raises(SpecError, match=r"did you mean trainer\.optimizer\.learning_rate"):
        explain_field(LAB, "trainer.optimizer.lr_rate")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("verl.yaml", "lr: 0.0005", "from trainer.optimizer.learning_rate, set at quickstart.jsonnet:"),
        ("verl.yaml", "total_epochs", "decided by the compiler: total_training_steps ends the run"),
        ("verl.yaml", "  - 0.999", "from trainer.optimizer.beta1, a default"),
        ("vllm.yaml", "max-num-seqs", "from rollout.slots, set at lab.libsonnet:"),
        ("runtime.json", '"max_turns"', "from scaffold.max_turns, set at lab.libsonnet:"),
        ("runtime.json", '"hidden_size"', "from policy.architecture.hidden_size, set at quickstart.jsonnet:"),
        ("rayjobs.yaml", "activeDeadlineSeconds", "from cluster.deadline_sec, a default"),
        ("namespaces.yaml", "liverl-sandboxes", "from cluster.namespace, a default"),
        ("resolved.json", '"seed"', "the spec's own field seed"),
    ],
)
def test_a_line_of_an_artifact_names_the_line_of_the_spec(bundle: Path, file: str, text: str, said: str) -> None:
    assert said in explain_line(f"{bundle / file}:{line_of(bundle / file, text)}")


@pytest.mark.parametrize(
    ("target", "file", "text", "said"),
    [
        ("k8s", "kustomization.yaml", "quickstart-site-bundle", "from name, set at quickstart-site.jsonnet:"),
        ("k8s", "references.yaml", "kind: RayJob", "the same in every bundle of this target"),
        ("k8s", "pods.liverl.lock", '"compiler"', "written by the compiler"),
        ("k8s", "rayjobs.yaml", "rayClusterSpec:", "values below it follow from"),
        ("k8s", "kustomization.yaml", "namespaces.yaml", "the same in every bundle of this target"),
        ("k8s", "rayjobs.yaml", '"WANDB_API_KEY"', "from secrets[0].variable, set at <library>/site.libsonnet:"),
        ("k8s", "SUMMARY.md", "| longest sequence |", "from rollout.response_length, set at quickstart.jsonnet:"),
        ("k8s", "SUMMARY.md", "| weights (", "from policy.architecture.hidden_size, set at quickstart.jsonnet:"),
        ("k8s", "liverl.lock", '"compiler"', "written by the compiler"),
        ("k8s", ".map.json", '"from"', "written by the compiler"),
        ("k8s", "resolved.json", '"hidden_size"', "set at quickstart.jsonnet:"),
        ("docker", "Dockerfile", "torch==", "from trainer.device, set at <library>/liverl.libsonnet:"),
        ("docker", "Dockerfile", "WORKDIR", "the same in every bundle of this target"),
        ("docker", "Dockerfile", "# LiveRL", "no value on this line"),
        ("skypilot", "task.sky.yaml", "--num-gpus 1", "from trainer.ranks_per_node, a default"),
        ("skypilot", ".skyignore", "# ", "no value on this line"),
        ("ray", "submit.sh", "--address", "from cluster.ray.address, set at <library>/site.libsonnet:"),
        ("ray", "runtime-env.yaml", "PYTHONSAFEPATH", "the same in every bundle of this target"),
    ],
)
def test_every_file_of_every_target_is_explained(tmp_path: Path, target: str, file: str, text: str, said: str) -> None:
    compile_spec(REPOSITORY / "specs" / "quickstart-site.jsonnet", out=tmp_path / "b", target=target)
    found = explain_line(f"{tmp_path / 'b' / file}:{line_of(tmp_path / 'b' / file, text)}")
    assert said in found, found


def test_every_line_has_an_answer(bundle: Path) -> None:
    for file in sorted(bundle.iterdir()):
        for line in range(1, len(file.read_text().splitlines()) + 1, 1 if file.name != ".map.json" else 500):
            assert explain_line(f"{file}:{line}").startswith(f"{file.name}:{line}  ")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("k8s", 'rayjobs.yaml: spec.submitterPodTemplate.spec.containers[0].image = "liverl:0.1.0"'),
        ("docker", "compose.yaml: services.trainer.image"),
        ("skypilot", 'task.sky.yaml: resources.image_id = "docker:liverl:0.1.0"'),
        ("local", "nothing on the target local"),
    ],
)
def test_a_field_names_its_consequences_on_a_target(target: str, said: str) -> None:
    assert said in explain_field(LAB, "cluster.image", target=target)


def test_each_origin_has_its_own_place(bundle: Path) -> None:
    for file in json.loads((bundle / ".map.json").read_text())["files"].values():
        for entry in file.values():
            assert len(entry.get("from", ())) == len(entry.get("at", ()))


@pytest.mark.parametrize("place", ["nonsense", "verl.yaml", "verl.yaml:x", "/tmp/verl.yaml:3"])
def test_places_in_no_bundle_are_refused(place: str) -> None:
    with pytest.raises(SpecError):
        explain_line(place)


def test_origins_name_fields_that_exist(quickstart: Any) -> None:
    for algorithm in ("grpo", "ppo"):
        if algorithm == "ppo":
            quickstart["algorithm"] = {"type": "ppo", "group_size": 8, "critic": {"learning_rate": 1e-4}}
        spec = validate(quickstart)
        known = {name for name, _ in flatten(spec.model_dump(mode="json"))}
        lowered = lower(make_plan(spec), find_target("local"))
        for facts in (lowered.verl, lowered.vllm, lowered.runtime):
            for name, fact in facts.items():
                for origin in fact.origins:
                    assert any(leaf == origin or leaf.startswith((f"{origin}.", f"{origin}[")) for leaf in known), (
                        name,
                        origin,
                    )


def test_facts_refuse_contradictions(quickstart: Any) -> None:
    plan = make_plan(validate(quickstart))
    facts = Facts(plan.reads)
    facts.decide("a.b", 1, "because")
    with pytest.raises(AssertionError):
        facts.decide("a.b", 2, "because")
    with pytest.raises(AssertionError):
        facts.derive("a.d", lambda: 1)
    facts.derive("a.b.c", lambda: plan.spec.seed)
    with pytest.raises(AssertionError):
        facts.tree()


def test_paths() -> None:
    assert parse_path("tasks.train[0].name") == ("tasks", "train", 0, "name")


def test_the_schema_describes_every_variant() -> None:
    schema = spec_schema()
    json.dumps(schema)
    assert schema["$defs"]["Clip"]["properties"]["low"]["description"]
    assert set(schema["properties"]) == set(ExperimentSpec.model_fields)
    assert schema["additionalProperties"] is False


def test_public_models_have_docstrings() -> None:
    for model in reachable(ExperimentSpec):
        assert model.__doc__, model
        field_docs(model)
