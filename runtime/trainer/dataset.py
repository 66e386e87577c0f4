"""The parquet files that verl's dataset reads: one row per task, pointing at the task's directory.

The prompt column is what verl shows in its own dumps; the first prompt that is trained on is what the agent sends
through the proxy. Knows nothing of how tasks run. Columns: verl 0.9.1, ``verl/utils/dataset/rl_dataset.py``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runtime.config import RuntimeConfig
from runtime.errors import UserError
from runtime.run_paths import RunPaths
from runtime.task import Task

MAX_ROWS = 2_000_000
"""Of an epoch: each is a row of the file."""


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
    weights = {one.name: one.weight for one in config.train if one.weight is not None}
    # A curriculum keeps the shares of the sets itself.
    shared = train if config.curriculum is not None else mixed(train, weights, config.seed)
    trained = [_row(name, task, None) for name, tasks in shared.items() for task in tasks]
    scored = [_row(name, task, temperatures.get(name)) for name, tasks in validation.items() for task in tasks]
    _write(folder / "train.parquet", trained)
    _write(folder / "val.parquet", scored if config.validation else trained[:1])


def mixed(train: Mapping[str, Sequence[Task]], weights: Mapping[str, float], seed: int) -> dict[str, list[Task]]:
    """Each set's tasks as often as its weight asks for, none less than once; some once more than others where that does
    not come out even, drawn by ``seed``. Without weights: every task once. Sets without a task have no share."""
    shares = {name: weights.get(name, 1.0) for name, tasks in train.items() if tasks}
    if not weights:
        return {name: list(tasks) for name, tasks in train.items()}
    whole = max(len(train[name]) / share for name, share in shares.items())
    rows = whole * sum(shares.values())
    if rows > MAX_ROWS:
        raise UserError(
            f"weights of the training sets: every task once takes {rows:,.0f} prompts an epoch, "
            f"more than {MAX_ROWS:,}; make the weights less unequal, or give the largest set's source a limit"
        )
    found: dict[str, list[Task]] = {}
    for name, share in shares.items():
        times, more = divmod(max(round(whole * share), len(train[name])), len(train[name]))
        drawn = random.Random(f"{seed}:{name}").sample(list(train[name]), more)
        found[name] = list(train[name]) * times + drawn
    return found


def _row(task_set: str, task: Task, temperature: float | None) -> dict[str, Any]:
    image = task.work.image
    return {
        "data_source": task_set,
        "prompt": [{"role": "user", "content": task.instruction}],
        "reward_model": {"style": "rule", "ground_truth": ""},
        "extra_info": {
            "task": str(task.path.absolute()),
            "task_id": task.id,
            "image": image.digest if image is not None else "",
            "image_reference": image.reference if image is not None else "",
            "image_bytes": image.bytes if image is not None else 0,
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
