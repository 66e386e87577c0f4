"""Where the processes of a run on GPUs meet: addresses of its inference servers, the socket that weights take, and its
GPUs.

Knows names and files only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from runtime.run_paths import RAY_DIR

ADDRESS, CARDS = ".url", "gpus.json"
"""Files below ``RunPaths.engines``."""


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


def in_run(handle: str) -> str:
    """verl's ``ipc:///tmp/NAME`` in the folder of this run's Ray. verl names the socket by Ray's job, and every run's
    own Ray calls its job the first: two runs of one machine would meet there."""
    return handle.replace("ipc:///tmp/", f"ipc://{os.environ[RAY_DIR]}/", 1)
