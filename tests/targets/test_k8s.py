"""The manifests of ``--target k8s`` satisfy the schemas of Kubernetes and KubeRay, refer to each other, and hold no
secret."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from compiler import check_spec, compile_in_memory
from compiler.errors import dotted
from tests.compiler.golden_cases import REPOSITORY, spec_path

VERSION = "1.37"
KUBERAY = REPOSITORY.parent / "shared" / "data" / "kuberay" / "rayjob.v1.json"
CUSTOM = {"RayJob", "Kustomization"}
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
QUANTITY = re.compile(r"\d+(\.\d+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?")

VARIANTS = {
    "quickstart": [],
    "separate": ['mode={"type": "separate_async"}'],
    "storage class": ["cluster.storage.storage_class=fast-ssd", "cluster.workers=3"],
    "gpus": [
        "rollout.type=vllm",
        "rollout.replicas=8",
        "trainer.device=cuda",
        "trainer.ranks_per_node=8",
        "trainer.precision=bf16",
        'cluster.head={"cpus": 32, "memory_gib": 200, "gpus": 8}',
    ],
}


@pytest.fixture(scope="module", params=VARIANTS)
def files(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(compile_in_memory(spec_path("quickstart"), target="k8s", sets=VARIANTS[request.param]).files)


def objects(files: dict[str, str]) -> list[dict[str, Any]]:
    manifests = [name for name in files if name.endswith(".yaml") and name not in ("verl.yaml", "vllm.yaml")]
    return [document for name in manifests for document in yaml.safe_load_all(files[name])]


def of_kind(files: dict[str, str], kind: str) -> list[dict[str, Any]]:
    return [document for document in objects(files) if document["kind"] == kind]


def validator(document: dict[str, Any]) -> jsonschema.Draft7Validator:
    folder = next(
        (Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema").glob(f"v{VERSION}.*-local-strict")
    )
    group, _, version = document["apiVersion"].rpartition("/")
    stem = "-".join(part for part in (document["kind"].lower(), group.split(".")[0], version) if part)
    path = folder / f"{stem}.json"
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT7

    registry: Registry[Any] = Registry(
        retrieve=lambda uri: Resource.from_contents(
            json.loads((folder / uri.rpartition("/")[2]).read_text()), default_specification=DRAFT7
        )
    )
    return jsonschema.Draft7Validator(json.loads(path.read_text()), registry=registry)


def test_core_objects_satisfy_their_schemas(files: dict[str, str]) -> None:
    checked = 0
    for document in objects(files):
        if document["kind"] not in CUSTOM:
            errors = list(validator(document).iter_errors(document))
            assert not errors, [f"{document['kind']}.{error.json_path}: {error.message}" for error in errors]
            checked += 1
    assert checked >= 11


def test_the_schemas_are_not_blind(files: dict[str, str]) -> None:
    document = of_kind(files, "NetworkPolicy")[0]
    document["spec"]["podSelektor"] = {}
    assert list(validator(document).iter_errors(document))


def with_defaults(schema: Any, value: Any) -> Any:
    """What the API server does first: drop nulls, fill in defaults."""
    if isinstance(value, dict):
        properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
        filled = {}
        for name, child in value.items():
            inner = properties.get(name, schema.get("additionalProperties", {}) if isinstance(schema, dict) else {})
            if child is not None:
                filled[name] = with_defaults(inner, child)
        for name, inner in properties.items():
            if name not in filled and isinstance(inner, dict) and "default" in inner:
                filled[name] = inner["default"]
        return filled
    if isinstance(value, list):
        inner = schema.get("items", {}) if isinstance(schema, dict) else {}
        return [with_defaults(inner, child) for child in value]
    return value


@pytest.mark.skipif(
    not KUBERAY.is_file(), reason="the KubeRay schema is not beside this checkout (../shared/data/kuberay)"
)
def test_the_ray_job_satisfies_kuberays_schema(files: dict[str, str]) -> None:
    schema = json.loads(KUBERAY.read_text())["schema"]
    (job,) = of_kind(files, "RayJob")
    errors = list(jsonschema.Draft7Validator(schema).iter_errors(with_defaults(schema, job)))
    assert not errors, [f"{error.json_path}: {error.message}" for error in errors]
    broken = json.loads(json.dumps(job))
    broken["spec"]["entrypont"] = broken["spec"].pop("entrypoint")
    assert list(jsonschema.Draft7Validator(schema).iter_errors(with_defaults(schema, broken)))


def pods(files: dict[str, str]) -> list[dict[str, Any]]:
    (job,) = of_kind(files, "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    return [
        job["spec"]["submitterPodTemplate"],
        cluster["headGroupSpec"]["template"],
        *(group["template"] for group in cluster["workerGroupSpecs"]),
    ]


def test_pod_templates_are_valid_pods(files: dict[str, str]) -> None:
    for template in pods(files):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "x", **template["metadata"]},
            "spec": template["spec"],
        }
        assert not list(validator(pod).iter_errors(pod))
        mounts = {mount["name"] for container in pod["spec"]["containers"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_pods_have_as_few_rights_as_they_can(files: dict[str, str]) -> None:
    for template in pods(files):
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in template["spec"]["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])


def test_references_lead_somewhere(files: dict[str, str]) -> None:
    present = {
        (document["kind"], document["metadata"].get("namespace"), document["metadata"]["name"])
        for document in objects(files)
        if document["kind"] != "Kustomization"
    }
    namespaces = {name for kind, _, name in present if kind == "Namespace"}
    assert len(namespaces) == 2
    assert all(namespace in namespaces for kind, namespace, _ in present if kind != "Namespace")
    (binding,) = of_kind(files, "RoleBinding")
    assert ("Role", binding["metadata"]["namespace"], binding["roleRef"]["name"]) in present
    for subject in binding["subjects"]:
        assert ("ServiceAccount", subject["namespace"], subject["name"]) in present
    (job,) = of_kind(files, "RayJob")
    namespace = job["metadata"]["namespace"]
    for template in pods(files)[1:]:
        assert ("ServiceAccount", namespace, template["spec"]["serviceAccountName"]) in present
        for volume in template["spec"]["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", namespace, volume["configMap"]["name"]) in present
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", namespace, volume["persistentVolumeClaim"]["claimName"]) in present


def test_policies_select_pods_that_exist(files: dict[str, str]) -> None:
    labels = [template["metadata"]["labels"] for template in pods(files)]
    for policy in of_kind(files, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            for peer in rule["to"]:
                wanted = peer["podSelector"]["matchLabels"]
                assert any(wanted.items() <= given.items() for given in labels)
    denied = next(policy for policy in of_kind(files, "NetworkPolicy") if policy["metadata"]["name"] == "default-deny")
    assert denied["spec"]["podSelector"] == {} and set(denied["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert "egress" not in denied["spec"] and "ingress" not in denied["spec"]


def test_the_trainer_may_touch_pods_of_the_sandbox_namespace_only(files: dict[str, str]) -> None:
    (role,) = of_kind(files, "Role")
    assert role["metadata"]["namespace"].endswith("-sandboxes")
    assert {resource for rule in role["rules"] for resource in rule["resources"]} == {"pods", "pods/exec", "pods/log"}
    assert not of_kind(files, "ClusterRole") and not of_kind(files, "Secret")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, child in value.items():
            yield from leaves(child, f"{path}.{name}")
    elif isinstance(value, list):
        for child in value:
            yield from leaves(child, path)
    else:
        yield path, value


def test_names_and_quantities_are_well_formed(files: dict[str, str]) -> None:
    for document in objects(files):
        if document["kind"] == "Kustomization":
            continue
        name = document["metadata"]["name"]
        assert LABEL.fullmatch(name) and len(name) <= 63, name
        for path, value in leaves(document):
            if re.search(r"\.(limits|requests|hard|default|defaultRequest|max)\.", path) and not path.endswith(".type"):
                assert QUANTITY.fullmatch(str(value)), (path, value)


def test_the_kustomization_lists_every_manifest(files: dict[str, str]) -> None:
    manifests = {name for name in files if name.endswith(".yaml")} - {"verl.yaml", "vllm.yaml", "kustomization.yaml"}
    assert set(yaml.safe_load(files["kustomization.yaml"])["resources"]) == manifests


def test_the_config_map_holds_the_compiled_configuration(files: dict[str, str]) -> None:
    (config,) = of_kind(files, "ConfigMap")
    assert config["immutable"] is True
    assert config["data"] == {name: files[name] for name in ("runtime.json", "verl.yaml", "vllm.yaml")}


def test_only_the_listed_facts_differ_from_local() -> None:
    """Cross-target equivalence: verl, vLLM and runtime say the same but for addresses and who starts Ray."""
    local, files = (compile_in_memory(spec_path("quickstart"), target=target).files for target in ("local", "k8s"))
    here, there = yaml.safe_load(local["verl.yaml"]), yaml.safe_load(files["verl.yaml"])
    assert here.pop("ray_kwargs")["ray_init"].keys() == {
        "num_cpus",
        "num_gpus",
        "object_store_memory",
        "include_dashboard",
        "_temp_dir",
    }
    assert there.pop("ray_kwargs") == {"ray_init": {"address": "auto"}}
    assert here == there
    assert local["vllm.yaml"] == files["vllm.yaml"]
    one, other = json.loads(local["runtime.json"]), json.loads(files["runtime.json"])
    assert (one.pop("target"), other.pop("target")) == ("local", "k8s")
    assert (one["proxy"].pop("host"), other["proxy"].pop("host")) == ("127.0.0.1", "0.0.0.0")
    assert (one["proxy"].pop("port"), other["proxy"].pop("port")) == (0, 8080)
    assert one == other


@pytest.mark.parametrize(
    ("sets", "path"),
    [
        ([f"name={'a' * 48}"], "name"),
        (['cluster.head={"cpus": 1, "memory_gib": 1, "shm_gib": 1}'], "cluster.head.shm_gib"),
        ([*VARIANTS["gpus"][:-1]], "cluster.worker.gpus"),
        (["cluster.namespace=Bad_Name"], "cluster.namespace"),
    ],
)
def test_what_a_cluster_cannot_hold_is_refused(sets: list[str], path: str) -> None:
    fatal = [
        problem
        for problem in check_spec(spec_path("quickstart"), target="k8s", sets=sets)
        if problem.severity == "fatal"
    ]
    assert [dotted(problem.path) for problem in fatal] == [path]
