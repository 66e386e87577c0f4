"""Which specs are pinned for which targets: the one table that the golden test and the refresh command share."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "golden"
EXAMPLES = ["dense-8gpu", "ppo-8gpu", "moe-async", "moe-megatron"]
"""Specs for GPUs, which no test runs."""
ON_GPUS = [*EXAMPLES, "spot-ec2"]
TARGETS = ("local", "docker", "k8s", "ray", "skypilot")
CASES = [
    ("quickstart", "local"),
    ("quickstart", "docker"),
    ("quickstart", "k8s"),
    ("quickstart", "ray"),
    ("quickstart", "skypilot"),
    ("quickstart-gspo", "local"),
    ("quickstart-ppo", "local"),
    ("real-repos", "local"),
    *((name, target) for name in ("dense-8gpu", "ppo-8gpu") for target in TARGETS),
    *((name, target) for name in ("moe-async", "moe-megatron") for target in ("local", "k8s", "ray")),
    ("spot-ec2", "skypilot"),  # the other targets cannot tell its sandboxes where the model is
    *(("quickstart-site", target) for target in TARGETS),
]
SWEEPS = [("sweep", target) for target in TARGETS]
"""Sweeps of which the page, the index and the lock are pinned: the lock holds the digest of every point's lock, and
those of every file."""
PINNED_OF_SWEEPS = ("SUMMARY.md", "sweep.json", "liverl.lock")


def spec_path(name: str) -> Path:
    return REPOSITORY / "specs" / f"{name}.jsonnet"


LAB = Path(__file__).parent / "specs" / "quickstart.jsonnet"
"""A spec for tests that pin values: it does not move when the real quickstart is tuned."""


def golden_folder(name: str, target: str) -> Path:
    return GOLDEN / name / target
