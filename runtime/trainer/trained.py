"""The trainer's own log-probabilities of a step's trials, token by token, kept beside the trials.

Before an update verl computes them and leaves them in the TransferQueue until the step is over
(``_compute_old_log_prob`` in ``verl/trainer/ppo/v1/trainer_base.py``, 0.9.1). The adapter next to the trainer takes
them from there when it has sent the step's weights. Where finished trials wait for their turn (the asynchronous modes)
not every trial has them yet, and none are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transfer_queue as tq

from runtime.run_paths import RunPaths
from runtime.telemetry.trained_file import write_trained

log = logging.getLogger(__name__)

_PARTITION = "train"
_FIELDS = ["old_log_probs", "extra_fields"]


async def keep_trained(step: int) -> None:
    """Write those of the trials of ``step`` that are kept. Nothing that fails here fails the run."""
    folder = RunPaths.of_process().trials / str(step)
    if not folder.is_dir():
        return
    try:
        held: Mapping[str, Mapping[str, Any]] = (await tq.async_kv_list(_PARTITION) or {}).get(_PARTITION, {})
        keys = [key for key, tag in held.items() if "response_len" in tag and not tag.get("is_padding")]
        if keys:
            data = await tq.async_kv_batch_get(keys=keys, partition_id=_PARTITION, select_fields=_FIELDS)
            extras = [getattr(one, "data", one) for one in data["extra_fields"]]
            _write(folder, keys, data["old_log_probs"].unbind(), extras)
    except Exception as error:
        log.warning("the trainer's log-probabilities of step %d are not kept: %s", step, error)


def _write(folder: Path, keys: list[str], logprobs: Any, extras: list[Mapping[str, Any]]) -> None:
    rows = [
        {"trial_id": extra["trial_id"], "sample": int(key.rpartition("_")[2]), "logprobs": values.float().tolist()}
        for key, values, extra in zip(keys, logprobs, extras, strict=True)
        if (name := extra.get("trial_id")) and (folder / name).is_dir()
    ]
    write_trained(folder, rows)
