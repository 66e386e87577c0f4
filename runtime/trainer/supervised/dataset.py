"""The dataset that verl's SFT trainer is given (``data.custom_cls``): its rows are packs of demonstrations.

Upstream: ``verl/trainer/sft_trainer.py`` (``create_sft_dataset``), 0.9.1. A row is a view of three arrays: reading one
costs microseconds. Knows nothing of models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.trainer.supervised import table
from runtime.trainer.supervised.packing import pack


class Packs(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """``position_ids`` begin anew with every demonstration of a pack; its first token is never scored, because nothing
    comes before it."""

    def __init__(
        self, parquet_files: str, tokenizer: Any, config: Any, processor: Any = None, max_samples: int = -1
    ) -> None:
        del tokenizer, processor, max_samples
        held = table.read(Path(parquet_files))
        lengths = held.lengths()
        self.packs = pack(lengths.tolist(), size=int(config.pack_tokens), seed=int(config.seed))
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._ids = held.flat("input_ids").astype(np.int32)
        self._scored = held.flat("loss_mask").astype(np.int8)
        self._scored[self._starts[:-1][lengths > 0]] = 0

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        spans = [(int(self._starts[one]), int(self._starts[one + 1])) for one in self.packs[index]]
        return {
            "input_ids": _joined([self._ids[start:end] for start, end in spans]),
            "loss_mask": _joined([self._scored[start:end] for start, end in spans]),
            "position_ids": _joined([np.arange(end - start) for start, end in spans]),
        }


def _joined(parts: list[Any]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))
