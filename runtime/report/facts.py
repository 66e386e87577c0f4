"""What the rules of diagnosis look at, read once from a run directory.

Knows files; what they mean for a run's health is ``diagnosis``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import yaml

from runtime.report.trials import TrialIndex
from runtime.run_paths import RunPaths
from runtime.telemetry.metrics import Row

_TAIL = 256 << 10
_LOOKED_AT = 8
"""Trials of the newest step whose tokens are read."""


@dataclass(frozen=True)
class Facts:
    """``counts``: tasks by set. ``status``: what the run does now. ``quiet_sec``: since the newest row or finished
    trial. ``starting_sec``: since the trainer's start, where it has not got beyond that; ``engines``: whether an
    inference server has registered. ``batch``: trials that a training step should have. ``staleness_bound``: the
    configured one. ``silent_logprobs``: (trials of the newest step whose policy tokens all have log-probability 0,
    trials looked at)."""

    rows: Sequence[Row] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    alive: bool = False
    status: Mapping[str, Any] = field(default_factory=dict)
    status_age_sec: float | None = None
    quiet_sec: float | None = None
    starting_sec: float | None = None
    engines: bool = True
    log: str = ""
    cause: str = ""
    disk_used: float | None = None
    batch: int | None = None
    staleness_bound: float | None = None
    silent_logprobs: tuple[int, int] = (0, 0)

    def values(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of one metric."""
        return [(row.step, row.data[key]) for row in self.rows if key in row.data]

    @property
    def trained(self) -> list[Row]:
        """Rows of training steps."""
        return [row for row in self.rows if "critic/score/mean" in row.data]


def gather(
    paths: RunPaths, rows: Sequence[Row], *, counts: Mapping[str, int], alive: bool, cause: str, index: TrialIndex
) -> Facts:
    """Everything from the directory. What is missing is left at what says nothing."""
    config = _config(paths.verl_yaml)
    status, status_age = _json(paths.status), _age(paths.status)
    newest = index.rows(sort="started", descending=True, limit=1)
    ended = [row.started + (row.seconds or 0.0) for row in newest if row.started]
    quiet = [age for age in (_age(paths.metrics), *(time.time() - one for one in ended)) if age is not None]
    start, stages = _startup(paths.startup)
    return Facts(
        rows=rows,
        counts=counts,
        alive=alive,
        status=status,
        status_age_sec=status_age,
        quiet_sec=min(quiet, default=None),
        starting_sec=time.time() - start if start and alive and not rows else None,
        engines=any(stages) or (paths.engines.is_dir() and any(paths.engines.glob("*.url"))),
        log=_tail(paths.trainer_log),
        cause=cause,
        disk_used=_disk(paths.path),
        batch=_product(config.get("data.train_batch_size"), config.get("actor_rollout_ref.rollout.n")),
        staleness_bound=config.get("trainer.v1.sampler.max_off_policy_threshold"),
        silent_logprobs=_silent(index),
    )


def _silent(index: TrialIndex) -> tuple[int, int]:
    silent = looked = 0
    newest = index.rows(sort="step", descending=True, limit=_LOOKED_AT)
    for row in newest:
        for sample in _json(index.folder(row) / "trajectory.json").get("samples") or ():
            with suppress(KeyError, TypeError, ValueError):
                own = [p for p, mask in zip(sample["response_logprobs"], sample["response_mask"], strict=True) if mask]
                # A greedy or certain reply may have one or two zeros; a whole conversation has not.
                if len(own) >= 3:
                    looked += 1
                    silent += not any(own)
    return silent, looked


def _startup(file: Path) -> tuple[float | None, list[str]]:
    try:
        lines = [orjson.loads(line) for line in file.read_bytes().splitlines()]
        return float(lines[0]["time"]), [str(line["stage"]) for line in lines[1:]]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None, []


def _config(file: Path) -> dict[str, float]:
    """The numbers of verl's configuration by dotted path."""
    try:
        # The C parser where PyYAML has it: the page asks again at every change.
        loaded = yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return {}
    found: dict[str, float] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else str(key))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[path] = value

    walk(loaded, "")
    return found


def _product(one: float | None, other: float | None) -> int | None:
    return int(one * (other or 1)) if one else None


def _json(file: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _age(file: Path) -> float | None:
    try:
        return time.time() - file.stat().st_mtime
    except OSError:
        return None


def _tail(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - _TAIL))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def _disk(path: Path) -> float | None:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return 1.0 - usage.free / usage.total if usage.total else None
