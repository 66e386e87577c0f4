"""The parquet files that verl's dataset reads: one row per task, pointing at the task's directory.

The prompt column is what verl shows in its own dumps; the first prompt that is trained on is what the agent sends
through the proxy. Knows nothing of how tasks run. Columns: verl 0.9.1, ``verl/utils/dataset/rl_dataset.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runtime.config import RuntimeConfig
from runtime.errors import UserError
from runtime.run_paths import RunPaths
from runtime.task import Task


def write_dataset(
    run: Path,
    config: RuntimeConfig,
    train: Mapping[str, Sequence[Task]],
    validation: Mapping[str, Sequence[Task]],
) -> None:
    """Write ``data/train.parquet`` and ``data/val.parquet`` (each whole) from task set name -> tasks.

    ``data_source`` is the set's name, so that scores appear as ``val-core/<name>/reward/mean@1``; a validation set's
    own temperature rides in ``extra_info``. A spec without validation sets still gets a second file, of one training
    task: verl reads it, and with such a spec never scores it. Raises ``UserError`` when there is no training task, or
    none of the validation sets has one.
    """
    folder = RunPaths(run).data
    folder.mkdir(parents=True, exist_ok=True)
    temperatures = {one.name: one.temperature for one in config.validation}
    trained = [_row(name, task, None) for name, tasks in train.items() for task in tasks]
    scored = [_row(name, task, temperatures.get(name)) for name, tasks in validation.items() for task in tasks]
    _write(folder / "train.parquet", trained)
    _write(folder / "val.parquet", scored if config.validation else trained[:1])


def _row(task_set: str, task: Task, temperature: float | None) -> dict[str, Any]:
    return {
        "data_source": task_set,
        "prompt": [{"role": "user", "content": task.instruction}],
        "reward_model": {"style": "rule", "ground_truth": ""},
        "extra_info": {
            "task": str(task.path.absolute()),
            "task_id": task.id,
            "image": task.work.image.digest if task.work.image is not None else "",
            "task_set": task_set,
            # verl requires every row to have the same fields: -1 stands for "the rollout's own".
            "temperature": -1.0 if temperature is None else float(temperature),
        },
    }


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    if not rows:
        raise UserError(f"{path.stem}: no usable task is left; check the task sources named in the spec")
    for index, row in enumerate(rows):
        row["extra_info"]["index"] = index
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(pa.Table.from_pylist(rows), partial)
    partial.replace(path)
