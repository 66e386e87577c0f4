"""What ``liverl run --target k8s`` asks the cluster before it applies a bundle: is it there, does it know every kind of
object, and what became of an earlier job of this name.

Speaks through ``kubectl`` alone. Half a bundle is never applied for want of a kind, and what an earlier job left in the
cluster does not hold back the next.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runtime.errors import MachineError, RunError

ENDED = ("Complete", "Failed", "ValidationFailed")
"""A RayJob's ``status.jobDeploymentStatus`` after which KubeRay does nothing more with it."""
_CURES = {
    "RayJob": "install KubeRay's operator: helm repo add kuberay https://ray-project.github.io/kuberay-helm/ && "
    "helm install kuberay-operator kuberay/kuberay-operator",
    "LocalQueue": "install Kueue: https://kueue.sigs.k8s.io/docs/installation/, or leave cluster.queue out",
    "ServiceMonitor": "install the Prometheus operator, or leave cluster.monitor out",
}


REPORTED = "liverl/reported"
"""Annotation of a failed job whose end somebody was told: the same command after it begins anew."""


@dataclass(frozen=True)
class Job:
    """A RayJob; ``name`` is the experiment's too."""

    name: str
    namespace: str

    @property
    def place(self) -> tuple[str, ...]:
        return ("--namespace", self.namespace)

    @property
    def removal(self) -> tuple[str, ...]:
        return (*self.place, "delete", "rayjob", self.name)


def prepare(folder: Path, job: Job) -> bool:
    """Whether the bundle in ``folder`` is to be applied; else the job stands that it would make, and is followed.

    Applied over a living job it would stop one that Kueue has admitted (``suspend``), and change pods beneath a run.
    One that ended while nobody looked is not begun again before its end was told. Any other that ended is deleted,
    because applying it again would start nothing; its runs stay on their volume. Raises ``MachineError`` where applying
    could not lead to a job, ``RunError`` where a job of this name goes on with another bundle."""
    listed = kubectl("api-resources", "--no-headers")
    if listed.returncode != 0 and not listed.stdout.strip():
        said = (listed.stderr.strip().splitlines() or ["no words"])[-1]
        fix = "kubectl config get-contexts shows those that are known; kubectl config use-context NAME takes one"
        raise MachineError(f"kubectl reaches no cluster: {said}", fix=fix)
    # NAME SHORTNAMES APIVERSION NAMESPACED KIND; short names may be missing.
    known = {(words[-3], words[-1]) for line in listed.stdout.splitlines() if len(words := line.split()) >= 4}
    if lacking := sorted(kind for version, kind in _kinds(folder) if (version, kind) not in known):
        cures = [_CURES.get(kind, f"install what brings {kind}") for kind in lacking]
        raise MachineError(f"the cluster knows no {', '.join(lacking)}", fix="\n".join(cures))
    found = get(*job.place, "get", "rayjob", job.name, "--ignore-not-found", "--output=json")
    if found.returncode != 0:
        raise RunError(f"the job {job.name} in {job.namespace} cannot be read: {found.stderr.strip()}")
    if found.stdout.strip() and not _ends(job, json.loads(found.stdout), folder):
        return False
    _remove_boxes(job.name, f"{job.namespace}-sandboxes")
    return True


def _ends(job: Job, standing: dict[str, Any], folder: Path) -> bool:
    """Whether the ``standing`` job makes room; it is deleted then."""
    state = str(standing.get("status", {}).get("jobDeploymentStatus") or "New")
    same = _bundle(standing) == _bundle(_rayjob(folder))
    if state not in ENDED:
        if not same:
            removal = shlex.join(["kubectl", *job.removal])
            raise RunError(
                f"a job {job.name} of this name goes on in {job.namespace} ({state}) with another bundle; wait for its "
                f"end, or end it: {removal}; or give this experiment another name (--set name=NAME)"
            )
        print(f"the job {job.name} goes on with this bundle: it is followed, and nothing is applied", flush=True)
        return False
    told = REPORTED in (standing.get("metadata", {}).get("annotations") or {})
    if same and not told and head_pod(job)[0] is not None:
        print(
            f"the job {job.name} ended ({state}) while nobody followed it: nothing is applied; the same command after "
            "this begins anew",
            flush=True,
        )
        return False
    print(f"an earlier job {job.name} has ended ({state}): it makes room, its runs stay on the volume", flush=True)
    done = _show(*job.removal)
    if done.returncode != 0:
        raise RunError(f"the ended job {job.name} cannot be deleted: {done.stderr.strip()}")
    return True


def _rayjob(folder: Path) -> dict[str, Any]:
    """The job as kustomize makes it: with the digest of its bundle in the name of the ConfigMap."""
    built = kubectl("kustomize", str(folder))
    if built.returncode != 0:
        raise RunError(f"kustomize cannot build {folder}: {built.stderr.strip()}")
    return next(
        one for one in yaml.safe_load_all(built.stdout) if isinstance(one, dict) and one.get("kind") == "RayJob"
    )


def _bundle(rayjob: dict[str, Any]) -> str | None:
    """The ConfigMap that the head mounts as its bundle."""
    # One that LiveRL did not make may name a cluster that stands, and have none of this.
    found: Any = rayjob
    for key in ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec"):
        found = found.get(key) or {}
    volumes = found.get("volumes") or []
    return next(
        (str(one["configMap"]["name"]) for one in volumes if one["name"] == "bundle" and "configMap" in one), None
    )


def head_pod(job: Job) -> tuple[str | None, str]:
    """The running pod of the job's head, through which alone its runs can be read; or None and why there is none."""
    chosen = f"liverl/experiment={job.name},liverl/role=head"
    found = get(
        *(*job.place, "get", "pods", "--selector", chosen, "--field-selector=status.phase=Running"),
        "--output=jsonpath={.items[*].metadata.name}",
    )
    pods = found.stdout.split()
    if found.returncode != 0 or not pods:
        return None, found.stderr.strip() or "its head's pod is gone"
    return pods[-1], ""


def _remove_boxes(name: str, namespace: str) -> None:
    """Delete the sandboxes that a killed trainer of this experiment left. No job, no trainer: nobody uses them, and
    they would hold the namespace's quota until their active deadline."""
    chosen = f"liverl/experiment={name},app.kubernetes.io/managed-by=liverl"
    found = get("--namespace", namespace, "get", "pods", "--selector", chosen, "--output=name")
    if found.returncode == 0 and found.stdout.strip():
        done = _show("--namespace", namespace, "delete", "pods", "--selector", chosen, "--wait=false")
        if done.returncode != 0:
            print(f"sandboxes of an earlier job remain: {done.stderr.strip()}", file=sys.stderr)


def _show(*arguments: str) -> subprocess.CompletedProcess[str]:
    print(f"+ {shlex.join(['kubectl', *arguments])}", flush=True)
    return kubectl(*arguments)


def _kinds(folder: Path) -> set[tuple[str, str]]:
    """(apiVersion, kind) of the bundle's objects."""
    found: list[Any] = []
    for path in sorted(folder.glob("*.yaml")):
        if path.name != "kustomization.yaml":
            found += yaml.safe_load_all(path.read_text(encoding="utf-8"))
    objects = [one for one in found if isinstance(one, dict)]
    return {(str(one["apiVersion"]), str(one["kind"])) for one in objects if "apiVersion" in one and "kind" in one}


def get(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A question that a silent API server does not hold for ever."""
    return kubectl(*arguments, "--request-timeout=10s")


def kubectl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["kubectl", *arguments], capture_output=True, text=True, check=False)
