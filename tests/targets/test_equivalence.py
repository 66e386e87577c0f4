"""verl, vLLM and the runtime are told the same on every target, but for the facts listed here; and no bundle holds a
secret."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from compiler import compile_all, compile_in_memory
from targets.joining import LOCAL_RAY
from tests.compiler.golden_cases import CASES, LAB, spec_path
from tests.targets.variants import ENV, VARIANTS, compiled

REMOTE = ["docker", "k8s", "ray", "skypilot"]
JOINS_RAY = {"k8s", "ray", "skypilot"}
"""Targets whose trainer finds a Ray running. All others start their own."""


def differences(one: Any, other: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Path -> the two values, for every leaf that is not the same; a missing one is None."""
    if isinstance(one, dict) and isinstance(other, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for name in {**one, **other}:
            found |= differences(one.get(name), other.get(name), f"{path}.{name}" if path else name)
        return found
    return {} if one == other else {path: (one, other)}


def allowed(target: str, *, sandboxes_elsewhere: bool) -> set[str]:
    """Everything that a target may change: addresses, and who starts Ray."""
    listed = {"target", *(f"env.{name}" for name in ENV)}
    if target in JOINS_RAY:
        listed |= {f"ray_kwargs.ray_init.{name}" for name in (*LOCAL_RAY, "address")}
    if target == "docker":
        listed.add("ray_kwargs.ray_init.dashboard_host")
    if target in JOINS_RAY or sandboxes_elsewhere:
        listed |= {"proxy.host", "proxy.port"}
    if target in ("k8s", "skypilot"):
        listed.add("rollout.agent_loop.resource")
    if target == "k8s":
        listed |= {f"environment.kubernetes.{name}" for name in ("labels.liverl/experiment", "service_account")}
    return listed


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("target", REMOTE)
def test_only_the_listed_facts_differ_from_local(target: str, variant: str) -> None:
    local, there = compiled(variant, "local"), compiled(variant, target)
    assert local["vllm.yaml"] == there["vllm.yaml"]
    assert local["resolved.json"] == there["resolved.json"]
    found = differences(yaml.safe_load(local["verl.yaml"]), yaml.safe_load(there["verl.yaml"]))
    found |= differences(json.loads(local["runtime.json"]), json.loads(there["runtime.json"]))
    assert set(found) <= allowed(target, sandboxes_elsewhere=variant == "site")
    assert found["target"] == ("local", target)
    if target in JOINS_RAY:
        assert found["ray_kwargs.ray_init.address"] == (None, "${oc.env:LIVERL_RAY_ADDRESS,auto}")
        assert found["proxy.host"] == ("127.0.0.1", "0.0.0.0")
        assert found["proxy.port"][1] == 8790
    if variant == "workers" and target in ("k8s", "skypilot"):
        assert found["rollout.agent_loop.resource"] == (None, "liverl_agent_loop")
    else:
        assert "rollout.agent_loop.resource" not in found


ECS_HOST = ["environment.ecs.proxy_host=10.0.0.1"]
"""Without it the spot example is for one target alone."""
EXAMPLE_CASES = [
    *((name, target, []) for name, target in CASES if target != "local" and (name, "local") in CASES),
    *(("spot-ec2", target, ECS_HOST) for target in ("ray", "skypilot")),
]


@pytest.mark.parametrize(("name", "target", "sets"), EXAMPLE_CASES)
def test_only_the_listed_facts_of_examples_differ(name: str, target: str, sets: list[str]) -> None:
    """The same for every example and every target that it is pinned for."""
    local, there = (compile_in_memory(spec_path(name), target=one, sets=sets).files for one in ("local", target))
    assert local["vllm.yaml"] == there["vllm.yaml"]
    assert local["resolved.json"] == there["resolved.json"]
    found = differences(yaml.safe_load(local["verl.yaml"]), yaml.safe_load(there["verl.yaml"]))
    found |= differences(json.loads(local["runtime.json"]), json.loads(there["runtime.json"]))
    elsewhere = json.loads(local["resolved.json"])["cluster"]["docker"]["sandbox_host"] is not None
    assert set(found) <= allowed(target, sandboxes_elsewhere=elsewhere)
    assert found["target"] == ("local", target)


def test_every_point_of_the_sweep_differs_in_the_listed_facts(tmp_path: Path) -> None:
    for target in ("local", "k8s"):
        compile_all(spec_path("sweep"), target=target, out=tmp_path / target)
    points = sorted(path.name for path in (tmp_path / "local").iterdir() if path.is_dir())
    assert len(points) == 12
    for point in points:
        local, there = (tmp_path / target / point for target in ("local", "k8s"))
        found = {}
        for file, read in (("verl.yaml", yaml.safe_load), ("runtime.json", json.loads)):
            found |= differences(read((local / file).read_text()), read((there / file).read_text()))
        assert set(found) <= allowed("k8s", sandboxes_elsewhere=False), point


def test_the_differences_are_seen() -> None:
    """The comparison is not blind: another seed is another fact."""
    one, other = {"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "d": 3}}
    assert differences(one, other) == {"a.c": (2, None), "a.d": (None, 3)}


@pytest.mark.parametrize("target", REMOTE)
def test_secrets_are_names_only(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values in the shell that compiles reach no file; the names reach those that need them."""
    monkeypatch.setenv("HF_TOKEN", "hf_averysecretvalue")
    monkeypatch.setenv("WANDB_API_KEY", "wandbsecretvalue")
    files = compile_in_memory(LAB, target=target, sets=VARIANTS["site"]).files
    whole = "\n".join(files.values())
    assert "secretvalue" not in whole
    assert not re.search(r"kind:\s*\"?Secret\b", whole)
    assert "HF_TOKEN" in whole


@pytest.mark.parametrize(("environment", "address"), [({}, "auto"), ({"LIVERL_RAY_ADDRESS": "10.0.0.1:6379"}, None)])
def test_the_trainer_finds_its_ray(
    environment: dict[str, str], address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read as verl's ``main_ppo`` reads it; and the variable survives the trainer's own environment."""
    omegaconf = pytest.importorskip("omegaconf")
    from runtime.laptop.cpu_platform import CPU
    from runtime.run_paths import RunPaths
    from runtime.trainer.environment import trainer_environment

    inherited = {**environment, "RAY_ADDRESS": "stray:1"}
    child = trainer_environment(RunPaths(Path("/runs/x/1")), platform=CPU, attempt=0, inherited=inherited)
    assert "RAY_ADDRESS" not in child
    monkeypatch.delenv("LIVERL_RAY_ADDRESS", raising=False)
    for name in environment:
        monkeypatch.setenv(name, child[name])
    config = omegaconf.OmegaConf.create(yaml.safe_load(compiled("quickstart", "k8s")["verl.yaml"]))
    assert {**config.ray_kwargs.ray_init}["address"] == (address or environment["LIVERL_RAY_ADDRESS"])
