"""Announces which images of tasks the next steps will want, in the order in which verl's sampler gives tasks out, so
that a store without room for all removes what is wanted last (``runtime/oci/store.py``).

verl draws an order of all tasks per epoch from a generator with the run's seed; the same draws are made here. Upstream:
``create_rl_sampler`` of ``verl/trainer/ppo/utils.py`` and torchdata's ``RandomSampler``, verl 0.9.1. Where a task comes
that was not expected (another sampler, a run resumed in the middle of an epoch), the order goes on from its next place.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from runtime.files import write_whole
from runtime.sandboxes import IMAGE_ORDER

EPOCHS = 2
"""The present one and the next: what is wanted after that is as good as last."""


def draws(count: int, *, shuffle: bool, seed: int | None, epochs: int) -> list[int]:
    """Numbers of tasks in the order of ``epochs`` epochs; empty where verl draws what nobody can know."""
    if not shuffle:
        return list(range(count)) * epochs
    if seed is None:
        return []
    import torch

    generator = torch.Generator()
    generator.manual_seed(seed)
    return [one for _ in range(epochs) for one in torch.randperm(count, generator=generator).tolist()]


class ImageOrder:
    """images: digest of each task's image, by the task's number in the file of the data; empty: it has none."""

    def __init__(self, run: Path, images: Sequence[str], *, shuffle: bool, seed: int | None) -> None:
        self._file = run / IMAGE_ORDER
        self._images = images
        self._shuffle, self._seed = shuffle, seed
        self._place = 0
        self._epochs = EPOCHS
        self._draw()

    @classmethod
    def of(cls, run: Path, *, shuffle: bool, seed: int | None) -> ImageOrder | None:
        """None where no task has an image."""
        path = run / "data" / "train.parquet"
        if not path.exists():
            return None
        rows = pq.read_table(path, columns=["extra_info"]).to_pylist()
        images = [str(row["extra_info"].get("image") or "") for row in rows]
        return cls(run, images, shuffle=shuffle, seed=seed) if len(set(images) - {""}) > 1 else None

    def given_out(self, numbers: Sequence[int]) -> None:
        """The sampler has given these tasks out: from now on what comes after them is wanted, and they themselves."""
        for number in numbers:
            with contextlib.suppress(ValueError):
                self._place = self._order.index(number, self._place, self._place + len(self._images)) + 1
        if len(self._order) - self._place < len(self._images) and self._order:
            self._epochs += 1
            self._draw()
        wanted = (self._images[number] for number in (*numbers, *self._order[self._place :]))
        write_whole(self._file, json.dumps(list(dict.fromkeys(filter(None, wanted)))).encode())

    def _draw(self) -> None:
        self._order = draws(len(self._images), shuffle=self._shuffle, seed=self._seed, epochs=self._epochs)
