"""The pod of one sandbox as a manifest. Pure; it does not know the cluster.

Meets the ``restricted`` pod security standard unless ``settings.user`` is None.
"""

from __future__ import annotations

import re
import secrets
from pathlib import PurePosixPath
from typing import Any

from runtime.config import KubernetesCluster
from runtime.sandboxes.base import AGENT, Mount, SandboxRequest
from runtime.sandboxes.bwrap import IMAGE, LIVERL
from runtime.sandboxes.remote_shell import MARK

RUN, OWNER, TTL, NONCE, PHASE = "liverl/run", "liverl/owner", "liverl/ttl", "liverl/nonce", "liverl/phase"
MANAGED_BY = "app.kubernetes.io/managed-by"
CONTAINER = "sandbox"
DISK_REQUEST = "256Mi"
"""What the scheduler sets aside of a node's disk for one box; without a request it is the whole limit."""
HOME = "/home/agent"
_CARRIED = "/agent"
"""Where the image that brings the agent puts it: the volume that the box sees at ``AGENT``."""
# Waits for orphans, and dies at once of TERM; a plain ``sleep`` as process 1 ignores it for the whole grace period.
_INIT = f'trap "exit 0" TERM INT; while :; do {MARK}=init sleep 3600 & wait $!; done'


def label(text: str) -> str:
    """``text`` as a label value: at most 63 of ``[A-Za-z0-9._-]``, alphanumeric at both ends."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:63].strip("-._")


def pod_name(name: str) -> str:
    """A DNS label that begins like ``name`` and is never used twice."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())[:46].strip("-") or "box"
    return f"box-{slug}-{secrets.token_hex(4)}"


def manifest(request: SandboxRequest, settings: KubernetesCluster, *, run: str, owner: str) -> dict[str, Any]:
    """A Pod with the labels run, owner, ttl and a nonce that tells our own creation from a stranger's name."""
    folders = _folders(request) if settings.user is not None else []
    security: dict[str, Any] = {"seccompProfile": {"type": "RuntimeDefault"}}
    box: dict[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    if settings.user is None and request.second_user:
        # For whoever runs the tests, until its code under test is another user (``guest/second.py``).
        box["capabilities"]["add"] = ["SETUID", "SETGID", "KILL"]
    if settings.user is not None:
        security |= {"runAsNonRoot": True, "runAsUser": settings.user, "runAsGroup": settings.user}
        security |= {"fsGroup": settings.user}
        box |= {"readOnlyRootFilesystem": True}
    agent = agent_image(request)
    limits = {
        "cpu": f"{settings.cpus:g}",
        "memory": f"{request.memory_mib}Mi",
        "ephemeral-storage": f"{settings.disk_gib}Gi",
    }
    requests = {
        "cpu": "100m",
        "memory": f"{max(64, request.memory_mib // 4)}Mi",
        "ephemeral-storage": DISK_REQUEST,
    }
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["sh", "-c", _INIT],
        "env": [{"name": "HOME", "value": HOME}] if settings.user is not None else [],
        "resources": {"limits": limits, "requests": requests},
        "securityContext": box,
        "volumeMounts": [{"name": f"v{number}", "mountPath": path} for number, path in enumerate(folders)],
    }
    carrier = {
        "name": "agent",
        "image": agent,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["sh", "-c", f"cp -R {AGENT}/. {_CARRIED}/"],
        "resources": container["resources"],
        "securityContext": box,
        "volumeMounts": [{"name": "agent", "mountPath": _CARRIED}],
    }
    if agent is not None:
        container["volumeMounts"] += [{"name": "agent", "mountPath": AGENT, "readOnly": True}]
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": settings.active_deadline_sec,
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": security,
        "containers": [container],
        "volumes": [{"name": f"v{number}", "emptyDir": {}} for number in range(len(folders))],
    }
    if agent is not None:
        spec["initContainers"] = [carrier]
        spec["volumes"] += [{"name": "agent", "emptyDir": {}}]
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.runtime_class is not None:
        spec["runtimeClassName"] = settings.runtime_class
    if settings.node_selector:
        spec["nodeSelector"] = dict(settings.node_selector)
    if settings.service_account is not None:
        spec["serviceAccountName"] = settings.service_account
    labels = {
        **settings.labels,
        RUN: run,
        OWNER: owner,
        TTL: str(settings.active_deadline_sec),
        NONCE: secrets.token_hex(8),
        # The namespace's policies let agents reach the model, and verifiers nothing.
        PHASE: "agent" if request.forward is not None else "verifier",
        MANAGED_BY: "liverl",
    }
    metadata = {"name": pod_name(request.name), "namespace": settings.namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def agent_image(request: SandboxRequest) -> str | None:
    """The image that brings the agent, if one does."""
    return next((mount.image for mount in request.mounts if mount.image is not None), None)


def uploads(request: SandboxRequest) -> tuple[Mount, ...]:
    """What no image brings."""
    return tuple(mount for mount in request.mounts if mount.image is None)


def _folders(request: SandboxRequest) -> list[str]:
    """What must be writable, and where mounts are unpacked; a folder below another one needs no volume of its own."""
    wanted = {request.workdir, "/tmp", "/logs", "/tests", "/solution", HOME, LIVERL}
    if request.image:
        wanted.add(IMAGE)
    for mount in uploads(request):
        wanted.add(mount.target if mount.source.is_dir() else str(PurePosixPath(mount.target).parent))
    paths = sorted(PurePosixPath(path) for path in wanted)
    return [str(path) for path in paths if not any(path != other and path.is_relative_to(other) for other in paths)]
