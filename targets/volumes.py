"""What the targets mount, and where each finds the policy's weights. Knows no target's files.

A run fetches no weights, so a policy that nothing brings to the machines is found out here and not after their start.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from compiler.errors import Path, Problem
from compiler.models import dense_parameters, expert_parameters, facts_of
from compiler.plan import Plan
from compiler.spec.policy import PretrainedPolicy
from compiler.spec.volumes import Download, WeightsSource

MOUNTED = {
    "docker": ("host", "nfs"),
    "k8s": ("claim", "host", "nfs", "config_map", "secret"),
    "ray": (),
    "skypilot": ("bucket",),
}
"""Target -> the kinds of ``cluster.volumes`` that it mounts."""
_WEIGHTS = {target: (*kinds, "present") for target, kinds in MOUNTED.items()} | {
    "k8s": (*MOUNTED["k8s"], "download", "present")
}
HUB_CACHE = "HF_HUB_CACHE"
_OURS = ("/runs", "/opt/liverl", "/home/liverl", "/certs", "/tmp", "/dev", "/proc", "/sys")
"""Folders of the trainer's machine that mounts of our own, or the system's, are at."""
_SYSTEM = ("/bin", "/etc", "/lib", "/lib64", "/root", "/sbin", "/usr", "/var")
_PROGRAMS = ("/bin/", "/lib/", "/lib64/", "/sbin/", "/usr/")
"""Of these no part either: what is there runs."""
_BYTES = 2
"""Of a parameter in the files of a hub."""


def problems(plan: Plan, target: str) -> Iterator[Problem]:
    """Volumes that the target cannot mount or that would cover something, and weights that nothing brings."""
    taken: dict[str, str] = {}
    for index, volume in enumerate(plan.spec.cluster.volumes):
        place: Path = ("cluster", "volumes", index)
        if volume.source.type not in MOUNTED[target]:
            yield _unknown((*place, "source", "type"), volume.source.type, target, MOUNTED[target])
        yield from _covered(volume.mount_path, (*place, "mount_path"), taken, f"cluster.volumes[{index}]")
    weights, policy = plan.spec.cluster.weights, plan.spec.policy
    if weights is not None:
        place = ("cluster", "weights")
        chosen = weights_source(plan, target)
        if chosen is None:
            kinds = ", ".join(source.type for source in weights.sources)
            yield _unknown((*place, "sources"), kinds, target, _WEIGHTS[target])
        elif chosen.type != "present":
            yield from _covered(weights.mount_path, (*place, "mount_path"), taken, "cluster.weights")
        if isinstance(chosen, Download):
            yield from _download_problems(plan)
        if weights.layout == "hub" and HUB_CACHE in plan.spec.cluster.env:
            what = f"{HUB_CACHE} is set by cluster.weights"
            yield Problem(("cluster", "env", HUB_CACHE), what, fix="leave it out, or say layout: 'folders'")
    if isinstance(policy, PretrainedPolicy):
        yield from _policy_problems(plan, policy, target)


def weights_source(plan: Plan, target: str) -> WeightsSource | None:
    """The first source of ``cluster.weights`` that the target knows; none without a pretrained policy."""
    weights = plan.spec.cluster.weights
    if weights is None or not isinstance(plan.spec.policy, PretrainedPolicy):
        return None
    return next((source for source in weights.sources if source.type in _WEIGHTS[target]), None)


def mounted_weights(plan: Plan, target: str) -> WeightsSource | None:
    """The source that must be mounted; none where the weights are there already."""
    source = weights_source(plan, target)
    return source if source is not None and source.type != "present" else None


def hub_cache(plan: Plan, target: str) -> str | None:
    """The value of ``HF_HUB_CACHE``."""
    weights = plan.spec.cluster.weights
    if weights is None or weights_source(plan, target) is None or weights.layout != "hub":
        return None
    return weights.mount_path


def download_gib(plan: Plan, target: str) -> int:
    """Local disk that fetched weights take; 0 where none are fetched."""
    source = weights_source(plan, target)
    return (source.size_gib or weights_gib(plan) or 0) if isinstance(source, Download) else 0


def weights_gib(plan: Plan) -> int | None:
    """Size of the policy's files, a tenth of it to spare; None where the policy's sizes are unknown."""
    facts = facts_of(plan.spec.policy)
    if facts is None:
        return None
    return math.ceil((dense_parameters(facts) + expert_parameters(facts)) * _BYTES * 1.1 / (1 << 30))


def _unknown(place: Path, kinds: str, target: str, allowed: tuple[str, ...]) -> Problem:
    what = f"the target {target} mounts no {kinds}"
    return Problem(place, what, ", ".join(allowed) or "none: what its nodes have, their owner mounts")


def _covered(path: str, place: Path, taken: dict[str, str], name: str) -> Iterator[Problem]:
    own = path.rstrip("/")
    if own in taken:
        yield Problem(place, f"{path} is already that of {taken[own]}", fix="choose another")
    taken.setdefault(own, name)
    for other in _OURS:
        if f"{own}/".startswith(f"{other}/") or f"{other}/".startswith(f"{own}/"):
            yield Problem(place, f"{path} would cover {other}, or lie in it", fix="choose another, such as /mnt/NAME")
            return
    if own in _SYSTEM or own.startswith(_PROGRAMS):
        yield Problem(place, f"{path} would cover a folder of the system", fix="choose another, such as /mnt/NAME")


def _download_problems(plan: Plan) -> Iterator[Problem]:
    weights, policy = plan.spec.cluster.weights, plan.spec.policy
    assert weights is not None and isinstance(policy, PretrainedPolicy)
    if weights.layout != "hub" or policy.path.startswith(("/", ".", "~")):
        what = "fetched from the hub, but "
        what += "the layout is folders" if weights.layout != "hub" else f"policy.path {policy.path} is no name of it"
        yield Problem(("cluster", "weights", "layout"), what, '"hub", with policy.path OWNER/NAME')
    if not download_gib(plan, "k8s"):
        index = next(n for n, source in enumerate(weights.sources) if isinstance(source, Download))
        place = ("cluster", "weights", "sources", index, "size_gib")
        yield Problem(place, f"null, and the sizes of {policy.path} are unknown", fix="set it, or policy.facts")


def _policy_problems(plan: Plan, policy: PretrainedPolicy, target: str) -> Iterator[Problem]:
    cluster, path = plan.spec.cluster, policy.path
    source, weights = weights_source(plan, target), cluster.weights
    if weights is not None and source is None:
        return  # said above
    by_name = not path.startswith(("/", "./", "../", "~"))
    if by_name and "/" not in path and (weights is None or weights.layout == "hub"):
        # A cache of the hub may well be there, and this not in it.
        yield Problem(
            ("policy", "path"),
            f'"{path}" is not in a cache of the hub; one of `liverl models` is found on the machine that added it, '
            f"and on none of the target {target}",
            "OWNER/NAME, or a folder below a volume of cluster.volumes or cluster.weights",
            "put its folder where cluster.weights with layout: 'folders' mounts it, and name it below mount_path",
        )
        return
    folders = [volume.mount_path for volume in cluster.volumes]
    if weights is not None and weights.layout == "folders":
        folders.append(weights.mount_path)
    if by_name:
        there = (weights is not None and weights.layout == "hub") or bool({"HF_HOME", HUB_CACHE} & set(cluster.env))
    else:
        there = any(f"{path}/".startswith(folder.rstrip("/") + "/") for folder in folders)
    if there:
        return
    size = weights_gib(plan)
    what = (
        f'"{path}"' + (f" (some {size} GiB)" if size else "") + ": nothing brings it to the machines of this target, "
    )
    yield Problem(
        ("policy", "path"),
        what + "and a run fetches nothing (HF_HUB_OFFLINE=1)",
        "OWNER/NAME with cluster.weights, or a folder below a volume of cluster.volumes or cluster.weights",
        f"set cluster.weights: {{ sources: [{{ type: {_example(target)} }}] }}; type 'present' where they are already",
        severity="warn" if target == "ray" else "fatal",
    )


def _example(target: str) -> str:
    return {
        "docker": "'host', path: '/srv/weights'",
        "k8s": "'claim', name: 'weights'",
        "ray": "'present'",
        "skypilot": "'bucket', url: 's3://BUCKET/PATH'",
    }[target]
