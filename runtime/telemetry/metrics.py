"""Rows of ``metrics.jsonl``: ``{"step": N, "data": {name: number}}``, the format of verl's file logger (verl 0.9.1,
utils/tracking.py).

Several rows may exist for one step (ours beside verl's, or a step that was redone after a resume); readers see one row
per step in which the newest value of each name wins. This module does not know what any name means."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson


@dataclass(frozen=True)
class Row:
    """All numbers of one step, by metric name."""

    step: int
    data: Mapping[str, float] = field(default_factory=dict)


def read_rows(path: Path) -> list[Row]:
    """One row per step, ascending; a missing file is empty, and lines that are cut off or not rows are skipped."""
    reader = Follower(path)
    reader.poll()
    return reader.rows


class Follower:
    """Reads a growing ``metrics.jsonl`` incrementally."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._identity: tuple[int, int] | None = None
        self._steps: dict[int, dict[str, float]] = {}

    @property
    def rows(self) -> list[Row]:
        return [Row(step, dict(data)) for step, data in sorted(self._steps.items())]

    def poll(self) -> bool:
        """Take in what was written since the last call; True if a row came. A replaced or truncated file is read again
        from its start."""
        try:
            with self._path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                if self._identity != (status.st_dev, status.st_ino) or status.st_size < self._offset:
                    self._identity, self._offset = (status.st_dev, status.st_ino), 0
                stream.seek(self._offset)
                content = stream.read()
        except OSError:
            return False
        complete = content[: content.rfind(b"\n") + 1]
        self._offset += len(complete)
        found = [self._take(line) for line in complete.splitlines()]
        return any(found)

    def _take(self, line: bytes) -> bool:
        try:
            row: Any = orjson.loads(line)
            step, data = int(row["step"]), dict(row["data"])
        except (ValueError, TypeError, KeyError):
            return False
        numbers = self._steps.setdefault(step, {})
        for name, value in data.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                numbers[str(name)] = float(value)
        return True


def series(rows: list[Row], name: str) -> list[tuple[int, float]]:
    """(step, value) of one metric, for the steps that have it."""
    return [(row.step, row.data[name]) for row in rows if name in row.data]
