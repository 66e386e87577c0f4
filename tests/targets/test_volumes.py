"""``cluster.volumes`` and ``cluster.weights``: what each target mounts, and what it refuses by name before any machine
starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from compiler import SpecError, check_spec, compile_in_memory
from compiler.errors import dotted
from compiler.explain import explain_line
from targets.volumes import MOUNTED
from tests.compiler.golden_cases import LAB
from tests.targets.schemas import compose_errors, documents, kubernetes_errors, of_kind, skypilot_errors
from tests.targets.test_compose import ask
from tests.targets.test_k8s import pods
from tests.targets.variants import BIG, FETCHED, PRETRAINED, VOLUMES, cluster, compiled, mounts, weights


def files(target: str, *sets: str) -> dict[str, str]:
    return dict(compile_in_memory(LAB, target=target, sets=sets).files)


def trainers(bundle: dict[str, str]) -> list[dict[str, Any]]:
    return [pod for pod in pods(bundle) if "serviceAccountName" in pod["spec"]]


def fatal(target: str, *sets: str) -> list[str]:
    found = check_spec(LAB, target=target, sets=sets)
    return [dotted(problem.path) for problem in found if problem.severity == "fatal"]


def test_pods_mount_every_kind_that_kubernetes_has() -> None:
    bundle = files("k8s", mounts(*MOUNTED["k8s"]))
    assert [error for one in of_kind(bundle, "RayJob") for error in kubernetes_errors(one)] == []
    wanted = [volume for volume in VOLUMES if volume["source"]["type"] in MOUNTED["k8s"]]
    for pod in trainers(bundle):
        (container,) = pod["spec"]["containers"]
        mounted = {one["name"]: one for one in container["volumeMounts"]}
        there = {one["name"]: one for one in pod["spec"]["volumes"]}
        for index, volume in enumerate(wanted):
            name = f"volume-{index}"
            assert mounted[name]["mountPath"] == volume["mount_path"]
            assert mounted[name]["readOnly"] is volume.get("read_only", True)
            (kind,) = set(there[name]) - {"name"}
            assert kind in ("persistentVolumeClaim", "nfs", "hostPath", "configMap", "secret")
        assert there["volume-0"]["persistentVolumeClaim"] == {"claimName": "data", "readOnly": False}
    # Folders of nodes are beyond what "baseline" admits; sandboxes stay restricted.
    levels = {one["metadata"]["name"]: one["metadata"]["labels"] for one in of_kind(bundle, "Namespace")}
    assert levels["liverl"]["pod-security.kubernetes.io/enforce"] == "privileged"
    assert levels["liverl-sandboxes"]["pod-security.kubernetes.io/enforce"] == "restricted"
    plain = of_kind(files("k8s", mounts("claim")), "Namespace")[0]["metadata"]["labels"]
    assert plain["pod-security.kubernetes.io/enforce"] == "baseline"


def test_compose_mounts_folders_and_exports() -> None:
    document = yaml.safe_load(files("docker", mounts("host", "nfs"))["compose.yaml"])
    assert compose_errors(document) == []
    found = {one["target"]: one for one in document["services"]["trainer"]["volumes"]}
    assert found["/opt/amazon/efa"]["type"] == "bind" and found["/opt/amazon/efa"]["read_only"] is True
    assert document["volumes"][found["/mnt/sets"]["source"]]["driver_opts"] == {
        "type": "nfs",
        "o": "addr=nfs.example.com,ro",
        "device": ":/export/sets",
    }


def test_compose_keeps_no_volume_of_another_export() -> None:
    """It would go on with the options that a volume of this name was made with."""

    def names(**changes: Any) -> set[str]:
        (volume,) = [one for one in VOLUMES if one["source"]["type"] == "nfs"]
        source = {**volume["source"], **{key: value for key, value in changes.items() if key in volume["source"]}}
        chosen = {**volume, "source": source, "read_only": changes.get("read_only", True)}
        twice = cluster(volumes=[chosen, {**chosen, "mount_path": "/mnt/again"}])
        document = yaml.safe_load(files("docker", twice)["compose.yaml"])
        return set(document["volumes"]) - {"runs"}

    changed = [names(), names(server="other.example.com"), names(path="/other"), names(read_only=False)]
    assert all(len(one) == 2 for one in changed) and len(set.union(*changed)) == 8
    assert names() == changed[0]


@pytest.mark.consumers
def test_compose_itself_reads_them(tmp_path: Path) -> None:
    answer = ask(tmp_path / "bundle", files("docker", mounts("host", "nfs")))
    assert answer.returncode == 0, answer.stderr
    read = json.loads(answer.stdout)
    found = {one["target"]: one for one in read["services"]["trainer"]["volumes"]}
    assert found["/opt/amazon/efa"]["bind"].get("create_host_path", False) is False
    assert read["volumes"][found["/mnt/sets"]["source"]]["driver_opts"]["device"] == ":/export/sets"


def test_skypilot_mounts_buckets() -> None:
    task = yaml.safe_load(files("skypilot", mounts("bucket"))["task.sky.yaml"])
    assert skypilot_errors(task) == []
    assert task["file_mounts"]["/mnt/bucket"] == {
        "source": "s3://team-sets",
        "mode": "MOUNT",
        "config": {"mount": {"read_only": True}},
    }
    writable = [{**one, "read_only": False} for one in VOLUMES if one["source"]["type"] == "bucket"]
    task = yaml.safe_load(files("skypilot", cluster(volumes=writable))["task.sky.yaml"])
    assert task["file_mounts"]["/mnt/bucket"]["config"] == {"mount": {"read_only": False}}


@pytest.mark.parametrize("target", MOUNTED)
def test_what_a_target_cannot_mount_is_refused_by_name(target: str) -> None:
    for number, volume in enumerate(VOLUMES):
        kind = volume["source"]["type"]
        known = kind in MOUNTED[target]
        assert fatal(target, mounts(kind)) == ([] if known else ["cluster.volumes[0].source.type"]), number


@pytest.mark.parametrize(
    "path", ["/runs/x", "/opt", "/opt/liverl/bundle", "/etc/", "/dev/shm", "/tmp", "/usr", "/usr/lib/x", "/bin/x"]
)
def test_nothing_is_covered(path: str) -> None:
    volume = {"source": {"type": "claim", "name": "x"}, "mount_path": path}
    assert fatal("k8s", f"cluster.volumes={json.dumps([volume])}") == ["cluster.volumes[0].mount_path"]


def test_two_things_are_not_at_one_place() -> None:
    volume = {"source": {"type": "claim", "name": "x"}, "mount_path": "/weights"}
    twice = f"cluster.volumes={json.dumps([volume, {**volume, 'mount_path': '/weights/'}])}"
    assert fatal("k8s", twice) == ["cluster.volumes[1].mount_path"]
    sets = [*PRETRAINED, BIG, f"cluster.volumes={json.dumps([volume])}", weights(volume["source"])]
    assert fatal("k8s", *sets) == ["cluster.weights.mount_path"]


def test_weights_come_from_the_first_source_that_the_target_knows() -> None:
    for pod in trainers(compiled("weights", "k8s")):
        (container,) = pod["spec"]["containers"]
        (volume,) = [one for one in pod["spec"]["volumes"] if one["name"] == "weights"]
        assert volume["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
        assert {"name": "weights", "mountPath": "/weights", "readOnly": True} in container["volumeMounts"]
        assert {"name": "HF_HUB_CACHE", "value": "/weights"} in container["env"]
        assert "initContainers" not in pod["spec"]
    compose = yaml.safe_load(compiled("weights", "docker")["compose.yaml"])
    service = compose["services"]["trainer"]
    assert service["environment"]["HF_HUB_CACHE"] == "/weights"
    ((name, exported),) = [(name, one) for name, one in compose["volumes"].items() if name.startswith("weights")]
    assert exported["driver_opts"]["o"] == "addr=nfs,ro"
    assert name in [one["source"] for one in service["volumes"]]
    task = yaml.safe_load(compiled("weights", "skypilot")["task.sky.yaml"])
    assert task["file_mounts"]["/weights"] == "s3://models/hub" and task["envs"]["HF_HUB_CACHE"] == "/weights"
    job = yaml.safe_load(compiled("weights", "ray")["runtime-env.yaml"])
    assert job["env_vars"]["HF_HUB_CACHE"] == "/weights"


def test_fetched_weights_have_room_on_the_disk() -> None:
    """An 8-billion model is 16 GB; the pods of old had 16 GiB for everything."""
    for pod in trainers(compiled("fetched", "k8s")):
        (fetch,), (container,) = pod["spec"]["initContainers"], pod["spec"]["containers"]
        assert fetch["command"] == ["hf", "download", "Qwen/Qwen3-8B", "--cache-dir", "/weights"]
        # What fetches has the token and nothing else of the secrets.
        assert [one["name"] for one in fetch["env"] if "valueFrom" in one] == ["HF_TOKEN"]
        (volume,) = [one for one in pod["spec"]["volumes"] if one["name"] == "weights"]
        assert volume["emptyDir"] == {"sizeLimit": "17Gi"}
        resources = container["resources"]
        assert resources["requests"]["ephemeral-storage"] == "21Gi"
        assert resources["limits"]["ephemeral-storage"] == "33Gi"
    plain = trainers(compiled("weights", "k8s"))[0]["spec"]["containers"][0]["resources"]
    assert plain["requests"]["ephemeral-storage"] == "4Gi" and plain["limits"]["ephemeral-storage"] == "16Gi"
    larger = trainers(files("k8s", cluster(head={"cpus": 4, "memory_gib": 12, "disk_gib": 200})))[0]["spec"]
    assert larger["containers"][0]["resources"]["limits"]["ephemeral-storage"] == "200Gi"


@pytest.mark.parametrize("target", ["docker", "k8s", "skypilot"])
def test_a_policy_that_nothing_brings_is_found_out_before_any_machine_starts(target: str, tmp_path: Path) -> None:
    assert fatal(target, *PRETRAINED, BIG) == ["policy.path"]
    (problem,) = [one for one in check_spec(LAB, target=target, sets=[*PRETRAINED, BIG]) if one.severity == "fatal"]
    assert "some 17 GiB" in problem.text and "HF_HUB_OFFLINE=1" in problem.text and "cluster.weights" in problem.fix
    folder = 'policy.path="/mnt/models/mine"'
    assert fatal(target, *PRETRAINED, BIG, folder) == ["policy.path"]
    # There already, says the spec; or by the cache that a variable names.
    assert fatal(target, *PRETRAINED, BIG, weights({"type": "present"})) == []
    assert fatal(target, *PRETRAINED, BIG, 'cluster.env={"HF_HOME": "/mnt/hf"}') == []
    present = weights({"type": "present"}, layout="folders", mount_path="/mnt/models")
    assert fatal(target, *PRETRAINED, BIG, folder, present) == []


@pytest.mark.parametrize("target", MOUNTED)
def test_a_name_of_this_machines_models_is_none_of_the_hubs(target: str) -> None:
    """Not even where a cache of the hub is there."""
    name = 'policy={"type": "pretrained", "path": "SmolLM2-135M-Instruct"}'
    for there in ([weights({"type": "present"})], ['cluster.env={"HF_HOME": "/mnt/hf"}'], []):
        sets = [*PRETRAINED, BIG, name, *there]
        found = [one for one in check_spec(LAB, target=target, sets=sets) if dotted(one.path) == "policy.path"]
        (fatal,) = [one for one in found if one.severity == "fatal"]
        assert "liverl models" in fatal.text and "folders" in fatal.fix


def test_a_policy_in_a_volume_is_enough() -> None:
    volume = {"source": {"type": "claim", "name": "models"}, "mount_path": "/mnt/models/"}
    sets = [*PRETRAINED, BIG, f"cluster.volumes={json.dumps([volume])}"]
    assert fatal("k8s", *sets, 'policy.path="/mnt/models/mine"') == []
    assert fatal("k8s", *sets, 'policy.path="/mnt/models-of-others/mine"') == ["policy.path"]


def test_a_standing_ray_is_warned_of() -> None:
    found = check_spec(LAB, target="ray", sets=[*PRETRAINED, BIG])
    assert [(dotted(one.path), one.severity) for one in found if one.path[0] == "policy"] == [("policy.path", "warn")]
    assert fatal("ray", *PRETRAINED, BIG, weights({"type": "claim", "name": "models"})) == ["cluster.weights.sources"]


@pytest.mark.parametrize(
    ("sets", "path"),
    [
        ([weights(FETCHED, layout="folders")], "cluster.weights.layout"),
        ([weights(FETCHED), 'policy.path="Someone/Unknown"'], "cluster.weights.sources[0].size_gib"),
        ([weights({"type": "bucket", "url": "s3://models/hub"})], "cluster.weights.sources"),
        ([weights({"type": "present"}), 'cluster.env={"HF_HUB_CACHE": "/x"}'], "cluster.env.HF_HUB_CACHE"),
        ([weights()], "cluster.weights.sources"),
    ],
)
def test_weights_that_cannot_be(sets: list[str], path: str) -> None:
    assert path in fatal("k8s", *PRETRAINED, BIG, *sets)


def test_a_disk_that_is_too_small_for_the_weights() -> None:
    sets = [*PRETRAINED, BIG, weights({"type": "bucket", "url": "s3://models/hub"})]
    assert fatal("skypilot", *sets, "cluster.skypilot.disk_gib=50") == ["cluster.skypilot.disk_gib"]


def test_the_problem_has_the_line_of_the_policy(tmp_path: Path) -> None:
    spec = tmp_path / "mine.jsonnet"
    spec.write_text(
        "local liverl = import 'liverl.libsonnet';\n"
        "(import 'dense-8gpu.jsonnet') + {\n"
        "  policy: liverl.policy.pretrained('Qwen/Qwen3-14B'),\n"
        "  cluster+: { weights: null },\n"
        "}\n"
    )
    with pytest.raises(SpecError) as raised:
        compile_in_memory(spec, target="k8s")
    (problem,) = [one for one in raised.value.problems if one.severity == "fatal"]
    assert dotted(problem.path) == "policy.path" and "mine.jsonnet:3:" in problem.position


def test_explain_says_whose_a_mount_is(tmp_path: Path) -> None:
    bundle = files("k8s", mounts("claim"))
    for name, text in bundle.items():
        (tmp_path / name).write_text(text)
    number = next(n for n, line in enumerate(bundle["rayjobs.yaml"].split("\n"), 1) if "/mnt/data" in line)
    assert "from cluster.volumes[0].mount_path" in explain_line(f"{tmp_path}/rayjobs.yaml:{number}")
    assert len(documents(bundle)) > 10
