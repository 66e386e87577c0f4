"""Package versions that go together, one set per kind of machine; tests hold them against the packages' metadata."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.plan import Plan

CPU = {
    "python": "3.11",
    "ray": "2.60.0",
    "tensordict": "0.10.0",
    "torch": "2.13.0",
    "transferqueue": "0.1.11",
    "transformers": "5.10.4",
    "verl": "0.9.1",
}
CUDA = {
    "python": "3.11",
    "ray": "2.60.0",
    "tensordict": "0.10.0",
    "torch": "2.11.0",
    "transferqueue": "0.1.11",
    "transformers": "5.9.0",
    "verl": "0.9.1",
    "vllm": "0.24.0",
}
SKYPILOT = "0.14.1"
"""The client that ``task.sky.yaml`` is checked against."""


def of(plan: Plan) -> Mapping[str, str]:
    """The set that a plan needs."""
    return CPU if plan.spec.trainer.device == "cpu" else CUDA


def requirements(pins: Mapping[str, str]) -> list[str]:
    """The set as pip requirements, Python itself left out."""
    return [f"{name}=={version}" for name, version in sorted(pins.items()) if name != "python"]
