"""The file of a step's trials that holds the trainer's log-probabilities: one row for each sample.

Rows lie sorted in small groups, so that those of one trial are found without reading the others'. Whoever reads a trial
without such a file does not load the library of it, which takes longer than the trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FILE = "trainer.parquet"
"""In ``trials/STEP/``."""
_GROUP = 8


def write_trained(step_folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the file whole. A row: ``trial_id``, ``sample`` (its number) and ``logprobs``, one for each response
    token."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("trial_id", pa.string()), ("sample", pa.int32()), ("logprobs", pa.list_(pa.float32()))])
    ordered = sorted(rows, key=lambda row: (row["trial_id"], row["sample"]))
    partial = step_folder / f".{FILE}.partial"
    pq.write_table(pa.Table.from_pylist(ordered, schema=schema), partial, compression="zstd", row_group_size=_GROUP)
    partial.replace(step_folder / FILE)


def trained_logprobs(step_folder: Path, trial_id: str) -> dict[int, list[float]]:
    """Sample number -> one value for each response token; empty where none were kept or they cannot be read."""
    path = step_folder / FILE
    if not path.is_file():
        return {}
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: dict[int, list[float]] = {}
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                known = file.metadata.row_group(group).column(0).statistics
                if known is not None and known.has_min_max and not known.min <= trial_id <= known.max:
                    continue
                table = file.read_row_group(group)
                for number, name in enumerate(table["trial_id"].to_pylist()):
                    if name == trial_id:
                        found[table["sample"][number].as_py()] = table["logprobs"][number].as_py()
    except (OSError, KeyError, pa.ArrowException):
        return {}
    return found
