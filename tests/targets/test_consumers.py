"""Bundles given to the real programs: SkyPilot, kustomize, checkov, a parser of Compose. Each is installed apart and
skipped where it cannot be."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from compiler import compile_in_memory
from targets import clouds
from tests.compiler.golden_cases import CASES, GOLDEN, LAB, case_files
from tests.targets.schemas import CUSTOM, WITHOUT_SCHEMA, documents, kubernetes_errors
from tests.targets.test_k8s import carried, pods
from tests.targets.variants import LABELS, SKIES, VARIANTS, compiled, mounts
from tests.toolbox import debian_tools, python_tools, require_command

pytestmark = [pytest.mark.consumers, pytest.mark.timeout(1800)]

SKY = """
import json, os, sys, yaml
from pathlib import Path
import sky
from sky.client.cli import command
from sky.data import storage_utils
found = {}


def refused(resources):
    # What the cloud does not have of what the task asks for.
    unsupported = getattr(resources.cloud, "_CLOUD_UNSUPPORTED_FEATURES", {})
    return sorted(feature.value for feature in resources.get_required_cloud_features() if feature in unsupported)


for folder in map(Path, sys.argv[1:]):
    os.chdir(folder)
    config = yaml.safe_load(Path("task.sky.yaml").read_text())
    overrides = [(name, "value") for name in config.get("secrets", {})]
    task = sky.Task.from_yaml_config(config, secrets_overrides=overrides)
    (resources,) = task.resources
    for store in task.storage_mounts.values():
        store._validate_storage_spec(store.name)  # what a launch does first
    found[folder.name] = {
        "name": task.name, "nodes": task.num_nodes, "spot": resources.use_spot, "cloud": str(resources.cloud),
        "accelerators": resources.accelerators, "secrets": sorted(task.secrets), "files": sorted(task.file_mounts),
        "stores": {path: [store.source, store.mode.name] for path, store in task.storage_mounts.items()},
        "read_only": {path: store.mount_config.read_only for path, store in task.storage_mounts.items()
                      if store.mount_config},
        "labels": resources.labels, "place": [resources.region, resources.zone],
        "refused": refused(resources),
        "left_out": storage_utils.get_excluded_files(str(folder)),
    }
words = ["--yes", "task.sky.yaml", "--config", "jobs.bucket=s3://team-jobs/x", "--secret", "A=b"]
parsed = command.jobs_launch.make_context("launch", words).params
from sky import clouds
found["labels"] = {name: bool(kind.is_label_valid("Team", "rl")[0]) for name, kind in
                   {"aws": clouds.AWS, "gcp": clouds.GCP, "kubernetes": clouds.Kubernetes}.items()}
found["command"] = {"yes": parsed["yes"], "secret": parsed["secret"]}
try:
    sky.Storage(source="s3://team-runs/liverl", mode=sky.StorageMode.MOUNT)._validate_storage_spec(None)
except sky.exceptions.StorageModeError as error:
    found["folder"] = str(error)
for name, change in {"typo": {"acelerators": "H100:8"}, "number": {"num_nodes": "two"}}.items():
    config = yaml.safe_load(Path("task.sky.yaml").read_text())  # SkyPilot empties what it has read
    broken = {**config, "resources": {**config["resources"], **change}} if name == "typo" else {**config, **change}
    try:
        sky.Task.from_yaml_config(broken)
    except ValueError as error:
        found[name] = str(error)
print("RESULT" + json.dumps(found))
"""


def written(folder: Path, variant: str, target: str) -> Path:
    """The bundle of a variant as a folder named after it."""
    place = folder / variant.replace(" ", "-")
    place.mkdir()
    for name, text in compiled(variant, target).items():
        (place / name).write_text(text)
    return place


def test_skypilot_reads_every_task(tmp_path: Path) -> None:
    tools = python_tools("skypilot")
    folders = [written(tmp_path, variant, "skypilot") for variant in VARIANTS]
    for name, sets in {**SKIES, "mounted": [mounts("bucket")]}.items():
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        for file, text in compile_in_memory(LAB, target="skypilot", sets=sets).files.items():
            (folders[-1] / file).write_text(text)
    environment = {**os.environ, "HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    ended = subprocess.run(
        [str(tools / "python"), "-c", SKY, *map(str, folders)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.partition("RESULT")[2])
    assert found["site"] == {
        "name": "quickstart",
        "nodes": 2,
        "spot": True,
        "cloud": "AWS",
        "accelerators": {"H100": 8},
        "secrets": ["HF_TOKEN", "WANDB_API_KEY"],
        "files": ["~/liverl/bundle"],
        "stores": {"~/liverl/runs": ["s3://team-runs", "MOUNT_CACHED"]},
        "read_only": {},
        "left_out": found["site"]["left_out"],
        "labels": LABELS,
        "place": ["us-east-1", None],
        "refused": [],
    }
    for name, place in {
        "aws": ["us-east-1", "us-east-1a"],
        "gcp": ["us-central1", "us-central1-a"],
        "azure": ["eastus", None],
        "lambda": [None, None],
        "kubernetes": ["gke_project_zone_name", None],
    }.items():
        task = found[name]
        assert (task["cloud"].lower(), task["place"]) == (name, place)
        # On Kubernetes it depends on the cluster; nothing that no cluster has.
        assert task["refused"] == [] and task["accelerators"] == {"H100": 8}
        assert (task["labels"] == LABELS) == (name != "lambda")
        ((_, mode),) = task["stores"].values()
        assert mode == "MOUNT_CACHED" and "/weights" in task["files"]
    assert found["labels"] == {name: clouds.CLOUDS[name].label is not None and bool(
        re.fullmatch(clouds.CLOUDS[name].label or "", "Team=rl")) for name in found["labels"]}  # fmt: skip
    bundle = set(compiled("site", "skypilot")) - {".skyignore"}
    assert not bundle & set(found["site"]["left_out"])
    assert found["quickstart"]["nodes"] == 1 and found["quickstart"]["accelerators"] is None
    assert found["command"]["yes"] is True
    assert found["mounted"]["stores"] == {"/mnt/bucket": ["s3://team-sets", "MOUNT"]}
    assert found["mounted"]["read_only"] == {"/mnt/bucket": True}
    # SkyPilot is not blind: what our schema tests refuse, it refuses as well.
    assert "mounting specific files" in found["folder"]
    assert "acelerators" in found["typo"] and "num_nodes" in found["number"]


@pytest.mark.parametrize("variant", ["quickstart", "site", "volcano"])
def test_kustomize_builds_the_bundle(variant: str, tmp_path: Path) -> None:
    kubectl = require_command("kubectl", package="kubernetes-client")
    place = written(tmp_path, variant, "k8s")
    built = subprocess.run(
        [kubectl, "kustomize", str(place)], capture_output=True, text=True, timeout=300, check=True
    ).stdout

    def key(document: dict[str, object]) -> str:
        return json.dumps(document, sort_keys=True)

    files = compiled(variant, "k8s")
    documents_built = list(yaml.safe_load_all(built))
    (config,) = [one for one in documents_built if one["kind"] == "ConfigMap"]
    assert config["data"] == {name: files[file] for name, file in carried(files).items()}
    name, plain = (
        config["metadata"]["name"],
        yaml.safe_load(files["kustomization.yaml"])["configMapGenerator"][0]["name"],
    )
    # The name with a digest is in every place where pods mount it, and nothing else has changed.
    assert re.fullmatch(rf"{plain}-[a-z0-9]{{10}}", name)
    (job,) = [one for one in documents_built if one["kind"] == "RayJob"]
    assert json.dumps(job).count(name) == 1 + len(job["spec"]["rayClusterSpec"]["workerGroupSpecs"])
    expected = [one for one in documents(files) if one["kind"] != "Kustomization"]
    rest = [json.loads(key(one).replace(name, plain)) for one in documents_built if one is not config]
    assert sorted(map(key, rest)) == sorted(map(key, expected))


def test_the_overlay_of_the_docs_builds(tmp_path: Path) -> None:
    """Its files as the page shows them, on the bundle that it names; by a kubectl that is newer than Debian 12's."""
    kubectl = debian_tools("kubectl", "kubectl/trixie", suite="trixie") / "usr/bin/kubectl"
    page = (GOLDEN.parent / "docs" / "overlays.md").read_text()
    bundle, overlay = tmp_path / "build" / "dense-8gpu" / "k8s", tmp_path / "overlays" / "production"
    for folder in (bundle, overlay):
        folder.mkdir(parents=True)
    for name, text in case_files("dense-8gpu", "k8s").items():
        (bundle / name).write_text(text)
    for name, text in re.findall(r"`overlays/production/(\S+)`[^`]*```yaml\n(.*?)```", page, re.DOTALL):
        (overlay / name).write_text(text)
    command = [str(kubectl), "kustomize", str(overlay)]
    built = list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    (job,) = [one for one in built if one["kind"] == "RayJob"]
    (config,) = [one for one in built if one["kind"] == "ConfigMap"]
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert group["template"]["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"] == "rdma-net"
    assert cluster["headGroupSpec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 300
    for one in built:
        assert one["metadata"]["annotations"]["example.com/cost-centre"] == "4711"
    for pod in (group, cluster["headGroupSpec"]):
        (volume,) = [one for one in pod["template"]["spec"]["volumes"] if one["name"] == "bundle"]
        assert volume["configMap"]["name"] == config["metadata"]["name"]
    assert kubernetes_errors(job) == []


COMPOSE = """
import sys
from pathlib import Path
from compose_spec import PyCompose
for path in map(Path, sys.argv[1:]):
    text = path.read_text()
    # This parser does not know the specification's `on-failure:N`.
    assert "restart: on-failure:2" in text
    text = text.replace("restart: on-failure:2", "restart: on-failure")
    PyCompose.from_yaml(text)
    for good, bad in (("shm_size:", "shm_sice:"), ("stop_grace_period: 2m", "stop_grace_period: 2 minutes")):
        assert good in text
        try:
            PyCompose.from_yaml(text.replace(good, bad))
        except ValueError:
            continue
        raise SystemExit(f"{bad} was accepted")
"""


def test_a_parser_of_the_compose_specification_reads_every_bundle(tmp_path: Path) -> None:
    """Another one than Docker's (``test_compose``), for those who start bundles with another program: durations and
    sizes included, where the JSON schema only sees strings."""
    tools = python_tools("compose-spec")
    paths = [str(GOLDEN / name / target / "compose.yaml") for name, target in CASES if target == "docker"]
    paths += [str(written(tmp_path, variant, "docker") / "compose.yaml") for variant in VARIANTS]
    read = subprocess.run(
        [str(tools / "python"), "-c", COMPOSE, *paths], capture_output=True, text=True, timeout=120, check=False
    )
    assert read.returncode == 0, read.stderr[-2000:]


def test_checkov_finds_only_what_is_justified(tmp_path: Path) -> None:
    """Pod templates inside custom resources are lifted out: checkov scans none of them and looks green."""
    tools = python_tools("checkov")
    files = compiled("site", "k8s")
    roles = []
    for template in pods(files):
        role = template["metadata"]["labels"].get("liverl/role", "prepull")
        roles.append(role)
        metadata = {**template["metadata"], "name": role, "namespace": "liverl"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        (tmp_path / f"pod-{role}.yaml").write_text(yaml.safe_dump(pod))
    plain = [one for one in documents(files) if one["kind"] not in {*CUSTOM, *WITHOUT_SCHEMA, "DaemonSet"}]
    for number, document in enumerate(plain):
        (tmp_path / f"object-{number}.yaml").write_text(yaml.safe_dump(document))
    ended = subprocess.run(
        [
            str(tools / "checkov"),
            *("--directory", str(tmp_path), "--framework", "kubernetes", "--output", "json"),
            *("--skip-download", "--compact", "--quiet"),
        ],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    report = json.loads(ended.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["resource_count"] >= len(roles) + len(plain) - 2
    broken: dict[str, set[str]] = {}
    for check in report["results"]["failed_checks"]:
        broken.setdefault(check["check_id"], set()).add(check["resource"].rpartition(".")[2])
    justified = yaml.safe_load((Path(__file__).parent / "checkov.yaml").read_text())
    assert all(entry["why"].strip() for entry in justified.values())
    assert {rule: places - set(justified.get(rule, {"where": []})["where"]) for rule, places in broken.items()} == {
        rule: set() for rule in broken
    }
    assert set(justified) == set(broken)
    # Every pod was looked at: no image is named by its digest.
    assert set(roles) <= broken["CKV_K8S_43"]
