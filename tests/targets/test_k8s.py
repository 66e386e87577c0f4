"""The manifests of ``--target k8s`` satisfy the schemas of Kubernetes and KubeRay, refer to each other, and hold no
secret."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from compiler import check_spec, compile_in_memory
from compiler.errors import dotted
from liverl.compiled import bundle_files
from runtime.config import AgentScaffold, OpenHandsSdkScaffold, RuntimeConfig
from runtime.sandboxes.base import Mount, SandboxRequest
from runtime.sandboxes.kubernetes.pods import manifest as sandbox_pod
from runtime.scaffolds.base import mounts_of
from runtime.scaffolds.image import fill
from tests.compiler.golden_cases import LAB, spec_path
from tests.targets.schemas import NOT_MANIFESTS, WITHOUT_SCHEMA, documents, kubernetes_errors, of_kind
from tests.targets.variants import (
    ANNOTATIONS,
    BUCKET,
    CLAIMED,
    EIGHT,
    GPUS,
    LABELS,
    SECRETS,
    SITE,
    VARIANTS,
    cluster,
    compiled,
)

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
PODS = (
    'environment={"type": "kubernetes", "kubernetes": {"image": "registry/box:1", "namespace": "%s", '
    '"runtime_class": %s}}'
)
QUANTITY = re.compile(r"\d+(\.\d+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?")
CLUSTER_WIDE = {
    "PersistentVolume",
    "Namespace",
    "PriorityClass",
    "RuntimeClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


@pytest.fixture(scope="module", params=VARIANTS)
def files(request: pytest.FixtureRequest) -> dict[str, str]:
    return compiled(request.param, "k8s")


@pytest.fixture(scope="module")
def site() -> dict[str, str]:
    return compiled("site", "k8s")


def test_only_kuberays_operator_and_the_run_itself_reach_the_dashboard(files: dict[str, str]) -> None:
    """KubeRay names every team's Ray pods alike, and whoever reaches the dashboard runs programs as the trainer."""
    operator = {"app.kubernetes.io/name": "kuberay-operator", "app.kubernetes.io/component": "kuberay-operator"}
    strangers = {"app.kubernetes.io/name": "kuberay", "ray.io/node-type": "head", "ray.io/cluster": "theirs"}
    rules = [
        rule
        for policy in of_kind(files, "NetworkPolicy")
        for rule in policy["spec"].get("ingress", ())
        if {"protocol": "TCP", "port": 8265} in rule.get("ports", ())
    ]

    def admitted(labels: dict[str, str]) -> bool:
        wanted = [peer["podSelector"]["matchExpressions"] for rule in rules for peer in rule["from"]]
        return any(all(labels.get(one["key"]) in one["values"] for one in ones) for ones in wanted)

    assert admitted(operator) and not admitted(strangers)


@pytest.mark.parametrize("secrets", [[], ["one"], ["one", "two"]])
def test_the_sandboxes_quota_leaves_room_for_what_pulls_their_images(secrets: list[str]) -> None:
    pods = {"image": "registry/box:1", "namespace": "quickstart-sandboxes", "image_pull_secrets": secrets}
    sets = [f"environment={json.dumps({'type': 'kubernetes', 'kubernetes': pods})}", cluster(namespace="quickstart")]
    (quota,) = of_kind(dict(compile_in_memory(LAB, target="k8s", sets=sets).files), "ResourceQuota")
    assert quota["spec"]["hard"]["secrets"] == str(len(secrets))


def test_every_object_satisfies_its_schema(files: dict[str, str]) -> None:
    """Core objects and custom resources, with every error of every document."""
    checked = [document for document in documents(files) if document["kind"] not in WITHOUT_SCHEMA]
    assert [error for document in checked for error in kubernetes_errors(document)] == []
    assert len(checked) >= 14


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("NetworkPolicy", ["spec", "podSelektor"], {}),
        ("RayJob", ["spec", "entrypont"], "x"),
        ("RayJob", ["spec", "rayClusterSpec", "workerGroupSpecs", 0, "replicas"], "two"),
        ("RayJob", ["spec", "backoffLimit"], "many"),
        ("LocalQueue", ["spec", "clusterQueu"], "x"),
        ("DaemonSet", ["spec", "template", "spec", "containerz"], []),
    ],
)
def test_the_schemas_are_not_blind(site: dict[str, str], kind: str, path: list[Any], value: Any) -> None:
    document = copy.deepcopy(of_kind(site, kind)[0])
    node = document
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    assert any(str(path[-1]) in error or "replicas" in error for error in kubernetes_errors(document))


def pods(files: dict[str, str]) -> list[dict[str, Any]]:
    """Every pod template, those inside custom resources among them; the Ray pods come last."""
    (job,) = of_kind(files, "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    return [
        *(daemon["spec"]["template"] for daemon in of_kind(files, "DaemonSet")),
        job["spec"]["submitterPodTemplate"],
        cluster["headGroupSpec"]["template"],
        *(group["template"] for group in cluster["workerGroupSpecs"]),
    ]


def test_no_autoscaler_evicts_the_pods_of_a_run(files: dict[str, str]) -> None:
    """An eviction ends verl's run and costs a retry."""
    asked = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
    ray = [one for one in pods(files) if one["metadata"]["labels"].get("liverl/role") in ("head", "trainer", "rollout")]
    assert len(ray) >= 2 and all(asked.items() <= one["metadata"]["annotations"].items() for one in ray)


def test_pod_templates_are_valid_pods(files: dict[str, str]) -> None:
    for template in pods(files):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "x", **template["metadata"]},
            "spec": template["spec"],
        }
        assert kubernetes_errors(pod) == []
        containers = pod["spec"]["containers"]
        mounts = {mount["name"] for container in containers for mount in container.get("volumeMounts", [])}
        assert mounts == {volume["name"] for volume in pod["spec"].get("volumes", [])}
        ports = [port for container in containers for port in container.get("ports", [])]
        for key in ("name", "containerPort"):
            assert len({port[key] for port in ports}) == len(ports)


def test_pods_have_as_few_rights_as_they_can(files: dict[str, str]) -> None:
    for template in pods(files):
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*template["spec"]["containers"], *template["spec"].get("initContainers", [])]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"]["drop"] == ["ALL"]
            # Registered memory needs the one capability, and nothing else does.
            rdma = any("rdma" in name for name in container["resources"]["limits"])
            assert context["capabilities"].get("add", []) == (["IPC_LOCK"] if rdma else [])
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])


def test_references_lead_somewhere(files: dict[str, str]) -> None:
    present = {
        (document["kind"], document["metadata"].get("namespace"), document["metadata"]["name"])
        for document in documents(files)
        if document["kind"] != "Kustomization"
    }
    namespaces = {name for kind, _, name in present if kind == "Namespace"}
    assert len(namespaces) == 2
    assert all(namespace in namespaces for kind, namespace, _ in present if kind not in CLUSTER_WIDE)
    (binding,) = of_kind(files, "RoleBinding")
    assert ("Role", binding["metadata"]["namespace"], binding["roleRef"]["name"]) in present
    for subject in binding["subjects"]:
        assert ("ServiceAccount", subject["namespace"], subject["name"]) in present
    (job,) = of_kind(files, "RayJob")
    namespace = job["metadata"]["namespace"]
    secrets = {(secret["kubernetes"]["name"], secret["kubernetes"]["key"]) for secret in SECRETS}
    for template in pods(files):
        spec = template["spec"]
        if "serviceAccountName" in spec:
            assert ("ServiceAccount", namespace, spec["serviceAccountName"]) in present
        if "priorityClassName" in spec:
            assert ("PriorityClass", None, spec["priorityClassName"]) in present
        if "runtimeClassName" in spec:
            assert ("RuntimeClass", None, spec["runtimeClassName"]) in present
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                (made,) = yaml.safe_load(files["kustomization.yaml"])["configMapGenerator"]
                assert (made["namespace"], made["name"]) == (namespace, volume["configMap"]["name"])
            claim = volume.get("persistentVolumeClaim", {}).get("claimName", "shared-runs")
            # Those of the namespace, by the spec's own words.
            assert claim in ("shared-runs", CLAIMED["name"]) or ("PersistentVolumeClaim", namespace, claim) in present
        for container in spec["containers"]:
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                assert reference is None or (reference["name"], reference["key"]) in secrets
    queue = job["metadata"]["labels"].get("kueue.x-k8s.io/queue-name")
    assert queue is None or ("LocalQueue", namespace, queue) in present
    for monitor in of_kind(files, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        (service,) = [one for one in of_kind(files, "Service") if wanted.items() <= one["metadata"]["labels"].items()]
        ports = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= set(ports)
        named = {port["name"] for container in pods(files)[-1]["spec"]["containers"] for port in container["ports"]}
        assert set(ports.values()) <= named


def test_policies_select_pods_that_exist(files: dict[str, str]) -> None:
    labels = [template["metadata"]["labels"] for template in pods(files)]
    for policy in of_kind(files, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            for peer in rule["to"]:
                wanted = peer["podSelector"]["matchLabels"]
                assert any(wanted.items() <= given.items() for given in labels)
    (way,) = [one for one in of_kind(files, "NetworkPolicy") if one["spec"].get("egress")]
    (job,) = of_kind(files, "RayJob")
    name = job["metadata"]["name"]
    assert way["metadata"]["name"] == f"{name}-to-proxy"  # another experiment of the namespace has its own
    assert way["spec"]["podSelector"]["matchLabels"] == {"liverl/experiment": name, "liverl/phase": "agent"}
    trainer, sandboxes = (
        next(
            policy["spec"]
            for policy in of_kind(files, "NetworkPolicy")
            if policy["metadata"]["name"] == "default-deny"
            and policy["metadata"]["namespace"].endswith("-sandboxes") == inside
        )
        for inside in (False, True)
    )
    assert set(sandboxes["policyTypes"]) == {"Ingress", "Egress"} and set(trainer["policyTypes"]) == {"Ingress"}
    for denied in (trainer, sandboxes):
        assert denied["podSelector"] == {} and "egress" not in denied and "ingress" not in denied


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
    for document in documents(files):
        if document["kind"] == "Kustomization":
            continue
        name = document["metadata"]["name"]
        assert LABEL.fullmatch(name) and len(name) <= 63, name
        for path, value in leaves(document):
            if re.search(r"\.(limits|requests|hard|default|defaultRequest|max)\.", path) and not path.endswith(".type"):
                assert QUANTITY.fullmatch(str(value)), (path, value)


def test_the_kustomization_lists_every_manifest(files: dict[str, str]) -> None:
    manifests = {name for name in files if name.endswith(".yaml")} - {*NOT_MANIFESTS, "kustomization.yaml"}
    kustomization = yaml.safe_load(files["kustomization.yaml"])
    assert set(kustomization["resources"]) == manifests
    # Nothing that only reviewers read travels to the pods.
    assert set(carried(files)) == {"runtime.json", "verl.yaml", "vllm.yaml", "liverl.lock"}
    assert set(kustomization["configurations"]) == {"references.yaml"} <= files.keys()


def carried(files: dict[str, str]) -> dict[str, str]:
    """Key of the ConfigMap that kustomize makes -> file of the bundle."""
    (made,) = yaml.safe_load(files["kustomization.yaml"])["configMapGenerator"]
    return {one.partition("=")[0]: one.rpartition("=")[2] for one in made["files"]}


def test_the_config_map_is_a_bundle_that_runs(files: dict[str, str], tmp_path: Path) -> None:
    """Laid out as the kubelet mounts it, the front door reads it as the bundle it is."""
    (tmp_path / "..2026_01_01").mkdir()
    (tmp_path / "..data").symlink_to("..2026_01_01")
    for name, file in carried(files).items():
        (tmp_path / "..2026_01_01" / name).write_text(files[file])
        (tmp_path / name).symlink_to(f"..data/{name}")
    read = bundle_files(tmp_path, target="local")
    shared = ("runtime.json", "verl.yaml", "vllm.yaml")
    assert {name: read[name] for name in shared} == {name: files[name] for name in shared}
    assert set(read) == {*shared, "liverl.lock"}
    (job,) = of_kind(files, "RayJob")
    assert "liverl run /opt/liverl/bundle --runs-dir /runs --resume auto" in job["spec"]["entrypoint"]


def test_a_queue_holds_the_job_back() -> None:
    (kueue,) = of_kind(compiled("site", "k8s"), "RayJob")
    assert kueue["spec"]["suspend"] is True
    assert kueue["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
    # Kueue's webhook refuses a RayJob that keeps its cluster, and more pod sets than eight.
    assert kueue["spec"]["shutdownAfterJobFinishes"] is True
    assert len(kueue["spec"]["rayClusterSpec"]["workerGroupSpecs"]) + 1 <= 8
    (volcano,) = of_kind(compiled("volcano", "k8s"), "RayJob")
    assert volcano["metadata"]["labels"]["ray.io/scheduler-name"] == "volcano"
    assert volcano["metadata"]["labels"]["volcano.sh/queue-name"] == "batch"
    assert "suspend" not in volcano["spec"]
    (plain,) = of_kind(compiled("quickstart", "k8s"), "RayJob")
    assert not any("queue" in label for label in plain["metadata"]["labels"])


def test_labels_and_annotations_are_on_the_job_and_on_its_pods(site: dict[str, str]) -> None:
    (job,) = of_kind(site, "RayJob")
    marked = [job["metadata"], *(pod["metadata"] for pod in pods(site) if "liverl/role" in pod["metadata"]["labels"])]
    assert len(marked) == 5
    for metadata in marked:
        assert LABELS.items() <= metadata["labels"].items()
        assert ANNOTATIONS.items() <= metadata["annotations"].items()


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ("labels", "liverl/experiment"),
        ("labels", "kueue.x-k8s.io/queue-name"),
        ("labels", "ray.io/node-type"),
        ("annotations", "cluster-autoscaler.kubernetes.io/safe-to-evict"),
        ("annotations", "not a key"),
    ],
)
def test_marks_of_others_are_refused(field: str, key: str) -> None:
    found = check_spec(LAB, target="k8s", sets=[cluster(**{field: {key: "x"}})])
    assert [one.path for one in found if one.severity == "fatal"] == [("cluster", field, key)]


@pytest.mark.parametrize("target", ["docker", "ray", "skypilot"])
def test_annotations_that_nothing_carries_are_a_warning(target: str) -> None:
    found = check_spec(LAB, target=target, sets=[cluster(annotations={"a.b/c": "x"})])
    assert ("cluster.annotations", "warn") in {(dotted(one.path), one.severity) for one in found}


def test_rollout_has_a_pool_of_its_own(site: dict[str, str]) -> None:
    (job,) = of_kind(site, "RayJob")
    groups = {group["groupName"]: group for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    assert set(groups) == {"trainer", "rollout"}
    for group in groups.values():
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] >= 1
    assert groups["rollout"]["template"]["spec"]["tolerations"] == [
        {"key": "pool", "operator": "Equal", "value": "rollout"}
    ]


def test_sandbox_pods_are_what_the_manifests_speak_of(tmp_path: Path) -> None:
    """The pod that the runtime makes has the labels that policies select, the service account made for it, and fits
    quota and limits."""
    cluster_fields = {"image": "registry/box:1", "namespace": "liverl-sandboxes", "cpus": 2.5, "labels": {"team": "rl"}}
    environment = {"type": "kubernetes", "kubernetes": cluster_fields}
    files = dict(compile_in_memory(LAB, target="k8s", sets=[f"environment={json.dumps(environment)}"]).files)
    settings = RuntimeConfig.model_validate_json(files["runtime.json"]).environment.kubernetes
    assert settings is not None
    request = SandboxRequest(name="x", lower=tmp_path, forward=("127.0.0.1", 1))
    pod = sandbox_pod(request, settings, run="r", owner="o")
    assert kubernetes_errors(pod) == []
    (way,) = [one for one in of_kind(files, "NetworkPolicy") if one["spec"].get("egress")]
    assert way["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert pod["metadata"]["labels"]["team"] == "rl"
    accounts = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in of_kind(files, "ServiceAccount")}
    assert (pod["metadata"]["namespace"], pod["spec"]["serviceAccountName"]) in accounts
    (quota,) = of_kind(files, "ResourceQuota")
    # Two containers of 2.5 cores each: a verdict's pod of an ordinary user has a second one for the code under test.
    assert int(quota["spec"]["hard"]["limits.cpu"]) == 2 * 3 * int(quota["spec"]["hard"]["pods"])


def test_the_agent_comes_to_pods_in_an_image(tmp_path: Path) -> None:
    """Made by the bundle's Dockerfile with the settings that the run has, and filled with what sandboxes look for."""
    files = dict(compile_in_memory(spec_path("moe-async"), target="k8s").files)
    config = RuntimeConfig.model_validate_json(files["runtime.json"])
    assert isinstance(config.scaffold, OpenHandsSdkScaffold)
    (run,) = re.findall(r"^RUN (.*)$", files["agent.Dockerfile"], re.MULTILINE)
    *module, settings, folder = shlex.split(run)
    assert module == ["python", "-m", "runtime.scaffolds.image"] and folder == "/opt/agent"
    assert TypeAdapter(AgentScaffold).validate_json(settings) == config.scaffold
    assert "agent.Dockerfile" not in yaml.safe_load(files["kustomization.yaml"])["resources"]

    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "package.py").touch()
    scaffold = SimpleNamespace(mounts=(Mount(tmp_path / "site", "/opt/agent/site"),))
    fill(scaffold, tmp_path / "image")  # type: ignore[arg-type]
    assert (tmp_path / "image" / "site" / "package.py").exists()
    (mount,) = mounts_of(scaffold, image=config.scaffold.runtime_image)  # type: ignore[arg-type]
    pod = sandbox_pod(
        SandboxRequest(name="x", lower=tmp_path, mounts=(mount,)),
        config.environment.kubernetes,  # type: ignore[arg-type]
        run="r",
        owner="o",
    )
    assert kubernetes_errors(pod) == []
    assert pod["spec"]["initContainers"][0]["image"] == config.scaffold.runtime_image


def test_private_images_are_pulled_with_named_secrets() -> None:
    files = dict(compile_in_memory(LAB, target="k8s", sets=[cluster(**SITE, image_pull_secrets=["registry"])]).files)
    for template in pods(files):
        assert template["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_runs_may_lie_in_a_bucket() -> None:
    """Its volume and the claim of the pods are bound to each other and to nothing else."""
    storage = cluster(storage={**BUCKET, "bucket": "s3://team-runs/liverl/"})
    files = dict(compile_in_memory(LAB, target="k8s", sets=[storage]).files)
    (volume,), (claim,) = of_kind(files, "PersistentVolume"), of_kind(files, "PersistentVolumeClaim")
    assert volume["spec"]["csi"]["volumeHandle"] == "team-runs/liverl"
    assert volume["spec"]["csi"]["nodePublishSecretRef"] == {"name": "bucket", "namespace": "liverl"}
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert claim["spec"]["storageClassName"] == volume["spec"]["storageClassName"] == ""
    assert volume["spec"]["claimRef"] == {name: claim["metadata"][name] for name in ("namespace", "name")}
    assert not of_kind(compiled("site", "k8s"), "PersistentVolume")


def test_no_secret_is_ever_a_value(site: dict[str, str]) -> None:
    assert not of_kind(site, "Secret")
    for template in pods(site)[2:]:
        for container in template["spec"]["containers"]:
            for variable in container["env"]:
                if re.search("TOKEN|KEY|SECRET|PASSWORD", variable["name"]):
                    assert "value" not in variable


def test_pods_fit_the_pod_security_of_their_namespace(files: dict[str, str]) -> None:
    """``baseline`` knows no IPC_LOCK; everything else here would pass ``restricted``."""
    levels = {
        namespace["metadata"]["name"]: namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for namespace in of_kind(files, "Namespace")
    }
    (job,) = of_kind(files, "RayJob")
    added = {
        capability
        for template in pods(files)
        for container in template["spec"]["containers"]
        for capability in container["securityContext"]["capabilities"].get("add", [])
    }
    assert levels[job["metadata"]["namespace"]] == ("privileged" if added else "baseline")
    assert levels[job["metadata"]["namespace"] + "-sandboxes"] == "restricted"


@pytest.mark.parametrize(
    ("sets", "path"),
    [
        ([f"name={'a' * 48}"], "name"),
        ([cluster(head={"cpus": 1, "memory_gib": 1, "shm_gib": 1})], "cluster.head.shm_gib"),
        (GPUS, "cluster.worker.gpus"),
        # Eight in all, but verl's eight ranks of one machine are never given to two.
        ([*GPUS, cluster(worker={**EIGHT, "gpus": 4}, workers=2)], "cluster.worker.gpus"),
        (["cluster.namespace=Bad_Name"], "cluster.namespace"),
        (["proxy.port=8265"], "proxy.port"),
        (["cluster.rollout_workers=1"], "cluster.rollout"),
        (["cluster.agent_loop_workers=1", 'rollout.agent_loop={"workers": 2}'], "cluster.agent_loop"),
        ([cluster(agent_loop={"cpus": 4, "memory_gib": 8}, agent_loop_workers=1)], "cluster.agent_loop_workers"),
        (
            [
                cluster(agent_loop={"cpus": 4, "memory_gib": 8}, agent_loop_workers=1),
                'rollout.agent_loop={"workers": 5}',
            ],
            "cluster.agent_loop_workers",
        ),
        (['rollout.agent_loop={"workers": 2, "resource": "liverl_agent_loop"}'], "rollout.agent_loop.resource"),
        # The second worker's.
        (["proxy.port=8264", 'rollout.agent_loop={"workers": 2}'], "proxy.port"),
        (["cluster.deadline_sec=60", "environment.agent_timeout_sec=100"], "cluster.deadline_sec"),
        ([PODS % ("elsewhere", "null")], "environment.kubernetes.namespace"),
        (
            [PODS % ("liverl-sandboxes", "null"), cluster(sandboxes={"runtime_class": "gvisor"})],
            "environment.kubernetes.runtime_class",
        ),
        ([cluster(sandboxes={"runtime_handler": "runsc"})], "cluster.sandboxes.runtime_class"),
        ([PODS % ("liverl-sandboxes", "null"), cluster(max_sandboxes=8)], "cluster.max_sandboxes"),
        ([cluster(storage={"driver": BUCKET["driver"]})], "cluster.storage.bucket"),
        ([cluster(storage={**BUCKET, "claim": "mine"})], "cluster.storage.claim"),
        (['environment={"type": "docker", "base_image": "python:3.11"}'], "environment.docker_host"),
        (
            ['environment={"type": "docker", "base_image": "python:3.11", "docker_host": "tcp://host:2376"}'],
            "environment.docker_certificates",
        ),
        ([cluster(queue={"type": "slurm", "name": "x"})], "cluster.queue.type"),
        (['secrets=[{"variable": "to-ken", "used_by": "policy"}]'], "secrets[0].variable"),
        (['secrets=[{"variable": "HF_TOKEN", "used_by": "policy"}]'], "secrets[0].kubernetes"),
    ],
)
def test_what_a_cluster_cannot_hold_is_refused(sets: list[str], path: str) -> None:
    fatal = [problem for problem in check_spec(LAB, target="k8s", sets=sets) if problem.severity == "fatal"]
    assert [dotted(problem.path) for problem in fatal] == [path]
