"""Where the processes of a run on GPUs meet: addresses of its inference servers, the socket that weights take, and its
GPUs.

Knows names and files only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.run_paths import RAY_DIR

ADDRESS, CARDS = ".url", "gpus.json"
"""Files below ``RunPaths.engines``."""
ENGINE = "engine"
"""The kind of process that imports ahead."""


def addresses(engines: Path) -> Mapping[str, str]:
    """Name -> URL of every inference server that listens."""
    return {path.stem: path.read_text(encoding="ascii") for path in sorted(engines.glob(f"*{ADDRESS}"))}


def keep_cards(engines: Path, variables: Mapping[str, str]) -> None:
    """Which GPUs this start of the trainer takes (``cards.taken``)."""
    (engines / CARDS).write_text(json.dumps(dict(variables)), encoding="utf-8")


def cards(engines: Path) -> Mapping[str, str]:
    """The variables that were kept; none where none were."""
    try:
        found: dict[str, str] = json.loads((engines / CARDS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def servers(tree: Mapping[str, Any]) -> int:
    """How many inference servers a ``verl.yaml`` asks for, where all of them are on one machine; else 0."""
    trainer, policy = tree["trainer"], tree["actor_rollout_ref"]
    rollout = policy["rollout"]
    if max(trainer["nnodes"], rollout["nnodes"]) > 1:
        return 0
    gpus = (trainer if policy.get("hybrid_engine", True) else rollout)["n_gpus_per_node"]
    return int(gpus // rollout["tensor_model_parallel_size"])


def in_run(handle: str) -> str:
    """verl's ``ipc:///tmp/NAME`` in the folder of this run's Ray. verl names the socket by Ray's job, and every run's
    own Ray calls its job the first: two runs of one machine would meet there."""
    return handle.replace("ipc:///tmp/", f"ipc://{os.environ[RAY_DIR]}/", 1)
