"""Packs of demonstrations: every token once, none beside another's, nothing scored that should not be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.config import DemonstrationFile, SupervisedStage
from runtime.errors import UserError
from runtime.trainer.supervised import table
from runtime.trainer.supervised.packing import pack
from runtime.trainer.supervised.process import length_of

SIZE = 64
LENGTHS = st.lists(st.integers(1, SIZE), max_size=300)


@settings(deadline=None)
@given(LENGTHS, st.integers(0, 5))
def test_every_demonstration_lies_in_one_pack(lengths: list[int], seed: int) -> None:
    packs = pack(lengths, size=SIZE, seed=seed)
    assert Counter(index for one in packs for index in one) == Counter(range(len(lengths)))
    used = [sum(lengths[index] for index in one) for one in packs]
    assert all(0 < total <= SIZE for total in used)
    # No two could have been one but for those that were closed while many were open: first fit.
    assert sum(total <= SIZE // 2 for total in used) <= 1 or len(packs) > 64
    assert packs == pack(lengths, size=SIZE, seed=seed)


def test_short_demonstrations_leave_little_empty() -> None:
    lengths = [50 + (index * 7919) % 1500 for index in range(5000)]
    packs = pack(lengths, size=16384, seed=0)
    assert sum(lengths) / (len(packs) * 16384) > 0.98
    assert packs != pack(lengths, size=16384, seed=1)


def test_what_is_longer_than_a_pack_is_refused() -> None:
    with pytest.raises(ValueError, match="65 tokens"):
        pack([3, 65], size=SIZE, seed=0)


STAGE = SupervisedStage(
    demonstrations=(DemonstrationFile(path="x.parquet"),), tokens_per_batch=4096, tokens_per_pass=1024
)


def test_how_long_a_stage_takes() -> None:
    """As verl counts: batches that are not full are left out of every epoch."""
    whole = length_of(STAGE, packs=11, ranks=1)
    assert (whole.steps, whole.packs) == (2, 4)
    twice = length_of(STAGE.model_copy(update={"epochs": 2}), packs=11, ranks=2)
    assert (twice.steps, twice.packs) == (4, 4)
    assert length_of(STAGE.model_copy(update={"steps": 7}), packs=11, ranks=1).steps == 7
    few = length_of(STAGE, packs=3, ranks=2)
    assert (few.steps, few.packs) == (1, 2)
    with pytest.raises(ValueError, match="1 packs, one for each of 2 ranks"):
        length_of(STAGE, packs=1, ranks=2)


def row(tokens: list[int], scored: list[int], *, task: str = "t") -> dict[str, object]:
    return {"input_ids": tokens, "loss_mask": scored, "package": "toolz", "kind": "op", "task": task}


@pytest.mark.torch
def test_rows_of_the_trainer_are_the_demonstrations(tmp_path: Path) -> None:
    from runtime.trainer.supervised.dataset import Packs

    demonstrations = {(10, 11, 12): (0, 1, 1), (20, 21): (1, 1), (30, 31, 32, 33): (0, 0, 0, 1)}
    file = tmp_path / "d.parquet"
    table.of_rows([row(list(ids), list(mask)) for ids, mask in demonstrations.items()]).write(file)
    packs = Packs(str(file), None, SimpleNamespace(pack_tokens=6, seed=0))
    seen: dict[tuple[int, ...], tuple[int, ...]] = {}
    for index in range(len(packs)):
        one = packs[index]
        starts = [at for at, position in enumerate(one["position_ids"].tolist()) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(one["input_ids"])], strict=True):
            assert one["position_ids"][start:end].tolist() == list(range(end - start))
            seen[tuple(one["input_ids"][start:end].tolist())] = tuple(one["loss_mask"][start:end].tolist())
    # The first token of a demonstration comes after nothing: it is not scored, whatever the file says.
    assert seen == {**demonstrations, (20, 21): (0, 1)}


def test_files_that_are_none(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(UserError, match="no file of demonstrations"):
        table.read(tmp_path / "absent.parquet")
    file = tmp_path / "other.parquet"
    pq.write_table(pa.table({"input_ids": [[1]], "loss_mask": [[1]]}), file)
    with pytest.raises(UserError, match="lacks package, kind, task"):
        table.read(file)
    table.of_rows([row([1, 2], [1])]).write(file)
    with pytest.raises(UserError, match="differ in length"):
        table.read(file)
    table.of_rows([row([1, 2], [0, 2])]).write(file)
    with pytest.raises(UserError, match="loss_mask is 0 to 2; allowed: 0, and 1"):
        table.read(file)
    pq.write_table(pa.Table.from_pylist([row([1, None], [0, 1])]), file)  # type: ignore[list-item]
    with pytest.raises(UserError, match="has no value in a place"):
        table.read(file)
    pq.write_table(pa.Table.from_pylist([{**row([1], [1]), "input_ids": "text"}]), file)
    with pytest.raises(UserError, match="a column of another type"):
        table.read(file)


def test_slices_and_several_row_groups_are_read_whole(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    rows = [row(list(range(index + 1)), [1] * (index + 1), task=f"t{index}") for index in range(9)]
    file = tmp_path / "d.parquet"
    pq.write_table(table.of_rows(rows).table, file, row_group_size=2)
    found = table.read(file)
    assert found.lengths().tolist() == list(range(1, 10))
    assert found.flat("input_ids").tolist() == [token for one in rows for token in one["input_ids"]]  # type: ignore[attr-defined]
    odd = found.where(found.lengths() % 2 == 1)
    assert odd.lengths().tolist() == [1, 3, 5, 7, 9]
    assert odd.flat("input_ids").tolist() == [token for length in (1, 3, 5, 7, 9) for token in range(length)]
