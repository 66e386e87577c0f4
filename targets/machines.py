"""Checks that several targets share: do the machines of the spec hold what the plan needs. Knows no target's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from compiler.errors import Path, Problem
from compiler.plan import Plan
from compiler.sandboxes import image_problems
from compiler.spec.cluster import Resources
from compiler.spec.environment import Ecs


def shm_problems(places: Mapping[str, Resources]) -> list[Problem]:
    """Shared memory counts towards a machine's memory. ``places``: field of ``cluster`` -> what it holds."""
    return [
        Problem(
            ("cluster", role, "shm_gib"),
            f"{size.shm_gib} GiB of shared memory count towards the {size.memory_gib} GiB of memory",
            f"< {size.memory_gib}",
        )
        for role, size in places.items()
        if size.shm_gib >= size.memory_gib
    ]


def gpu_problem(plan: Plan, *, there: int, place: Path, holder: str, fix: str = "") -> list[Problem]:
    """Too few GPUs for trainer and rollout together; ``holder`` begins the sentence, "the pods hold"."""
    if plan.spec.trainer.device != "cuda":
        return []
    needed = plan.trainer_ranks + plan.rollout_gpus
    if needed <= there:
        return []
    what = f"{holder} {there} GPUs, but trainer and rollout need {needed}"
    return [Problem(place, what, f">= {needed} in all", fix)]


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
