"""Metric rows of several writers, merged into ``metrics.jsonl`` exactly once per step, whatever was killed in between.

Each writer of each start of the trainer appends to a file of its own (verl's file logger truncates the file that it
opens). Merging is a pure function of those files, so it can be repeated at any moment: per step the newest start wins,
and within it the rows of all writers are joined. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from runtime.files import write_whole

TRAINER = "verl"
"""The writer whose rows decide which steps exist."""

_FILE = re.compile(r"(?P<source>[a-z]+)-(?P<attempt>\d+)\.jsonl")
_TRAINED = "training/global_step"
"""Key that verl writes after an update and not after a mere validation."""


class RowWriter:
    """Appends whole lines ``{"step": N, "data": {...}}``; a line is one write, so that a reader never sees half of
    one but the last."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def write(self, step: int, data: Mapping[str, Any]) -> None:
        self._file.write(orjson.dumps({"step": step, "data": dict(data)}, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")

    def close(self) -> None:
        self._file.close()


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Complete rows of one file; a torn last line (the writer was killed) ends it silently."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for line in content[: content.rfind(b"\n") + 1].splitlines():
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and isinstance(row.get("data"), dict):
            yield row["step"], row["data"]


def merge_rows(folder: Path) -> dict[int, dict[str, Any]]:
    """Step -> joined data, steps ascending. A step has a row as soon as verl wrote one; our own rows alone make none.

    The newest start of the trainer that completed a step has the word on it. The exception is the step that a resume
    starts from, which is scored again but not trained again: there the newer numbers are laid over the older ones.
    """
    attempts: dict[int, dict[str, Path]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        if match := _FILE.fullmatch(path.name):
            attempts.setdefault(int(match["attempt"]), {})[match["source"]] = path
    merged: dict[int, dict[str, Any]] = {}
    for attempt in sorted(attempts):
        for step, data in _joined(attempts[attempt]).items():
            trained = _TRAINED in data
            merged[step] = data if trained else {**merged.get(step, {}), **data}
    return dict(sorted(merged.items()))


def _joined(files: Mapping[str, Path]) -> dict[int, dict[str, Any]]:
    """Rows of one start: verl's, with the other writers' rows of the same step beside them."""
    rows: dict[int, dict[str, Any]] = {}
    if TRAINER in files:
        for step, data in read_rows(files[TRAINER]):
            rows.setdefault(step, {}).update(data)
    for source, path in sorted(files.items()):
        if source == TRAINER:
            continue
        for step, data in read_rows(path):
            if step in rows:
                rows[step].update(data)
    return rows


def write_metrics(folder: Path, target: Path) -> int:
    """Replace ``target`` by the merged rows of ``folder`` (whole, through a temporary file); returns the number of
    rows."""
    merged = merge_rows(folder)
    write_rows(merged, target)
    return len(merged)


def write_rows(rows: Mapping[int, Mapping[str, Any]], target: Path) -> None:
    """Replace ``target`` by ``rows`` (step -> data), whole."""
    lines = [orjson.dumps({"step": step, "data": data}) + b"\n" for step, data in rows.items()]
    write_whole(target, b"".join(lines))
