"""Clusters for sandboxes: what the compiler refuses before a cluster does, and that the runtime reads what it wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from compiler import check_spec, compile_in_memory
from compiler.check.environment import environments
from compiler.errors import dotted
from compiler.plan import make_plan
from compiler.validate import validate
from runtime.config import RuntimeConfig
from runtime.errors import UserError
from runtime.launch.machine import check_imports
from tests.compiler.golden_cases import LAB

IMAGE = "registry.example/box:1"
ECS = {
    "cluster": "boxes",
    "image": IMAGE,
    "region": "eu-central-1",
    "subnets": ["subnet-1"],
    "security_groups": ["sg-1"],
    "proxy_host": "10.0.0.1",
}


def problems(quickstart: Any, kind: str, **cluster: Any) -> dict[str, str]:
    """Dotted path -> severity, of the rule for environments."""
    quickstart["environment"] = {"type": kind, kind: cluster}
    found = environments(make_plan(validate(quickstart)))
    return {dotted(problem.path): problem.severity for problem in found}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"image": "box"}, {"environment.kubernetes.image": "fatal"}),
        ({"image": "localhost:5000/box"}, {"environment.kubernetes.image": "fatal"}),
        ({"image": "box:latest"}, {"environment.kubernetes.image": "warn"}),
        ({"image": "box@sha256:" + "0" * 64}, {}),
        ({"active_deadline_sec": 20}, {"environment.kubernetes.active_deadline_sec": "fatal"}),
        ({"require_isolation": True}, {"environment.kubernetes.require_isolation": "fatal"}),
        ({"require_isolation": True, "egress_probes": ["10.0.0.1:443"]}, {}),
    ],
)
def test_rules_for_kubernetes(quickstart: Any, changes: dict[str, Any], expected: dict[str, str]) -> None:
    assert problems(quickstart, "kubernetes", **{"image": IMAGE, **changes}) == expected


def test_rules_for_ecs(quickstart: Any) -> None:
    assert problems(quickstart, "ecs", **ECS) == {}
    unset = {"type": "ecs", "ecs": {**ECS, "proxy_host": None}}
    for target, refused in (("local", True), ("docker", True), ("k8s", True), ("ray", True), ("skypilot", False)):
        found = check_spec(LAB, target=target, sets=[f"environment={json.dumps(unset)}"])
        paths = [dotted(problem.path) for problem in found if problem.severity == "fatal"]
        assert ("environment.ecs.proxy_host" in paths) == refused, target
    assert problems(quickstart, "ecs", **{**ECS, "ttl_sec": 20}) == {"environment.ecs.ttl_sec": "fatal"}


@pytest.mark.parametrize(("target", "warned"), [("local", True), ("docker", True), ("ray", True), ("k8s", False)])
def test_where_only_the_machine_knows_the_pods_way_to_the_model_it_is_said(target: str, warned: bool) -> None:
    def paths(**settings: str) -> dict[str, str]:
        pods = json.dumps({"type": "kubernetes", "kubernetes": {"image": IMAGE, **settings}})
        found = check_spec(LAB, target=target, sets=[f"environment={pods}"])
        return {dotted(one.path): one.severity for one in found}

    assert paths().get("environment.kubernetes.proxy_host") == ("warn" if warned else None)
    assert "environment.kubernetes.proxy_host" not in paths(proxy_host="10.0.0.1")


def test_rules_for_harbor(quickstart: Any) -> None:
    host = {"proxy_host": "10.0.0.1"}
    assert problems(quickstart, "harbor", environment="docker", **host) == {}
    assert problems(quickstart, "harbor", environment="docker") == {"environment.harbor.proxy_host": "fatal"}
    assert problems(quickstart, "harbor", **host) == {"environment.harbor": "fatal"}
    assert problems(quickstart, "harbor", environment="docker", import_path="a:B", **host) == {
        "environment.harbor": "fatal"
    }


@pytest.mark.parametrize(
    ("kind", "cluster"), [("kubernetes", {"image": IMAGE, "node_selector": {"pool": "cpu"}}), ("ecs", ECS)]
)
def test_the_runtime_reads_what_the_compiler_writes(kind: str, cluster: dict[str, Any]) -> None:
    sets = [f"environment={json.dumps({'type': kind, kind: cluster})}"]
    files = compile_in_memory(LAB, target="local", sets=sets).files
    environment = RuntimeConfig.model_validate_json(files["runtime.json"]).environment
    written = environment.kubernetes if kind == "kubernetes" else environment.ecs
    assert environment.type == kind and written is not None
    assert {key: written.model_dump(mode="json")[key] for key in cluster} == cluster


PROBED = {"image": IMAGE, "require_isolation": True, "egress_probes": ["10.0.0.1:443"]}


@pytest.mark.parametrize(
    ("environment", "network", "refused"),
    [
        ({"type": "bubblewrap"}, {"agent": "model", "verifier": "none"}, []),
        ({"type": "bubblewrap"}, {"agent": "any"}, ["agent"]),
        ({"type": "docker", "base_image": "python:3.11"}, {"verifier": "any"}, ["verifier"]),
        ({"type": "process"}, {"agent": "model"}, ["agent"]),
        ({"type": "process"}, {"agent": "any", "verifier": "any"}, []),
        ({"type": "ecs", "ecs": ECS}, {"agent": "model", "verifier": "none"}, ["agent", "verifier"]),
        ({"type": "kubernetes", "kubernetes": {"image": IMAGE}}, {"verifier": "none"}, ["verifier"]),
        ({"type": "kubernetes", "kubernetes": PROBED}, {"agent": "model", "verifier": "none"}, []),
    ],
)
def test_a_phase_is_held_to_what_its_backend_can_hold(
    quickstart: Any, environment: dict[str, Any], network: dict[str, str], refused: list[str]
) -> None:
    quickstart["environment"] = {**environment, "network": network}
    found = [problem for problem in environments(make_plan(validate(quickstart))) if problem.severity == "fatal"]
    assert [dotted(problem.path) for problem in found] == [f"environment.network.{phase}" for phase in refused]


def test_the_second_sandbox_has_limits_of_its_own() -> None:
    """The runtime reads them, and a cluster's namespace of sandboxes admits the larger of the two; twice where a pod of
    an ordinary user has a container more for the code under test."""
    limits = {"memory_mib": 3000, "pids": 64}
    environment = {"type": "kubernetes", "memory_mib": 2000, "verifier": limits}
    environment["kubernetes"] = {"image": IMAGE, "namespace": "liverl-sandboxes"}
    sets = [f"environment={json.dumps(environment)}", "cluster.namespace=liverl"]
    files = compile_in_memory(LAB, target="k8s", sets=sets).files
    assert RuntimeConfig.model_validate_json(files["runtime.json"]).environment.verifier.model_dump() == limits
    (limit,) = yaml.safe_load(files["limitranges.yaml"])["spec"]["limits"]
    assert limit["max"]["memory"] == "3000Mi" and limit["default"]["memory"] == "2000Mi"
    quota = yaml.safe_load(files["resourcequotas.yaml"])["spec"]["hard"]
    assert quota["limits.memory"] == f"{int(quota['pods']) * 2 * 3000}Mi"
    root = [*sets, "environment.kubernetes.user=null"]
    files = compile_in_memory(LAB, target="k8s", sets=root).files
    assert (
        yaml.safe_load(files["resourcequotas.yaml"])["spec"]["hard"]["limits.memory"]
        == f"{int(quota['pods']) * 3000}Mi"
    )


def test_parts_of_ones_own_reach_the_runtime_by_import_path() -> None:
    """Scaffold, sandboxes and engine; the target is named on the command line."""
    own = {"import_path": "my.parts:Mine", "kwargs": {"size": 3}}
    sets = [
        f"scaffold={json.dumps({'type': 'import', **own})}",
        f"environment={json.dumps({'type': 'import', 'imported': own})}",
        f"rollout.import_path={json.dumps(own['import_path'])}",
        'rollout.kwargs={"size": 3}',
    ]
    for target in ("local", "docker", "k8s", "skypilot", "ray"):
        files = compile_in_memory(LAB, target=target, sets=sets).files
        read = RuntimeConfig.model_validate_json(files["runtime.json"])
        assert read.environment.imported is not None
        for part in (read.scaffold, read.environment.imported, read.rollout):
            assert part.model_dump(include={"import_path", "kwargs"}) == own
        with pytest.raises(UserError, match=r"scaffold\.import_path: 'my\.parts:Mine'"):
            check_imports(read)
    lonely = check_spec(LAB, sets=['rollout.kwargs={"size": 3}'])
    assert [dotted(problem.path) for problem in lonely if problem.severity == "fatal"] == ["rollout.kwargs"]
