"""Package versions that go together, one set per kind of machine; tests hold them against the packages' metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # read by scripts/lock.py before anything is installed
    from compiler.plan import Plan
from targets.cuda_set import ARCHITECTURES, CUDA

CPU = {
    "python": "3.11",
    "ray": "2.60.0",
    "tensordict": "0.10.0",
    "torch": "2.13.0",
    "transferqueue": "0.1.11",
    "transformers": "5.10.4",
    "verl": "0.9.1",
}
SKYPILOT = "0.14.1"
"""The client that ``task.sky.yaml`` is checked against."""


YOUNGER_PYTHON = "3.12"
"""verl's newest, which some agents and Harbor need."""
NODE = "22"
"""What npm comes with, for agents that npm installs."""
TRACKERS = {"swanlab": "0.10.3", "mlflow": "3.18.0", "trackio": "0.43.0"}
"""Experiment trackers that do not come with verl."""


def of(plan: Plan) -> Mapping[str, str]:
    """The set that a plan needs."""
    pinned = {**(CPU if plan.spec.trainer.device == "cpu" else CUDA), "python": python(plan)}
    pinned.update((name, TRACKERS[name]) for name in plan.spec.observability.loggers if name in TRACKERS)
    return pinned


def python(plan: Plan) -> str:
    younger = plan.spec.scaffold.type in ("openhands-sdk", "terminus-2") or plan.spec.environment.type == "harbor"
    return YOUNGER_PYTHON if younger else CPU["python"]


def extras(plan: Plan) -> list[str]:
    """LiveRL's own extras for the image: the trainer and every kind of sandbox that a container can ask for."""
    return ["train", "docker", "kubernetes", "ecs", *(["harbor"] if plan.spec.environment.type == "harbor" else [])]


def system(plan: Plan) -> list[str]:
    """Debian's packages for the image."""
    tmux = ["tmux"] if plan.spec.scaffold.type == "terminus-2" else []
    return ["bubblewrap", "build-essential", "ca-certificates", "git", *tmux]


def npm(plan: Plan) -> bool:
    """Whether the run installs its agent with npm."""
    return plan.spec.scaffold.type in ("claude-code", "opencode")


def requirements(pins: Mapping[str, str]) -> list[str]:
    """The set as pip requirements, Python itself left out."""
    return [f"{name}=={version}" for name, version in sorted(pins.items()) if name != "python"]


def flash_attention(plan: Plan) -> bool:
    """Whether the trainer imports the package."""
    return plan.spec.trainer.device == "cuda" and getattr(plan.spec.trainer, "attention", "") == "flash_attention_2"


def architectures(plan: Plan) -> str:
    """Of the GPUs that its kernels are compiled for; unknown GPUs: the common ones."""
    gpu = plan.spec.trainer.gpu
    return ARCHITECTURES[gpu] if gpu is not None else ";".join(sorted(set(ARCHITECTURES.values()), key=int))


def not_in_image(plan: Plan) -> Sequence[str]:
    """Packages that the trainer imports and the image of ``docker`` lacks: they must be built for the site."""
    trainer = plan.spec.trainer
    lacking = {"megatron": ["megatron-core", "mbridge", "transformer-engine"], "veomni": ["veomni"]}
    found = list(lacking.get(trainer.type, ()))
    return [*found, *(["flash-attn 3"] if getattr(trainer, "attention", "") == "flash_attention_3" else [])]
