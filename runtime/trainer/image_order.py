"""Announces which images of tasks the next steps will want, in the order in which tasks will be given out: a store
without room for all removes what is wanted last (``runtime/oci/store.py``), and images are fetched ahead in that order.

Of a curriculum it is what would come if no further group ended. Otherwise verl draws an order of all tasks per epoch
from a generator with the run's seed; the same draws are made here. Upstream: ``create_rl_sampler`` of
``verl/trainer/ppo/utils.py`` and torchdata's ``RandomSampler``, verl 0.9.1. Where a task comes that was not expected
(another sampler, a run resumed in the middle of an epoch), the order goes on from its next place.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path

import pyarrow.parquet as pq

from runtime.files import write_whole
from runtime.sandboxes import IMAGE_ORDER
from runtime.sandboxes.ahead import Wanted

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
    """images: of each task, by its number in the file of the data; None: it has none. foretold: numbers of the tasks
    that come next, at most so many, where it is not verl's sampler that draws."""

    def __init__(
        self,
        run: Path,
        images: Sequence[Wanted | None],
        *,
        shuffle: bool,
        seed: int | None,
        foretold: Callable[[int], Sequence[int]] | None = None,
    ) -> None:
        self._file = run / IMAGE_ORDER
        self._foretold = foretold
        self._images = images
        self._shuffle, self._seed = shuffle, seed
        self._place = 0
        self._epochs = EPOCHS
        self._draw()

    @classmethod
    def of(
        cls, run: Path, *, shuffle: bool, seed: int | None, foretold: Callable[[int], Sequence[int]] | None = None
    ) -> ImageOrder | None:
        """None where no task has an image."""
        path = run / "data" / "train.parquet"
        if not path.exists():
            return None
        rows = pq.read_table(path, columns=["extra_info"]).to_pylist()
        infos = [row["extra_info"] for row in rows]
        images = [
            Wanted(info["image"], info["image_reference"], info["image_bytes"]) if info.get("image") else None
            for info in infos
        ]
        several = len({one.digest for one in images if one is not None}) > 1
        return cls(run, images, shuffle=shuffle, seed=seed, foretold=foretold) if several else None

    def given_out(self, numbers: Sequence[int]) -> None:
        """The sampler has given these tasks out: from now on what comes after them is wanted, and they themselves."""
        if self._foretold is not None:
            self._announce(numbers, self._foretold(EPOCHS * len(self._images)))
            return
        for number in numbers:
            with contextlib.suppress(ValueError):
                self._place = self._order.index(number, self._place, self._place + len(self._images)) + 1
        if len(self._order) - self._place < len(self._images) and self._order:
            self._epochs += 1
            self._draw()
        self._announce(numbers, self._order[self._place :])

    def _announce(self, given_out: Sequence[int], coming: Sequence[int]) -> None:
        now = dict.fromkeys(one for number in given_out if (one := self._images[number]) is not None)
        later = dict.fromkeys(one for number in coming if (one := self._images[number]) is not None and one not in now)
        said = {"now": [astuple(one) for one in now], "coming": [astuple(one) for one in later]}
        write_whole(self._file, json.dumps(said).encode())

    def _draw(self) -> None:
        self._order = draws(len(self._images), shuffle=self._shuffle, seed=self._seed, epochs=self._epochs)
