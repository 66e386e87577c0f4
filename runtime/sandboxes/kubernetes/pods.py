"""The pod of one sandbox as a manifest. It does not know the cluster.

Meets the ``restricted`` pod security standard unless ``settings.user`` is None.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

from runtime.config import KubernetesCluster
from runtime.oci.reference import mirrored
from runtime.sandboxes import own_image, remote_python
from runtime.sandboxes.base import AGENT, Mount, SandboxRequest
from runtime.sandboxes.bwrap import IMAGE, LIVERL
from runtime.sandboxes.remote_shell import MARK

RUN, OWNER, TTL, NONCE, PHASE = "liverl/run", "liverl/owner", "liverl/ttl", "liverl/nonce", "liverl/phase"
MANAGED_BY = "app.kubernetes.io/managed-by"
CONTAINER = "sandbox"
SOLUTION = "solution"
"""The second container of a pod whose code under test is to have a box of its own."""
RECEIVER = "guest"
"""The init container that takes in what a box of a task's own image needs."""
DISK_REQUEST = "256Mi"
"""What the scheduler sets aside of a node's disk for one box; without a request it is the whole limit."""
HOME = "/home/agent"
_CARRIED = "/agent"
_SHARED_MEMORY = "/dev/shm"
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


def manifest(
    request: SandboxRequest,
    settings: KubernetesCluster,
    *,
    run: str,
    owner: str,
    mirrors: Mapping[str, str] = MappingProxyType({}),
    changed: bool = False,
) -> dict[str, Any]:
    """A Pod with the labels run, owner, ttl and a nonce that tells our own creation from a stranger's name. mirrors:
    registry -> the one that nodes ask in its place for a task's own image; changed: its work directory is not to be
    seen (``own_image.is_changed``)."""
    folders = _folders(request) if settings.user is not None else []
    security: dict[str, Any] = {"seccompProfile": {"type": "RuntimeDefault"}}
    box: dict[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    if settings.user is None and request.second_user and not request.second_box:
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
    if request.root is not None:
        _of_own_image(spec, request, settings, mirrored(request.root.reference, mirrors), changed=changed)
    if in_two(request, settings):
        _with_solution(spec, request)
    placed(spec, settings)
    # The namespace's policies let agents reach the model, and verifiers nothing.
    phase = "agent" if request.forward is not None else "verifier"
    named = labels(settings, run=run, owner=owner, ttl_sec=settings.active_deadline_sec, phase=phase)
    metadata = {"name": pod_name(request.name), "namespace": settings.namespace, "labels": named}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def in_two(request: SandboxRequest, settings: KubernetesCluster) -> bool:
    """Whether the pod has a second container for the code under test: an ordinary user has no second user."""
    return request.second_box or (request.second_user and settings.user is not None)


def _with_solution(spec: dict[str, Any], request: SandboxRequest) -> None:
    """The same container once more, with volumes of its own for all that may be written. Containers of a pod have
    processes and files of their own, but one network, where the two meet (``pair.py``), and one shared memory, in the
    place of which each gets its own."""
    (judge,) = spec["containers"]
    judge["volumeMounts"] = [*judge["volumeMounts"], {"name": "memory", "mountPath": _SHARED_MEMORY}]
    spec["volumes"].append({"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}})
    kinds = {volume["name"]: volume["emptyDir"] for volume in spec["volumes"]}
    mounts = []
    for mount in judge["volumeMounts"]:
        if mount.get("readOnly"):
            mounts.append(mount)
            continue
        name = f"{SOLUTION}-{mount['name']}"
        spec["volumes"].append({"name": name, "emptyDir": kinds[mount["name"]]})
        mounts.append({**mount, "name": name})
        if request.root is not None and mount["mountPath"] == request.workdir:
            spec["initContainers"].append(_copied(spec["initContainers"], mount["name"], name))
    spec["containers"].append({**judge, "name": SOLUTION, "volumeMounts": mounts})


def _copied(before: list[dict[str, Any]], volume: str, target: str) -> dict[str, Any]:
    """An init container that copies what others have put into ``volume``; made like the receiver."""
    receiver = next(one for one in before if one["name"] == RECEIVER)
    mounts = [{"name": volume, "mountPath": "/.liverl-work"}, {"name": target, "mountPath": "/.liverl-copy"}]
    command = ["sh", "-c", "cp -RPp /.liverl-work/. /.liverl-copy/"]
    return {**receiver, "name": "copy", "command": command, "volumeMounts": mounts}


def placed(spec: dict[str, Any], settings: KubernetesCluster) -> None:
    """Where a pod may run, as whose, and with whose passwords for registries."""
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.runtime_class is not None:
        spec["runtimeClassName"] = settings.runtime_class
    if settings.node_selector:
        spec["nodeSelector"] = dict(settings.node_selector)
    if settings.service_account is not None:
        spec["serviceAccountName"] = settings.service_account


def labels(settings: KubernetesCluster, *, run: str, owner: str, ttl_sec: int, phase: str) -> dict[str, str]:
    return {
        **settings.labels,
        RUN: run,
        OWNER: owner,
        TTL: str(ttl_sec),
        NONCE: secrets.token_hex(8),
        PHASE: phase,
        MANAGED_BY: "liverl",
    }


def _of_own_image(
    spec: dict[str, Any], request: SandboxRequest, settings: KubernetesCluster, image: str, *, changed: bool
) -> None:
    """Make the pod one of a task's own image: what LiveRL runs in it comes into volumes, by an init container of the
    backend's own image, and is read-only. All of the image may be written that its user may write; of a user who is
    not the image's root the work directory is a copy."""
    box = spec["containers"][0]
    own = replace(request, mounts=uploads(request))
    brought = own_image.places(own)
    written = ["/logs", "/tests", "/solution"]
    if settings.user is not None or changed:
        written.append(request.workdir)
    if settings.user is not None:
        written += ["/tmp", HOME]
        box["securityContext"] = {**box["securityContext"], "readOnlyRootFilesystem": False}
    shown = [(path, {"readOnly": True}) for path in brought] + [(path, {}) for path in sorted(set(written))]
    agent = [mount for mount in box["volumeMounts"] if mount["name"] == "agent"]
    volumes = [{"name": f"w{number}", "mountPath": path, **more} for number, (path, more) in enumerate(shown)]
    covers, nothing = _covers(own)
    receiver = {
        "name": RECEIVER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["sh", "-c", own_image.RECEIVE],
        "resources": box["resources"],
        "securityContext": {key: value for key, value in box["securityContext"].items() if key != "capabilities"}
        | {"capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            *(
                {"name": one["name"], "mountPath": f"{own_image.BROUGHT}{one['mountPath']}"}
                for one in volumes
                if one["mountPath"] in brought or (changed and one["mountPath"] == request.workdir)
            ),
            *nothing,
            {"name": "scratch", "mountPath": "/tmp"},
        ],
    }
    first = [*spec.get("initContainers", ()), receiver]
    if settings.user is not None and not changed:
        work = next(one for one in volumes if one["mountPath"] == request.workdir)
        python = [one for one in volumes if one["mountPath"] in brought]
        command = own_image.copy_command(request.workdir, "/.liverl-work")
        more = {"command": command, "volumeMounts": [*python, {"name": work["name"], "mountPath": "/.liverl-work"}]}
        first.append({**receiver, "name": "work", "image": image, **more})
    box |= {
        "image": image,
        "command": list(remote_python.WAIT),
        "workingDir": "/",
        "volumeMounts": [*volumes, *covers, *agent],
    }
    spec["initContainers"] = first
    spec["volumes"] = [one for one in spec["volumes"] if one["name"] == "agent"]
    names = dict.fromkeys(one["name"] for one in (*volumes, *covers))
    spec["volumes"] += [{"name": name, "emptyDir": {}} for name in (*names, "scratch")]


def _covers(request: SandboxRequest) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Mounts of the box that hide what its image has there, and that of the receiver, which makes the empty file."""
    folders, files = own_image.hidden(request)
    over = [{"name": "no-folder", "mountPath": path, "readOnly": True} for path in folders]
    part = own_image.NOTHING[1:]
    over += [{"name": "no-file", "mountPath": path, "subPath": part, "readOnly": True} for path in files]
    place = f"{own_image.BROUGHT}{own_image.NOTHING}"
    return over, [{"name": "no-file", "mountPath": place}] if files else []


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
