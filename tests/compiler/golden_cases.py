"""Which specs are pinned for which targets: the one table that the golden test and the refresh command share."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "golden"
EXAMPLES = ["dense-8gpu", "ppo-8gpu", "moe-async", "moe-megatron"]
"""Specs for GPUs, which no test runs."""
CASES = [
    ("quickstart", "local"),
    ("quickstart", "docker"),
    ("quickstart", "k8s"),
    ("quickstart", "ray"),
    ("quickstart", "skypilot"),
    ("quickstart-gspo", "local"),
    ("quickstart-ppo", "local"),
    ("real-repos", "local"),
    *((name, target) for name in EXAMPLES for target in ("local", "k8s", "ray")),
]


def spec_path(name: str) -> Path:
    return REPOSITORY / "specs" / f"{name}.jsonnet"


LAB = Path(__file__).parent / "specs" / "quickstart.jsonnet"
"""A spec for tests that pin values: it does not move when the real quickstart is tuned."""


def golden_folder(name: str, target: str) -> Path:
    return GOLDEN / name / target
