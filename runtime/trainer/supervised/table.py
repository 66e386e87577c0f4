"""Demonstrations as they are read: a Parquet file as ``runtime.demonstrations.table`` writes it, or rows of the same
columns. Free of torch and verl."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from runtime import suggest
from runtime.demonstrations.table import SCHEMA, TOKENIZER
from runtime.errors import UserError


@dataclass(frozen=True)
class Demonstrations:
    """``table`` has the columns of ``SCHEMA``. ``tokenizer``: digest of the one that made the tokens, where the file
    says so."""

    table: Any
    tokenizer: str | None = None

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def texts(self, name: str) -> list[str]:
        return [text or "" for text in self.table.column(name).to_pylist()]

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each."""
        return np.concatenate([np.diff(one.offsets.to_numpy()) for one in _chunks(self.table, "input_ids")] or [_NONE])

    def flat(self, name: str) -> npt.NDArray[Any]:
        """All values of a list column, one demonstration after the other."""
        return np.concatenate([one.flatten().to_numpy() for one in _chunks(self.table, name)] or [_NONE])

    def where(self, keep: npt.NDArray[np.bool_]) -> Demonstrations:
        return Demonstrations(self.table.filter(pa.array(keep)))

    def write(self, path: Path) -> None:
        partial = path.with_name(f".{path.name}.partial")
        # Token ids do not repeat: a dictionary of them costs time and saves nothing.
        words = ["package", "kind", "task"]
        pq.write_table(self.table, partial, use_dictionary=words, compression="zstd", compression_level=1)
        partial.replace(path)


_NONE = np.zeros(0, np.int64)


def _chunks(table: Any, name: str) -> Iterator[Any]:
    for chunk in table.column(name).chunks:
        # A slice of an array keeps the offsets of the whole.
        yield pa.concat_arrays([chunk])


def read(path: Path) -> Demonstrations:
    """Raises ``UserError`` when the file is not there or is no file of demonstrations."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: no file of demonstrations: {str(error).splitlines()[0]}") from None
    missing = [name for name in SCHEMA.names if name not in table.schema.names]
    if missing:
        raise UserError(
            f"{path}: no file of demonstrations: it lacks {', '.join(missing)};"
            f" `{suggest.liverl('tasks', 'demonstrate')}` makes one"
        )
    tokenizer = (table.schema.metadata or {}).get(TOKENIZER)
    try:
        table = table.select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"{path}: a column of another type: {str(error).splitlines()[0]}") from None
    found = Demonstrations(table, tokenizer.decode() if tokenizer else None)
    if any(one.flatten().null_count for name in ("input_ids", "loss_mask") for one in _chunks(table, name)):
        raise UserError(f"{path}: input_ids or loss_mask of a row has no value in a place")
    masks = np.concatenate([np.diff(one.offsets.to_numpy()) for one in _chunks(table, "loss_mask")] or [_NONE])
    if not np.array_equal(found.lengths(), masks):
        raise UserError(f"{path}: input_ids and loss_mask of a row differ in length")
    if len(values := found.flat("loss_mask")) and not 0 <= values.min() <= values.max() <= 1:
        raise UserError(
            f"{path}: loss_mask is {values.min()} to {values.max()}; allowed: 0, and 1 where the policy writes"
        )
    return found


def of_rows(rows: Sequence[dict[str, Any]]) -> Demonstrations:
    return Demonstrations(pa.Table.from_pylist(list(rows), schema=SCHEMA))


def joined(parts: Sequence[Demonstrations]) -> Demonstrations:
    return Demonstrations(pa.concat_tables([part.table for part in parts]))
