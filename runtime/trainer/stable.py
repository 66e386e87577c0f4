"""Which checkpoints are whole: the ``STABLE`` marker, written last, and the choice of the one to resume from.

verl calls ``StableMarker.on_save`` through its seam ``trainer.checkpoint_callback_class`` when everything of
``global_step_N`` is on disk. The marker lists every file with its size, so that a truncated or pruned checkpoint is
noticed. Free of torch and verl.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import orjson

from runtime.files import as_umask_says, sync
from runtime.trainer.adapter_checkpoint import complete

MARKER = "STABLE"
LATEST = "latest_checkpointed_iteration.txt"
"""verl's pointer to the newest checkpoint; not written atomically, therefore rewritten by us before a resume."""
KEEP = 3
"""Whole checkpoints kept unless the config says otherwise; older ones go after a newer one has become stable."""

_PREFIX = "global_step_"
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def step_folder(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"{_PREFIX}{step}"


def mark_stable(folder: Path) -> None:
    """Flush every file of a finished checkpoint to disk, and every name on the way to it, then write its marker
    whole: older checkpoints go when this one is marked."""
    sizes: dict[str, int] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or (path.is_file() and path.name != MARKER):
            sync(path)
        if path.is_file() and path.name != MARKER:
            sizes[str(path.relative_to(folder))] = path.stat().st_size
    partial = folder / f".{MARKER}.partial"
    partial.write_bytes(orjson.dumps({"files": sizes}, option=orjson.OPT_INDENT_2) + b"\n")
    sync(partial)
    partial.replace(folder / MARKER)
    for place in (folder, folder.parent, folder.parent.parent):
        sync(place)


def name_true_dtype(model: Path) -> None:
    """Let ``config.json`` of a saved Hugging Face folder say the type its tensors really have.

    verl saves float32 tensors beside a config that says bfloat16 (``fsdp_checkpoint_manager.py``, 0.9.1), and
    transformers would round them when loading. Mixed types are left alone.
    """
    config_file, tensors = model / "config.json", sorted(model.glob("*.safetensors"))
    if not tensors or not config_file.is_file():
        return
    found = {str(entry["dtype"]) for path in tensors for entry in _safetensors_header(path).values()}
    if len(found) != 1 or (name := _DTYPES.get(found.pop())) is None:
        return
    config = orjson.loads(config_file.read_bytes())
    if config.get("dtype", config.get("torch_dtype")) != name:
        config.pop("torch_dtype", None)
        config_file.write_bytes(orjson.dumps({**config, "dtype": name}, option=orjson.OPT_INDENT_2) + b"\n")


def _safetensors_header(path: Path) -> dict[str, Any]:
    """Tensor name -> its description (https://github.com/huggingface/safetensors, "Format")."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = orjson.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


def is_stable(folder: Path) -> bool:
    """Whether the marker is there and every file it names still has its size."""
    try:
        sizes = orjson.loads((folder / MARKER).read_bytes())["files"]
        return bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def stable_steps(checkpoints: Path) -> list[int]:
    """Steps with a whole checkpoint, ascending."""
    return sorted(step for step in _steps(checkpoints) if is_stable(step_folder(checkpoints, step)))


def choose(checkpoints: Path, *, reported: Collection[int]) -> int | None:
    """The step to resume from, or None to start over. ``reported``: steps that have a row in the metrics.

    The newest whole one; but when a kill came between its checkpoint and its row, and the step before is whole too,
    that one: training the step again costs no more than the step that was in flight, and no row is missing.
    """
    steps = stable_steps(checkpoints)
    if not steps:
        return None
    newest = steps[-1]
    if newest not in reported and newest - 1 in steps and newest - 1 in reported:
        return newest - 1
    return newest


def prepare_resume(checkpoints: Path, step: int | None) -> None:
    """Remove everything after ``step`` and everything that is not whole, and point verl at ``step`` (None: at
    nothing)."""
    for other in _steps(checkpoints):
        if step is None or other > step or not is_stable(step_folder(checkpoints, other)):
            shutil.rmtree(step_folder(checkpoints, other), ignore_errors=True)
    pointer = checkpoints / LATEST
    if step is None:
        pointer.unlink(missing_ok=True)
        return
    partial = pointer.with_name(f".{LATEST}.partial")
    partial.write_text(str(step), encoding="ascii")
    partial.replace(pointer)


def prune(checkpoints: Path, *, keep: int = KEEP) -> None:
    """Remove all but the newest ``keep`` whole checkpoints. The marker goes first: what is half removed is not
    stable."""
    for step in stable_steps(checkpoints)[:-keep]:
        (step_folder(checkpoints, step) / MARKER).unlink(missing_ok=True)
        shutil.rmtree(step_folder(checkpoints, step), ignore_errors=True)


def _steps(checkpoints: Path) -> list[int]:
    if not checkpoints.is_dir():
        return []
    numbers = [path.name.removeprefix(_PREFIX) for path in checkpoints.iterdir() if path.name.startswith(_PREFIX)]
    return [int(number) for number in numbers if number.isdigit()]


SAVED: list[Callable[[Path], None]] = []
"""Who in this process wants to hear of every whole checkpoint; called with its folder."""


class StableMarker:
    """verl's checkpoint callback (``verl/trainer/ppo/checkpoint_callback.py``, 0.9.1; found by name, needs no base
    class)."""

    def __init__(self, config: Any = None) -> None:
        # verl's own limit is one above the wish, because verl removes before the newest checkpoint is whole.
        limit = config.trainer.get("max_actor_ckpt_to_keep") if config is not None else None
        self._keep = max(1, int(limit) - 1) if limit else KEEP

    def on_save(
        self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **_context: Any
    ) -> None:
        """Called in the task runner after every file was written. A failure here fails the run: half a checkpoint
        must not pass."""
        del trainer, global_step
        if async_save:
            raise RuntimeError("checkpoints that are still being written cannot be marked: switch async_save off")
        folder = Path(checkpoint_dir)
        name_true_dtype(folder / "actor" / "huggingface")
        complete(folder / "actor")
        as_umask_says(folder)
        mark_stable(folder)
        prune(folder.parent, keep=self._keep)
        for told in SAVED:
            told(folder)
