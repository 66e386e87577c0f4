"""The target ``k8s``: a KubeRay job and everything around it as a kustomization, one file per object kind.

The training pods run the bundle from an immutable ConfigMap; run directories live on a volume. Knows Kubernetes'
names and limits, never a cluster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from compiler.errors import Problem, refuse
from compiler.facts import Facts
from compiler.plan import Plan
from compiler.spec.environment import Bubblewrap
from targets import pins
from targets.base import Artifact, Lowered

PROXY_PORT = 8080
CONFIGURATION = ("runtime.json", "verl.yaml", "vllm.yaml")
"""Files that the pods read."""
_CONFIGMAP_BYTES = 1 << 20
_RAYJOB_NAME = 47
_ORDER = [
    "namespaces",
    "serviceaccounts",
    "roles",
    "rolebindings",
    "resourcequotas",
    "limitranges",
    "networkpolicies",
    "configmaps",
    "persistentvolumeclaims",
    "rayjobs",
]
_LOCAL_RAY = ("num_cpus", "num_gpus", "object_store_memory", "include_dashboard", "_temp_dir")
"""Arguments that start a Ray on this machine; a job on a cluster finds one running."""


class Kubernetes:
    name = "k8s"

    def pins(self, plan: Plan) -> Mapping[str, str]:
        return pins.of(plan)

    def check(self, plan: Plan) -> list[Problem]:
        """What a cluster of this shape cannot hold, and what behaves differently in a pod."""
        spec, problems = plan.spec, []
        cluster = spec.cluster
        if len(spec.name) > _RAYJOB_NAME:
            problems.append(
                Problem(
                    ("name",),
                    f"{len(spec.name)} characters; KubeRay adds suffixes of its own",
                    f"at most {_RAYJOB_NAME}",
                )
            )
        if isinstance(spec.environment, Bubblewrap):
            problems.append(
                Problem(
                    ("environment", "type"),
                    '"bubblewrap" needs user namespaces, which most clusters deny to pods; '
                    "trials then run without isolation",
                    fix="set require_isolation to refuse instead",
                    severity="warn",
                )
            )
        for role in ("head", "worker"):
            size = getattr(cluster, role)
            if size.shm_gib >= size.memory_gib:
                problems.append(
                    Problem(
                        ("cluster", role, "shm_gib"),
                        f"{size.shm_gib} GiB of shared memory count towards the pod's {size.memory_gib} GiB",
                        f"< {size.memory_gib}",
                    )
                )
        if spec.trainer.device == "cuda":
            needed = plan.trainer_ranks + plan.rollout_gpus
            there = cluster.head.gpus + cluster.workers * cluster.worker.gpus
            if needed > there:
                problems.append(
                    Problem(
                        ("cluster", "worker", "gpus"),
                        f"the pods hold {there} GPUs, but trainer and rollout need {needed}",
                        f">= {needed} in all",
                    )
                )
        return problems

    def adapt(self, plan: Plan, lowered: Lowered) -> Lowered:
        """Ray is already running; the proxy listens where other pods reach it."""
        verl, runtime = lowered.verl.copy(), lowered.runtime.copy()
        for argument in _LOCAL_RAY:
            verl.drop(f"ray_kwargs.ray_init.{argument}")
        verl.decide("ray_kwargs.ray_init.address", "auto", "the cluster that the operator started")
        proxy = dict(lowered.runtime["proxy"].value)  # type: ignore[arg-type]
        runtime.replace(
            "proxy", {**proxy, "host": "0.0.0.0", "port": _proxy_port(plan)}, "proxy", why="reached from other pods"
        )
        return Lowered(verl=verl, vllm=lowered.vllm, runtime=runtime)

    def artifacts(self, plan: Plan, lowered: Lowered, files: Mapping[str, str]) -> dict[str, Artifact]:
        from targets.render import render

        context = self._context(plan, lowered.verl, files)
        found = {}
        for kind in _ORDER:
            rendered = render(f"k8s/{kind}.yaml.j2", context)
            found[f"{kind}.yaml"] = Artifact(rendered.text, rendered.origins)
        listed = {**context, "resources": list(found)}
        found["kustomization.yaml"] = Artifact(render("k8s/kustomization.yaml.j2", listed).text, {})
        return found

    def _context(self, plan: Plan, verl: Facts, files: Mapping[str, str]) -> dict[str, Any]:
        spec = plan.spec
        configuration = {name: files[name] for name in CONFIGURATION}
        size = sum(len(text.encode()) for text in configuration.values())
        if size > _CONFIGMAP_BYTES * 9 // 10:
            raise refuse(
                f"the compiled configuration has {size >> 10} KiB",
                allowed="at most 921 KiB in a ConfigMap",
                fix="list fewer task sets or packages",
            )
        digest = hashlib.sha256(
            "\0".join(f"{name}\0{text}" for name, text in sorted(configuration.items())).encode()
        ).hexdigest()
        return {
            "header": "Compiled by LiveRL. Change the spec, not this file.",
            "experiment": spec.name,
            "namespace": spec.cluster.namespace,
            "sandboxes": f"{spec.cluster.namespace}-sandboxes",
            "trainer": f"{spec.name}-trainer",
            "sandbox": f"{spec.name}-sandbox",
            "configmap": f"{spec.name}-{digest[:10]}",
            "runs_claim": f"{spec.name}-runs",
            "configuration": configuration,
            "cluster": spec.cluster,
            "environment": spec.environment,
            "proxy_port": _proxy_port(plan),
            "fake_gpus": plan.trainer_ranks + (0 if verl["actor_rollout_ref.hybrid_engine"].value else 1)
            if spec.trainer.device == "cpu"
            else 0,
            "ray_version": self.pins(plan)["ray"],
        }


def _proxy_port(plan: Plan) -> int:
    return plan.spec.proxy.port or PROXY_PORT


TARGET = Kubernetes()
