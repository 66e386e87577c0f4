"""The head of a run's page: how it stands, how well it solves, what its lamps say. Reads its directory; who owns it and
whether that lives is told from outside."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import orjson

from runtime.report.curves import HELD_OUT, TRAIN, derived
from runtime.report.health import lamps
from runtime.run_paths import RunPaths
from runtime.telemetry.metrics import Row
from runtime.telemetry.progress import time_left
from runtime.telemetry.scores import idle_words
from runtime.telemetry.summary import failure_counts, time_by_part

_RECORD = (
    *("run", "experiment", "target", "kind", "host", "start", "end", "exit_code", "exit_cause", "spec", "options"),
    *("resumed", "phases", "tasks"),
)


def overview(
    paths: RunPaths,
    rows: Sequence[Row],
    *,
    record: Mapping[str, Any],
    state: str,
    seconds: float,
    total_steps: int,
) -> dict[str, Any]:
    """Ready for JSON. ``record``: the content of ``run.json``; ``state``: it, or ``lost``."""
    listed = list(rows)
    alive = state in ("pending", "running")
    status = _status(paths)
    step = max([listed[-1].step if listed else 0, int(status.get("step") or 0) if alive else 0])
    return {
        **{key: record.get(key) for key in _RECORD},
        "left_out": len(record.get("left_out") or ()),
        "state": state,
        "seconds": round(seconds, 1),
        "step": step,
        "total_steps": total_steps,
        "time_left": time_left(listed, total_steps) if alive else None,
        "activity": status if alive else {},
        "scores": scores(listed, counts=record.get("tasks") or {}),
        "baselines": _baselines(paths),
        "warning": idle_words(listed),
        "failures": failure_counts(listed),
        "time_by_part": time_by_part(listed, dict(record.get("phases") or {})),
        "lamps": [asdict(lamp) for lamp in lamps(listed, alive=alive, silent_sec=silent_sec(paths))],
    }


def scores(rows: Sequence[Row], *, counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Solve rates: first and newest, each with its step and interval; training first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        data = derived(row, counts=counts)
        for key, value in data.items():
            if (key == TRAIN or key.startswith(HELD_OUT)) and not key.endswith(("/low", "/high")):
                point = {
                    "step": row.step,
                    "rate": value,
                    "low": data.get(f"{key}/low"),
                    "high": data.get(f"{key}/high"),
                }
                found.setdefault(key, []).append(point)
    return [
        {
            "name": "training" if key == TRAIN else key.removeprefix(HELD_OUT),
            "held_out": key != TRAIN,
            "tasks": counts.get(key.removeprefix(HELD_OUT)) if key != TRAIN else None,
            "first": found[key][0],
            "last": found[key][-1],
        }
        for key in sorted(found, key=lambda key: (key != TRAIN, key))
    ]


def silent_sec(paths: RunPaths) -> float | None:
    """Seconds since the run wrote a row, its status or its trainer's log."""
    ages = []
    for path in (paths.metrics, paths.status, paths.trainer_log):
        with suppress(OSError):
            ages.append(time.time() - path.stat().st_mtime)
    return min(ages, default=None)


def _status(paths: RunPaths) -> dict[str, Any]:
    try:
        found = orjson.loads(paths.status.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _baselines(paths: RunPaths) -> list[dict[str, Any]]:
    try:
        found = orjson.loads(paths.baselines.read_bytes())
        return [{"name": str(row["name"]), "rate": float(row["rate"])} for row in found["rows"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
