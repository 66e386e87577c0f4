"""What the supervised stage reports: rows of verl's file logger, one file per start, become ``supervised/rows.jsonl``
in the words of LiveRL's metrics. Free of torch and verl.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.trainer.rows import read_rows, write_rows

NAMES: Mapping[str, str] = {
    "train/loss": "supervised/loss",
    "train/lr": "supervised/learning_rate",
    "train/grad_norm": "supervised/grad_norm",
    "train/mfu": "supervised/mfu",
    "train/global_tokens": "supervised/tokens",
    "timing_s/step": "timing_s/step",
    "timing_s/update": "timing_s/update",
    "perf/max_memory_allocated_gb": "perf/max_memory_allocated_gb",
}
"""verl's name, or our engine's -> ours. Others are not kept."""
SPEED = "supervised/tokens_per_sec"


def merged(folder: Path) -> dict[int, dict[str, float]]:
    """Step -> numbers; of a step that was taken again, the newest."""
    found: dict[int, dict[str, float]] = {}
    for file in sorted(folder.glob("*.jsonl")):
        for step, data in read_rows(file):
            found[step] = _ours(data)
    return dict(sorted(found.items()))


def _ours(data: Mapping[str, Any]) -> dict[str, float]:
    numbers = {}
    for theirs, ours in NAMES.items():
        value = data.get(theirs)
        if isinstance(value, list):  # one of each rank
            value = max(value) if value else None
        if isinstance(value, int | float):
            numbers[ours] = float(value)
    if numbers.get("timing_s/step"):
        numbers[SPEED] = numbers.get("supervised/tokens", 0.0) / numbers["timing_s/step"]
    return numbers


class Follower:
    """Reads the growing files of ``folder`` and keeps ``target`` up to date."""

    def __init__(self, folder: Path, target: Path) -> None:
        self._folder, self._target = folder, target
        self._size = -1
        self.rows: dict[int, dict[str, float]] = {}

    def poll(self) -> bool:
        """True if something came."""
        size = sum(file.stat().st_size for file in self._folder.glob("*.jsonl"))
        if size == self._size:
            return False
        self._size, self.rows = size, merged(self._folder)
        write_rows(self.rows, self._target)
        return bool(self.rows)

    def words(self, steps: int) -> str:
        """How far it is, for people."""
        step, data = next(reversed(self.rows.items()))
        speeds = [one[SPEED] for one in list(self.rows.values())[-10:] if SPEED in one]
        parts = [f"step {step}/{steps}", f"loss {data.get('supervised/loss', float('nan')):.4f}"]
        if speeds:
            parts.append(f"{sum(speeds) / len(speeds):,.0f} tokens/s")
        return "  ".join(parts)
