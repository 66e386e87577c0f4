"""The target ``k8s``: a KubeRay job and everything around it as a kustomization, one file per object kind.

The training pods run the bundle from a ConfigMap that kustomize makes of the files; run directories live on a volume.
Knows Kubernetes' names and limits, never a cluster.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from compiler import readers
from compiler.bundle import LOCK
from compiler.errors import Problem, refuse
from compiler.facts import Facts, section
from compiler.plan import Plan
from compiler.spec.cluster import Cluster, KueueQueue, Resources, Storage
from compiler.spec.volumes import ConfigMapFiles
from runtime.config.environment import Bubblewrap, KubernetesCluster
from runtime.config.environment import Docker as Engine
from runtime.config.environment import Kubernetes as Pods
from targets import joining, pins, volumes
from targets.base import Artifact, Lowered
from targets.joining import HEAD_SLOTS
from targets.machines import gpu_problem, image_warnings, proxy_host_problem, shm_problems

PODS_LOCK = f"pods.{LOCK}"
"""The lock of what the pods run: fewer files than the bundle."""
_CONFIGMAP_BYTES = 1 << 20
_RAYJOB_NAME = 47
_GPU = "nvidia.com/gpu"
_ANNOTATION_BYTES = 200 << 10
"""Kubernetes takes 256 KiB; others add theirs, and ``kubectl apply`` keeps a copy of the object as one."""


class Kubernetes:
    name = "k8s"

    def pins(self, plan: Plan) -> Mapping[str, str]:
        return pins.of(plan)

    def check(self, plan: Plan) -> Iterator[Problem]:
        """What a cluster of this shape cannot hold, and what behaves differently in a pod."""
        yield from proxy_host_problem(plan)
        spec = plan.spec
        cluster = spec.cluster
        if len(spec.name) > _RAYJOB_NAME:
            yield Problem(
                ("name",),
                f"{len(spec.name)} characters; KubeRay adds suffixes of its own",
                f"at most {_RAYJOB_NAME}",
            )
        if why := readers.dns_1035(spec.name):
            yield Problem(("name",), f'"{spec.name}" {why}', "a letter first")
        yield from joining.dashboard_problems(plan)
        yield from joining.env_problems(plan)
        yield from joining.supervised_problems(plan)
        if isinstance(spec.environment, Bubblewrap):
            yield Problem(
                ("environment", "type"),
                '"bubblewrap" needs user namespaces, which most clusters deny to pods; '
                "trials then run without isolation",
                fix="set require_isolation to refuse instead",
                severity="warn",
            )
        for index, secret in enumerate(spec.secrets):
            if secret.kubernetes is None:
                yield Problem(
                    ("secrets", index, "kubernetes"),
                    f"null, but pods take {secret.variable} from a Secret of the cluster",
                    "{ name: 'SECRET', key: 'KEY' }",
                )
        if isinstance(spec.environment, Pods):
            yield from _sandbox_problems(spec.environment.kubernetes, cluster)
            yield from _quota_problems(plan)
        elif isinstance(spec.environment, Engine):
            yield from _engine_problems(spec.environment)
        if taken := joining.taken_ports(plan, joining.RESERVED_PORTS):
            yield Problem(
                ("proxy", "port"),
                f"{taken[0]} is one of Ray's own ports in its pods",
                "any but " + ", ".join(map(str, joining.RESERVED_PORTS)),
            )
        pods = {"head": cluster.head, "worker": cluster.worker}
        if cluster.rollout is not None:
            pods["rollout"] = cluster.rollout
        if cluster.agent_loop is not None:
            pods["agent_loop"] = cluster.agent_loop
        yield from _worker_problems(plan)
        yield from shm_problems({("cluster", role): pod for role, pod in pods.items()})
        yield from image_warnings(cluster.image)
        trial = spec.environment.agent_timeout_sec + spec.environment.verifier_timeout_sec
        if trial > cluster.deadline_sec:
            yield Problem(
                ("cluster", "deadline_sec"),
                f"{cluster.deadline_sec} s for the whole job, but one trial may take {trial:g} s "
                "(agent_timeout_sec + verifier_timeout_sec)",
                f"> {trial:g}",
            )
        if cluster.rollout_workers and cluster.rollout is None:
            yield Problem(
                ("cluster", "rollout"),
                f"null, but there are {cluster.rollout_workers} rollout_workers",
                "their cpus and memory_gib",
            )
        yield from _storage_problems(cluster.storage)
        yield from _mark_problems(cluster)
        yield from volumes.problems(plan, self.name)
        yield from _same_name(plan)
        if any(pod.rdma for pod in pods.values()):
            yield Problem(
                ("cluster", "namespace"),
                f"remote memory access needs locked memory: the namespace {cluster.namespace} is labelled privileged",
                severity="warn",
            )
        if _host_folders(plan):
            yield Problem(
                ("cluster", "namespace"),
                f"pods mount folders of their nodes: the namespace {cluster.namespace} is labelled privileged",
                severity="warn",
            )
        if cluster.sandboxes.runtime_handler is not None and cluster.sandboxes.runtime_class is None:
            yield Problem(("cluster", "sandboxes", "runtime_class"), "null, but runtime_handler makes one", "its name")
        machines = [cluster.head.gpus, *[cluster.worker.gpus] * cluster.workers]
        machines += [cluster.rollout.gpus] * cluster.rollout_workers if cluster.rollout is not None else []
        yield from gpu_problem(plan, machines=machines, place=("cluster", "worker", "gpus"), holder="the pods hold")

    def adapt(self, plan: Plan, lowered: Lowered) -> Lowered:
        """Ray is already running; the proxy listens where other pods reach it; sandboxes are pods that the experiment's
        policies know."""
        runtime = lowered.runtime.copy()
        joining.open_proxy(plan, runtime)
        joining.give_env(plan, runtime)
        _known_pods(plan, runtime)
        why = "pods of their own have it"
        joining.place_workers(plan, runtime, wanted=lambda: bool(plan.spec.cluster.agent_loop_workers), why=why)
        return Lowered(verl=joining.join_ray(lowered.verl), vllm=lowered.vllm, runtime=runtime)

    def artifacts(self, plan: Plan, lowered: Lowered, files: Mapping[str, str]) -> dict[str, Artifact]:
        from targets.render import Asked, render, render_text

        spec = plan.spec
        configuration = {name: files[name] for name in joining.CONFIGURATION}
        lock = joining.lock_of(plan, configuration, target=self.name)
        size = sum(len(text.encode()) for text in (*configuration.values(), lock))
        if size > _CONFIGMAP_BYTES * 9 // 10:
            raise refuse(
                f"the compiled configuration has {size >> 10} KiB",
                allowed="at most 921 KiB in a ConfigMap",
                fix="list fewer task sets or packages",
            )
        carried = (*joining.CONFIGURATION, f"{LOCK}={PODS_LOCK}")
        own = Asked(**_names(plan), **_sizes(plan), carried=lambda: carried)
        context = {"header": joining.HEADER, "spec": spec, "cluster": spec.cluster, "own": own}

        def made(kind: str) -> Artifact | None:
            if not _KINDS[kind](spec.cluster):
                return None
            rendered = render(f"k8s/{kind}.yaml.j2", context, plan.reads)
            return Artifact(rendered.text, rendered.origins)

        def agent() -> Artifact | None:
            if _runtime_image(plan) is None:
                return None
            image = render_text("k8s/agent.Dockerfile.j2", context, plan.reads)
            return Artifact(image.text, image.origins)

        rendered = render("k8s/references.yaml.j2", context, plan.reads)
        references = Artifact(rendered.text, rendered.origins)
        # What is read to know whether there is a file is an origin of all that is in it.
        makers = {f"{kind}.yaml": partial(made, kind) for kind in _KINDS} | {"agent.Dockerfile": agent}
        found = {name: plan.reads.during(make)[0] for name, make in makers.items()}
        made_once = {PODS_LOCK: Artifact(lock, {}), "references.yaml": references}
        listed = render("k8s/kustomization.yaml.j2", {**context, "kinds": _KINDS}, plan.reads)
        present = {name: artifact for name, artifact in found.items() if artifact is not None}
        return {**present, **made_once, "kustomization.yaml": Artifact(listed.text, listed.origins)}


def _names(plan: Plan) -> dict[str, Callable[[], Any]]:
    """What the objects are called."""
    spec = plan.spec
    cluster = spec.cluster
    return {
        "sandboxes": lambda: f"{cluster.namespace}-sandboxes",
        "trainer": lambda: f"{spec.name}-trainer",
        "configmap": lambda: configmap(plan),
        "sandbox": lambda: sandbox_account(plan),
        "prepull": lambda: f"{spec.name}-prepull",
        "metrics": lambda: f"{spec.name}-metrics",
        # The experiment's own: others may share the namespace.
        "sandbox_to_proxy": lambda: f"{spec.name}-to-proxy",
        "policy": lambda: f"{cluster.namespace}-sandbox-runtime",
        "policy_expression": lambda: (
            f"has(object.spec.runtimeClassName) && object.spec.runtimeClassName == '{cluster.sandboxes.runtime_class}'"
        ),
        # Cluster-wide: two namespaces may hold experiments of one name.
        "priority_class": lambda: f"{cluster.namespace}-{spec.name}",
        "runs_volume": lambda: f"{cluster.namespace}-{spec.name}-runs",
        "runs_claim": lambda: cluster.storage.claim or f"{spec.name}-runs",
        "bucket_path": lambda: (cluster.storage.bucket or "").partition("://")[2].rstrip("/"),
        "ray_version": lambda: pins.of(plan)["ray"],
        "runtime_image": lambda: _runtime_image(plan),
        "agent": lambda: json.dumps(plan.reads.plain(spec.scaffold)),
    }


def _sizes(plan: Plan) -> dict[str, Callable[[], Any]]:
    """How large, how many, and which port."""
    spec = plan.spec
    cluster, environment = spec.cluster, spec.environment
    return {
        "box_mib": lambda: max(
            environment.memory_mib + spec.scaffold.needs.memory_mib, environment.verifier.memory_mib or 0
        ),
        "box_cpus": lambda: max(1, math.ceil(environment.kubernetes.cpus)) if isinstance(environment, Pods) else 1,
        # A verdict's pod of an ordinary user has two (``runtime/sandboxes/kubernetes/pods.py``).
        "boxes_per_pod": lambda: 2 if isinstance(environment, Pods) and environment.kubernetes.user is not None else 1,
        "pull_secrets": lambda: len(_pull_secrets(plan)),
        "weights": lambda: volumes.mounted_weights(plan, "k8s"),
        "hub_cache": lambda: volumes.hub_cache(plan, "k8s"),
        "download_gib": lambda: volumes.download_gib(plan, "k8s"),
        "host_folders": lambda: _host_folders(plan),
        "rdma": lambda: any(pod is not None and pod.rdma for pod in _roles(cluster)),
        "proxy_port": lambda: joining.proxy_port(plan),
        "fake_gpus": lambda: joining.fake_gpus(plan),
        "last_proxy_port": lambda: joining.proxy_ports(plan)[-1],
        "agent_loop_resource": lambda: json.dumps(joining.AGENT_LOOP_PLACES),
        "head_slots": lambda: HEAD_SLOTS + (0 if cluster.agent_loop_workers else joining.workers_slots(plan)),
        "ray_nodes": lambda: (
            1
            + cluster.workers
            + (cluster.rollout_workers if cluster.rollout is not None else 0)
            + (cluster.agent_loop_workers if cluster.agent_loop is not None else 0)
        ),
    }


def _runtime_image(plan: Plan) -> str | None:
    """The image that brings the agent into pods; None: there is none."""
    image: str | None = getattr(plan.spec.scaffold, "runtime_image", None)
    return image


def _host_folders(plan: Plan) -> bool:
    """Whether pods mount folders of their node, which "baseline" does not know."""
    weights = volumes.mounted_weights(plan, "k8s")
    kinds = [*(volume.source.type for volume in plan.spec.cluster.volumes), *([weights.type] if weights else [])]
    return "host" in kinds


def _pull_secrets(plan: Plan) -> set[str]:
    """Secrets that the sandbox namespace holds: for its pods' images, and for those pulled ahead."""
    pods = plan.spec.environment
    return {
        *(pods.kubernetes.image_pull_secrets if isinstance(pods, Pods) else ()),
        *plan.spec.cluster.image_pull_secrets,
    }


def _storage_problems(storage: Storage) -> list[Problem]:
    """A bucket, a claim that exists, or one of a class: one of them."""
    if storage.driver is None:
        return []
    place, problems = ("cluster", "storage"), []
    if storage.bucket is not None and not storage.bucket.startswith(("s3://", "gs://")):
        what = f"{storage.bucket} has no name by which a CSI driver is asked for it"
        problems.append(Problem((*place, "bucket"), what, "s3://BUCKET/PATH, gs://BUCKET/PATH", "or name a claim"))
    if storage.bucket is None:
        problems.append(Problem((*place, "bucket"), "null, but there is a driver to mount it", "s3://BUCKET/PATH"))
    for field in ("claim", "storage_class"):
        if getattr(storage, field) is not None:
            what = f"{getattr(storage, field)}, but the runs are in a bucket (cluster.storage.driver)"
            problems.append(Problem((*place, field), what, "null", "or leave the driver out"))
    return problems


def _mark_problems(cluster: Cluster) -> Iterator[Problem]:
    """What an API server refuses of a resource's name, and of annotations as a whole."""
    name = cluster.rdma_resource
    if name == _GPU or name.startswith("requests.") or name.partition("/")[0].endswith("kubernetes.io"):
        why = "is that of the GPUs" if name == _GPU else "is a name that Kubernetes keeps for itself"
        yield Problem(("cluster", "rdma_resource"), f"{name} {why}", "the device plug-in's name of network cards")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in cluster.annotations.items())
    if size > _ANNOTATION_BYTES:
        what = f"{size >> 10} KiB in all, and Kubernetes takes 256 KiB with its own"
        yield Problem(("cluster", "annotations"), what, f"at most {_ANNOTATION_BYTES >> 10} KiB")


def _same_name(plan: Plan) -> Iterator[Problem]:
    """Kustomize would take a ConfigMap of the bundle's name for the bundle."""
    for index, volume in enumerate(plan.spec.cluster.volumes):
        source = volume.source
        if isinstance(source, ConfigMapFiles) and source.name == configmap(plan):
            place = ("cluster", "volumes", index, "source", "name")
            yield Problem(place, f"{source.name} is the ConfigMap of the bundle itself", fix="name another")


def _sandbox_problems(pods: KubernetesCluster, cluster: Cluster) -> list[Problem]:
    """The trainer's rights end with the sandbox namespace, and the cluster admits only the declared RuntimeClass."""
    problems, wanted = [], f"{cluster.namespace}-sandboxes"
    if pods.namespace != wanted:
        what = f'"{pods.namespace}", but the trainer may make pods in the sandbox namespace alone'
        problems.append(Problem(("environment", "kubernetes", "namespace"), what, f'"{wanted}"'))
    if cluster.sandboxes.runtime_class is not None and pods.runtime_class != cluster.sandboxes.runtime_class:
        what = f"{pods.runtime_class or 'null'}, but cluster.sandboxes.runtime_class admits no other pods"
        allowed = f'"{cluster.sandboxes.runtime_class}"'
        problems.append(Problem(("environment", "kubernetes", "runtime_class"), what, allowed))
    return problems


def _quota_problems(plan: Plan) -> list[Problem]:
    """Pods beyond the quota are refused by the cluster, so the runtime must not ask for them."""
    environment, quota = plan.spec.environment, plan.spec.cluster.max_sandboxes
    # While one trial is judged its agent's pod is gone; validation and training do not run at a time.
    wanted = min(environment.max_sandboxes or plan.spec.rollout.concurrency, plan.spec.rollout.concurrency)
    if wanted <= quota:
        return []
    what = f"{quota}, but {wanted} trials at a time (rollout.concurrency) each want a pod"
    fix = "raise it, or set environment.max_sandboxes: trials beyond wait in order"
    return [Problem(("cluster", "max_sandboxes"), what, f">= {wanted}", fix)]


def _roles(cluster: Cluster) -> list[Resources | None]:
    return [cluster.head, cluster.worker, cluster.rollout, cluster.agent_loop]


def _worker_problems(plan: Plan) -> Iterator[Problem]:
    """Pods for agent-loop workers, and workers that fit into pods."""
    cluster, loop = plan.spec.cluster, plan.spec.rollout.agent_loop
    yield from joining.resource_problems(plan, *([joining.AGENT_LOOP_RESOURCE] if cluster.agent_loop_workers else []))
    if cluster.agent_loop_workers and cluster.agent_loop is None:
        what = f"null, but there are {cluster.agent_loop_workers} agent_loop_workers"
        yield Problem(("cluster", "agent_loop"), what, "their cpus and memory_gib")
    if cluster.agent_loop is None or not cluster.agent_loop_workers:
        return
    if loop.workers == 1:
        what = f"{cluster.agent_loop_workers} pods, but rollout.agent_loop.workers is 1: it plays beside the trainer"
        yield Problem(("cluster", "agent_loop_workers"), what, "0", "or set rollout.agent_loop.workers")
    room = cluster.agent_loop_workers * int(cluster.agent_loop.cpus // loop.cpus) if loop.cpus else loop.workers
    if loop.workers > 1 and room < loop.workers:
        what = (
            f"{cluster.agent_loop_workers} pods of {cluster.agent_loop.cpus} cpus hold {room} workers of {loop.cpus:g}"
        )
        fix = "or change cluster.agent_loop.cpus or rollout.agent_loop"
        yield Problem(("cluster", "agent_loop_workers"), f"{what}, not {loop.workers}", "more pods", fix)


def _engine_problems(environment: Engine) -> list[Problem]:
    """A pod has no engine of its own and no certificates of another."""
    host = environment.docker_host
    if host is None or not host.startswith("tcp://"):
        what = f"{host or 'null'}, but pods have no Docker engine"
        place = ("environment", "docker_host")
        return [Problem(place, what, "tcp://HOST:2376", "or use liverl.environment.kubernetes")]
    if environment.docker_certificates is None and not environment.docker_plaintext:
        what = "null, but pods hold no certificates of that engine"
        place = ("environment", "docker_certificates")
        return [Problem(place, what, "a folder of the volume /runs or of the image, with ca.pem, cert.pem and key.pem")]
    return []


@section
def _known_pods(plan: Plan, runtime: Facts) -> None:
    """Sandbox pods with the label by which NetworkPolicies find them, and with the service account made for them."""
    environment = plan.spec.environment
    if isinstance(environment, Pods):
        pods, why = environment.kubernetes, "known to the manifests"
        runtime.split("environment")
        runtime.split("environment.kubernetes")
        account = "environment.kubernetes.service_account"
        runtime.replace(account, lambda: pods.service_account or sandbox_account(plan), why=why)
        labels = "environment.kubernetes.labels"
        runtime.replace(labels, lambda: {**pods.labels, "liverl/experiment": plan.spec.name}, why=why)


def configmap(plan: Plan) -> str:
    """Kustomize adds a digest of the content."""
    return f"{plan.spec.name}-bundle"


def sandbox_account(plan: Plan) -> str:
    return f"{plan.spec.name}-sandbox"


_KINDS: Mapping[str, Callable[[Cluster], bool]] = {
    "namespaces": lambda cluster: True,
    "priorityclasses": lambda cluster: cluster.priority is not None,
    "runtimeclasses": lambda cluster: cluster.sandboxes.runtime_handler is not None,
    "validatingadmissionpolicies": lambda cluster: cluster.sandboxes.runtime_class is not None,
    "serviceaccounts": lambda cluster: True,
    "roles": lambda cluster: True,
    "rolebindings": lambda cluster: True,
    "resourcequotas": lambda cluster: True,
    "limitranges": lambda cluster: True,
    "networkpolicies": lambda cluster: True,
    "persistentvolumes": lambda cluster: cluster.storage.driver is not None,
    "persistentvolumeclaims": lambda cluster: cluster.storage.claim is None,
    "localqueues": lambda cluster: isinstance(cluster.queue, KueueQueue) and cluster.queue.cluster_queue is not None,
    "services": lambda cluster: cluster.monitor,
    "servicemonitors": lambda cluster: cluster.monitor,
    "daemonsets": lambda cluster: bool(cluster.sandboxes.prepull),
    "rayjobs": lambda cluster: True,
}
"""Template -> whether it is wanted, in the order in which a cluster wants the objects."""


TARGET = Kubernetes()
