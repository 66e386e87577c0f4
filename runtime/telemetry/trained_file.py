"""The file of a step's trials that holds the trainer's log-probabilities: one row for each sample."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FILE = "trainer.parquet"
"""In ``trials/STEP/``."""
SCHEMA = pa.schema(
    [("trial_id", pa.string()), ("sample", pa.int32()), ("logprobs", pa.list_(pa.float32()))],
)


def trained_logprobs(step_folder: Path, trial_id: str) -> dict[int, list[float]]:
    """Sample number -> one value for each response token; empty where none were kept or they cannot be read."""
    try:
        table = pq.read_table(step_folder / FILE, schema=SCHEMA, filters=[("trial_id", "=", trial_id)])
    except (OSError, pa.ArrowException):
        return {}
    return {row["sample"]: row["logprobs"] for row in table.to_pylist()}
