"""Rows of ``metrics.jsonl`` as a run's writers leave them."""

from collections.abc import Mapping
from pathlib import Path

from runtime.trainer.rows import RowWriter


def append_row(path: Path, step: int, data: Mapping[str, float]) -> None:
    writer = RowWriter(path)
    writer.write(step, data)
    writer.close()
