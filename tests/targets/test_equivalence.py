"""verl, vLLM and the runtime are told the same on every target, but for the facts listed here; and no bundle holds a
secret."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from targets.joining import LOCAL_RAY
from tests.targets.variants import VARIANTS, compiled

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
    listed = {"target"}
    if target in JOINS_RAY:
        listed |= {f"ray_kwargs.ray_init.{name}" for name in (*LOCAL_RAY, "address")}
    if target in JOINS_RAY or sandboxes_elsewhere:
        listed |= {"proxy.host", "proxy.port"}
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


def test_the_differences_are_seen() -> None:
    """The comparison is not blind: another seed is another fact."""
    one, other = {"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "d": 3}}
    assert differences(one, other) == {"a.c": (2, None), "a.d": (None, 3)}


@pytest.mark.parametrize("target", REMOTE)
def test_secrets_are_names_only(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values in the shell that compiles reach no file; the names reach those that need them."""
    from compiler import compile_in_memory
    from tests.compiler.golden_cases import LAB

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
    from pathlib import Path

    from runtime.trainer.environment import trainer_environment

    child = trainer_environment(Path("/runs/x/1"), attempt=0, inherited={**environment, "RAY_ADDRESS": "stray:1"})
    assert "RAY_ADDRESS" not in child
    monkeypatch.delenv("LIVERL_RAY_ADDRESS", raising=False)
    for name in environment:
        monkeypatch.setenv(name, child[name])
    config = omegaconf.OmegaConf.create(yaml.safe_load(compiled("quickstart", "k8s")["verl.yaml"]))
    assert {**config.ray_kwargs.ray_init}["address"] == (address or environment["LIVERL_RAY_ADDRESS"])
