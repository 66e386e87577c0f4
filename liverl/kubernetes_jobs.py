"""What ``liverl run --target k8s`` asks the cluster before it applies a bundle: is it there, does it know every kind of
object, and has an earlier job of this name ended.

Speaks through ``kubectl`` alone. Half a bundle is never applied for want of a kind, and what an earlier job left in the
cluster does not hold back the next.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
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


def prepare(folder: Path, *, name: str, namespace: str) -> None:
    """Raises ``MachineError`` where applying the bundle in ``folder`` could not lead to a job. A job of this ``name``
    that has ended is deleted, because applying it again would start nothing; its runs stay on their volume."""
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
    state = kubectl(
        *("--namespace", namespace, "get", "rayjob", name),
        *("--ignore-not-found", "--output=jsonpath={.status.jobDeploymentStatus}"),
    )
    if state.returncode != 0:
        raise RunError(f"the job {name} in {namespace} cannot be read: {state.stderr.strip()}")
    if state.stdout.strip() in ENDED:
        done = _show("--namespace", namespace, "delete", "rayjob", name)
        if done.returncode != 0:
            raise RunError(f"the ended job {name} cannot be deleted: {done.stderr.strip()}")
    if state.stdout.strip() in ("", *ENDED):
        _remove_boxes(name, f"{namespace}-sandboxes")


def _remove_boxes(name: str, namespace: str) -> None:
    """Delete the sandboxes that a killed trainer of this experiment left. No job, no trainer: nobody uses them, and
    they would hold the namespace's quota until their active deadline."""
    chosen = f"liverl/experiment={name},app.kubernetes.io/managed-by=liverl"
    found = kubectl("--namespace", namespace, "get", "pods", "--selector", chosen, "--output=name")
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


def kubectl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["kubectl", *arguments], capture_output=True, text=True, check=False)
