"""How far the start of the trainer has come: processes say what they have reached, a display shows it line by line.

Knows no device; which stages there are is the platform's business.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from runtime.run_paths import RUN_DIR, RunPaths

_RAY_WORKER, _RANK = "RAY_RAYLET_PID", "RANK"
"""Ray's workers have the one, verl's workers the other too. The first worker that imports verl is the task runner."""


@dataclass(frozen=True)
class Stage:
    """``seconds`` count from the trainer's start."""

    name: str
    seconds: float


def begin(paths: RunPaths) -> None:
    """Another start begins: what an earlier one had reached no longer counts."""
    paths.logs.mkdir(parents=True, exist_ok=True)
    paths.startup.write_bytes(orjson.dumps({"time": time.time()}) + b"\n")


def reached(name: str) -> None:
    """This process has come so far. Said by several processes, the first one counts; nothing outside a run."""
    if RUN_DIR not in os.environ:
        return
    line = orjson.dumps({"stage": name, "time": time.time()}) + b"\n"
    try:
        file = os.open(RunPaths.of_process().startup, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        return
    try:
        os.write(file, line)
    finally:
        os.close(file)


def imported() -> None:
    """This process of verl's, whichever it is, has imported verl."""
    reached("verl")
    if _RAY_WORKER in os.environ:
        reached("the trainer's process" if _RANK in os.environ else "the task runner")


def stages(file: Path) -> Sequence[Stage]:
    """What has been reached so far, in order."""
    try:
        lines = [orjson.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]
    except OSError:
        return []
    found: dict[str, float] = {}
    for line in lines[1:]:
        found.setdefault(line["stage"], line["time"] - lines[0]["time"])
    return [Stage(name, seconds) for name, seconds in found.items()]
