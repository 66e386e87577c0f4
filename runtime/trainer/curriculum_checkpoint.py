"""The curriculum in a checkpoint of verl's, looked at before a trainer is started on it.

The trainer would refuse it as well, after minutes and as an error of a data set's. Knows where verl keeps the state of
its data loader (``data.pt``, 0.9.1); not what a curriculum draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime.run_paths import RunPaths
from runtime.trainer.curriculum import check_tasks

_FIELDS = {"tasks", "trials", "sets"}


def check_curriculum(checkpoint: Path, paths: RunPaths) -> None:
    """Raise ``OtherTasks`` where the run would go on with a curriculum of other tasks. What cannot be read is left to
    the trainer."""
    import pyarrow.parquet as parquet

    file, data = checkpoint / "data.pt", paths.data / "train.parquet"
    if not file.is_file() or not data.is_file():
        return
    rows = parquet.read_table(data, columns=["extra_info"]).column("extra_info").to_pylist()
    tasks = [(str(row["task_set"]), str(row["task_id"])) for row in rows]
    for state in _states(_loaded(file)):
        check_tasks(state, tasks)


def _loaded(file: Path) -> Any:
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # of pickle, zip or torch, as it is torn: the trainer says what is wrong with it
        return None


def _states(value: Any) -> Iterator[Mapping[str, Any]]:
    """Those of a curriculum, wherever torchdata has put them."""
    if isinstance(value, Mapping):
        if value.keys() >= _FIELDS:
            yield value
        else:
            for inner in value.values():
                yield from _states(inner)
