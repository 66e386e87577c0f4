"""The file of demonstrations: Parquet, a row each, written in groups as they are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from runtime.demonstrations.types import Demonstration

SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.int8())),
        ("package", pa.string()),
        ("kind", pa.string()),
        ("task", pa.string()),
    ]
)
TOKENIZER = b"liverl.tokenizer"
"""In the file's metadata: the digest of the ``tokenizer.json`` that made the tokens, which mean nothing to another."""
GROUP = 4096
"""Rows written together."""


class Table:
    """``out`` appears when the ``with`` block ends well. Counts what is in it."""

    def __init__(self, out: Path, *, tokenizer: str) -> None:
        """``tokenizer``: digest of the model's ``tokenizer.json``."""
        self._out = out
        self._schema = SCHEMA.with_metadata({TOKENIZER: tokenizer})
        self._partial = out.with_name(f".{out.name}.partial")
        self._rows: list[Demonstration] = []
        self.rows = self.tokens = self.trained = 0
        self.kinds: Counter[str] = Counter()
        self.packages: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self._partial.open("wb")  # whose errors name the file, unlike pyarrow's
        self._writer = pq.ParquetWriter(self._stream, self._schema, compression="zstd", compression_level=1)
        return self

    def add(self, demonstrations: Sequence[Demonstration]) -> None:
        for one in demonstrations:
            self.rows += 1
            self.tokens += len(one.input_ids)
            self.trained += sum(one.loss_mask)
            self.kinds[one.kind] += 1
            self.packages[one.package] += 1
        self._rows += demonstrations
        while len(self._rows) >= GROUP:
            self._write(self._rows[:GROUP])
            del self._rows[:GROUP]

    def _write(self, rows: Sequence[Demonstration]) -> None:
        columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
        self._writer.write_table(pa.Table.from_pydict(columns, schema=self._schema))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._rows:
            self._write(self._rows)
        self._writer.close()
        self._stream.close()
        if kind is None:
            self._partial.replace(self._out)
        else:
            self._partial.unlink(missing_ok=True)
