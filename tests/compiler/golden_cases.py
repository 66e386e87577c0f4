"""Which specs are pinned for which targets, and what they compile to: the one table that the golden test, the refresh
command and every test on compiled examples share."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from compiler import compile_all, compile_in_memory

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
    ("one-gpu", "local"),
    ("one-gpu", "ray"),
    ("one-gpu-real", "local"),
    ("quickstart-ppo", "local"),
    ("real-repos", "local"),
    *((name, target) for name in ("dense-8gpu", "ppo-8gpu") for target in TARGETS),
    *((name, target) for name in ("moe-async", "moe-megatron") for target in ("local", "k8s", "ray")),
    ("spot-ec2", "skypilot"),  # the other targets cannot tell its sandboxes where the model is
    *(("quickstart-site", target) for target in TARGETS),
]
SWEEPS = [("sweep", target) for target in TARGETS]
"""Sweeps, of which a page and an index are shown and every byte of every point is pinned by its digest."""

NAMES = tuple(dict.fromkeys(name for name, _ in (*CASES, *SWEEPS)))

LAB = Path(__file__).parent / "specs" / "quickstart.jsonnet"
"""A spec for tests that pin values: it does not move when the real quickstart is tuned."""


def spec_path(name: str) -> Path:
    return REPOSITORY / "specs" / f"{name}.jsonnet"


def targets_of(name: str) -> list[str]:
    return [target for one, target in (*CASES, *SWEEPS) if one == name]


@cache
def case_files(name: str, target: str) -> Mapping[str, str]:
    """Every file of a case's bundle, compiled once per process; of a sweep, its points' files as ``POINT/FILE``.

    ``test_golden`` proves that these are the pinned bytes."""
    if (name, target) not in SWEEPS:
        return compile_in_memory(spec_path(name), target=target).files
    with tempfile.TemporaryDirectory() as scratch:
        compiled = compile_all(spec_path(name), target=target, out=Path(scratch) / name).folder
        assert compiled is not None
        return folder_files(compiled)


def folder_files(folder: Path) -> dict[str, str]:
    """Every file below ``folder``: its path there -> its text, not a byte translated."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes().decode() for path in paths}
