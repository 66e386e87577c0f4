"""Checks that several targets share: do the machines of the spec hold what the plan needs. Knows no target's files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from compiler.check.environment import image_problems
from compiler.errors import Path, Problem
from compiler.plan import Plan
from compiler.spec.cluster import Resources
from compiler.spec.mode import SeparateAsync
from runtime.config.environment import Ecs, Kubernetes


def shm_problems(places: Mapping[tuple[str, ...], Resources]) -> list[Problem]:
    """Shared memory counts towards a machine's memory. ``places``: field of the spec -> what it holds."""
    return [
        Problem(
            (*place, "shm_gib"),
            f"{size.shm_gib} GiB of shared memory count towards the {size.memory_gib} GiB of memory",
            f"< {size.memory_gib}",
        )
        for place, size in places.items()
        if size.shm_gib >= size.memory_gib
    ]


def gpu_problem(plan: Plan, *, machines: Iterable[int], place: Path, holder: str, fix: str = "") -> list[Problem]:
    """Too few GPUs for trainer and rollout together, or too few on one machine: verl asks Ray for all ranks of a
    machine at once, which then waits for ever. ``machines``: the GPUs of each; ``holder`` begins the sentence, "the
    pods hold"."""
    spec, free = plan.spec, sorted(machines, reverse=True)
    if spec.trainer.device != "cuda":
        return []
    there, needed = sum(free), plan.trainer_ranks + plan.rollout_gpus
    if needed > there:
        what = f"{holder} {there} GPUs, but trainer and rollout need {needed}"
        return [Problem(place, what, f">= {needed} in all", fix)]
    wanted = [spec.trainer.ranks_per_node] * spec.trainer.nodes
    if isinstance(spec.mode, SeparateAsync) and plan.rollout_gpus:
        wanted += [plan.rollout_gpus // spec.mode.rollout_nodes] * spec.mode.rollout_nodes
    for size in sorted(wanted, reverse=True):
        # The fullest machine that still has room.
        room = min((index for index, left in enumerate(free) if left >= size), key=free.__getitem__, default=None)
        if room is None:
            what = f"{holder} {there} GPUs, but no machine has {size} of them left for the ranks that share one"
            return [Problem(place, what, f">= {size} on one machine", "change the machines or ranks_per_node")]
        free[room] -= size
    return []


def proxy_host_problem(plan: Plan) -> list[Problem]:
    """Sandboxes of ECS need the trainer's address, which this target cannot tell them."""
    environment = plan.spec.environment
    if not isinstance(environment, Ecs) or environment.ecs.proxy_host is not None:
        return []
    return [
        Problem(
            ("environment", "ecs", "proxy_host"),
            "not set, so agents could not reach the model",
            fix="set it to the address of the machine that will run the trainer, or use the target skypilot, which "
            "finds it out",
        )
    ]


def pods_address_warning(plan: Plan) -> list[Problem]:
    """Pods need the trainer's address, which only targets that start the trainer themselves find out."""
    environment = plan.spec.environment
    if not isinstance(environment, Kubernetes) or environment.kubernetes.proxy_host is not None:
        return []
    return [
        Problem(
            ("environment", "kubernetes", "proxy_host"),
            "not set, so `liverl run` refuses it on a machine where neither POD_IP nor LIVERL_PROXY_HOST is set",
            fix="set it to the address of the machine that will run the trainer",
            severity="warn",
        )
    ]


def image_warnings(image: str) -> list[Problem]:
    """The trainer's image: machines cannot pull one whose name holds no registry, or pull another one tomorrow."""
    found = [replace(problem, severity="warn") for problem in image_problems(image, ("cluster", "image"))]
    if "/" not in image:
        found.append(
            Problem(
                ("cluster", "image"),
                f"{image} names no registry; other machines cannot pull it",
                "REGISTRY/NAME:TAG",
                severity="warn",
            )
        )
    return found
