"""Whether the trainer learns at all: a gradient that is no number makes verl skip its optimizer step and go on.

One such step may be bad luck; several in a row say that loss or weights are broken, and all further ones are wasted.
Reads the rows that verl's file logger writes, in which such a number is null. Upstream: ``optimizer_step`` of
``verl/workers/engine/fsdp/transformer_impl.py``, 0.9.1.
"""

from __future__ import annotations

from pathlib import Path

import orjson

MOST = 3
"""Steps in a row in which an update was skipped."""
_NORMS = ("actor/grad_norm", "critic/grad_norm")
_TAIL_BYTES = 1 << 17
"""More than so many rows take."""


class SkippedUpdates:
    """``rows``: the file of this start's trainer. Where verl writes none, nobody can tell."""

    def __init__(self, rows: Path) -> None:
        self._rows = rows
        self._size = 0
        self._why: str | None = None

    def why_stop(self) -> str | None:
        """A reason to end the run in words for people; None while there is none. May be asked once a second."""
        try:
            size = self._rows.stat().st_size
            if size == self._size:
                return self._why
            with self._rows.open("rb") as stream:
                stream.seek(max(0, size - _TAIL_BYTES))
                tail = stream.read()
        except OSError:
            return self._why
        self._size = size
        newest = [row for line in tail.splitlines() if (row := _trained(line)) is not None][-MOST:]
        self._why = None
        for name in _NORMS:
            if len(newest) == MOST and all(name in data and data[name] is None for _, data in newest):
                self._why = (
                    f"steps {newest[0][0]} to {newest[-1][0]} updated nothing or only in part: {name} was no number, "
                    "and such an update is skipped; lower the learning rate, or go back to an earlier checkpoint"
                )
        return self._why


def _trained(line: bytes) -> tuple[int, dict[str, object]] | None:
    """A step with an update; None for other rows, and for what a cut has left of one."""
    try:
        row = orjson.loads(line)
        data = row["data"]
        return (int(row["step"]), data) if any(name in data for name in _NORMS) else None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
