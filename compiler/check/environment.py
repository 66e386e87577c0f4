"""Sandboxes: what their backend cannot do, the time and the images they get."""

from __future__ import annotations

import math
from collections.abc import Iterator

from compiler.check.rule import Rule
from compiler.errors import Path, Problem
from compiler.plan import Plan
from runtime.config.environment import (
    Docker,
    Ecs,
    EcsCluster,
    Environment,
    Harbor,
    Images,
    Kubernetes,
    KubernetesCluster,
)

_DAY_SEC = 86_400


def environments(plan: Plan) -> Iterator[Problem]:
    """What a backend of sandboxes cannot do (``runtime.sandboxes.base.Capabilities``), before it is tried."""
    environment = plan.spec.environment
    if isinstance(environment, Harbor):
        yield from _harbor(environment)
    yield from _network(environment)
    cluster: KubernetesCluster | EcsCluster
    if isinstance(environment, Kubernetes):
        cluster, place, deadline = environment.kubernetes, "kubernetes", "active_deadline_sec"
    elif isinstance(environment, Ecs):
        cluster, place, deadline = environment.ecs, "ecs", "ttl_sec"
    else:
        return
    yield from image_problems(cluster.image, ("environment", place, "image"))
    needed = environment.agent_timeout_sec + environment.verifier_timeout_sec
    allowed: int = getattr(cluster, deadline)
    if allowed < needed:
        yield Problem(
            ("environment", place, deadline),
            f"{allowed} s is less than one trial may take (agent_timeout_sec + verifier_timeout_sec = {needed:g} s)",
            f">= {math.ceil(needed)}",
        )
    if isinstance(cluster, KubernetesCluster) and cluster.require_isolation and not cluster.egress_probes:
        yield Problem(
            ("environment", place, "require_isolation"),
            "true, but without a probe nothing shows that NetworkPolicy is enforced",
            fix="set egress_probes, for example to the API server's address",
        )


def _network(environment: Environment) -> Iterator[Problem]:
    kind, phases = environment.type, environment.network
    closed = {
        "bubblewrap": "a network of its own",
        "docker": "a network of its own",
        "kubernetes": "the namespace's NetworkPolicies",
    }
    owners = {
        "ecs": "tasks reach what their security groups allow, which nothing here can prove",
        "harbor": "the network is the environment's own",
        "process": "plain processes share the machine's network",
    }
    for phase, value in (("agent", phases.agent), ("verifier", phases.verifier)):
        place = ("environment", "network", phase)
        strict = "model" if phase == "agent" else "none"
        if value == "any" and kind in closed:
            yield Problem(place, f'"any", but sandboxes of {kind} are held by {closed[kind]}', f"{strict}, null")
        if value == strict and kind in owners:
            yield Problem(
                place,
                f'"{strict}" cannot be held to with {kind}: {owners[kind]}',
                "any, null",
                "use bubblewrap, docker or kubernetes",
            )
        if value == strict and isinstance(environment, Kubernetes) and not environment.kubernetes.require_isolation:
            yield Problem(
                place,
                f'"{strict}", but every cluster accepts NetworkPolicies and only some enforce them',
                fix="set environment.kubernetes.require_isolation and egress_probes",
            )


def _harbor(environment: Harbor) -> Iterator[Problem]:
    named = environment.harbor
    if (named.environment is None) == (named.import_path is None):
        yield Problem(
            ("environment", "harbor"),
            "names no environment" if named.environment is None else "names two environments",
            fix="set either environment or import_path",
        )
    if named.proxy_host is None:
        yield Problem(
            ("environment", "harbor", "proxy_host"),
            "not set, so agents could not reach the model",
            fix="set it to the address of the machine that will run the trainer",
        )


def timeouts(plan: Plan) -> Iterator[Problem]:
    """Times that are possible and hardly meant: most often another unit."""
    environment = plan.spec.environment
    agent, verifier = environment.agent_timeout_sec, environment.verifier_timeout_sec
    for name, seconds in (("agent_timeout_sec", agent), ("verifier_timeout_sec", verifier)):
        if seconds < 1 or seconds > _DAY_SEC:
            shown = f"{seconds / 3600:,.0f} hours" if seconds > _DAY_SEC else "less than a second"
            yield Problem(("environment", name), f"{seconds:g} is {shown}", "1 to 86400 seconds", severity="warn")
    if verifier > agent:
        yield Problem(
            ("environment", "verifier_timeout_sec"),
            f"{verifier:g} s for the tests is more than agent_timeout_sec {agent:g}, and the agent runs them too",
            f"<= {agent:g}",
            severity="warn",
        )


def images(plan: Plan) -> Iterator[Problem]:
    environment = plan.spec.environment
    if isinstance(environment, Docker):
        yield from image_problems(environment.base_image, ("environment", "base_image"))


def task_images(plan: Plan) -> Iterator[Problem]:
    """Settings of tasks' images that the backend has no use for."""
    environment = plan.spec.environment
    place, found = ("environment", "images"), environment.images
    if environment.type in ("process", "harbor", "import") and found != Images():
        yield Problem(
            place,
            f"boxes of {environment.type} are not made of tasks' images: nothing of this has an effect",
            fix="leave it out, or set environment.type to bubblewrap, docker, kubernetes or ecs",
            severity="warn",
        )
    elif found.ahead_mib_per_sec is not None:
        if environment.type != "bubblewrap":
            yield Problem(
                (*place, "ahead_mib_per_sec"),
                f"{found.ahead_mib_per_sec:g}: with {environment.type} it is not LiveRL that fetches, and whoever does "
                "takes no bound",
                "null",
                "set environment.images.ahead: 0 to fetch nothing ahead",
            )
        elif not found.ahead:
            yield Problem((*place, "ahead_mib_per_sec"), "set, but ahead is 0: nothing is fetched ahead", "null")


def image_problems(image: str, place: Path) -> Iterator[Problem]:
    """A name that means another image tomorrow."""
    name = image.rpartition("/")[2]
    if "@" not in name and (":" not in name or name.endswith(":latest")):
        yield Problem(
            place,
            f'"{image}" names another image tomorrow',
            fix="name a tag other than latest, or a digest",
            severity="fatal" if ":" not in name else "warn",
        )


RULES: tuple[Rule, ...] = (environments, timeouts, images, task_images)
