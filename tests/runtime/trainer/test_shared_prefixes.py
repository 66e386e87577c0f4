"""Rows as a tree, and with compiled layers, through verl's real engine: what it says, and learns, is what it says and
learns of the rows alone."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.proxy.tiny_model import write_policy

ROOT = Path(__file__).parents[3]
ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=8)


def arrays(rows: list[list[int]]) -> list[Any]:
    return [np.array(row) for row in rows]


@pytest.mark.torch
@given(ROWS)
def test_every_beginning_is_there_once_and_looks_back_at_its_own_row(rows: list[list[int]]) -> None:
    from runtime.trainer.prefix_tree import tree_of, unique_tokens

    tree, flat = tree_of(arrays(rows)), list(chain.from_iterable(rows))
    beginnings = {tuple(row[: end + 1]) for row in rows for end in range(len(row))}
    assert len(tree.kept) == len(beginnings) == unique_tokens(arrays(rows))
    read = tree.kept.tolist()
    pieces = list(zip(tree.bounds[:-1], tree.bounds[1:], tree.key_bounds[1:], strict=True))
    said = {}
    for begin, end, last in pieces:
        for token in range(begin, end):
            depth = int(tree.positions[token])
            stop = int(last) - int(end) + token + 1  # causal from the end
            said[token] = [flat[read[key]] for key in tree.keys[stop - depth - 1 : stop].tolist()]
    at = 0
    for row in rows:
        for depth in range(len(row)):
            token = int(tree.place[at + depth])
            assert said[token] == row[: depth + 1]
            if depth + 1 < len(row):
                following = int(tree.following[at + depth])
                assert flat[read[following]] == row[depth + 1] and int(tree.before[following]) == token
        at += len(row)


@pytest.mark.torch
@given(ROWS, st.integers(9, 30), st.integers(1, 4))
def test_parts_hold_every_row_once_within_their_budget(rows: list[list[int]], tokens: int, least: int) -> None:
    from runtime.trainer.prefix_tree import cut, unique_tokens

    least = min(least, len(rows))
    by_tokens, by_count = cut(arrays(rows), tokens=tokens, at_least=least), cut(arrays(rows), count=3)
    for parts in (by_tokens, by_count):
        assert sorted(chain.from_iterable(parts)) == list(range(len(rows)))
    assert len(by_tokens) >= least and all(len(part) <= 3 for part in by_count)
    assert all(unique_tokens([np.array(rows[index]) for index in part]) <= tokens for part in by_tokens)


@pytest.mark.verl
@pytest.mark.torch
def test_verls_engine_says_and_learns_the_same(tmp_path: Path) -> None:
    import torch

    model = write_policy(tmp_path / "model", family="compact", kind="Qwen3")
    found = {}
    for lib in ("cuda.varlen", "shared_prefixes", "compiled_layers"):
        result = tmp_path / f"{lib}.pt"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.runtime.trainer.shared_prefixes_program",
                str(model),
                str(result),
                f"runtime.trainer.{lib}",
            ],
            cwd=ROOT,
            env={**os.environ, "VERL_PLATFORM": "cpu", "VERL_ENGINE_DEVICE": "cuda"},
            check=True,
        )
        found[lib] = torch.load(result)
    graphs = {lib: one.pop("graphs") for lib, one in found.items()}
    assert graphs["cuda.varlen"] == 0 < graphs["compiled_layers"]
    alone, shared, compiled = found.values()
    assert alone.keys() == shared.keys() > compiled.keys() and len(alone) == 4
    for name, one in alone.items():
        for other in filter(None, (shared[name], compiled.get(name))):
            for told in ("log_probs", "entropy", "gradients"):
                torch.testing.assert_close(other[told], one[told], atol=1e-6, rtol=1e-5)
        assert any(part.abs().max() > 0.01 for part in one["gradients"].values())
        assert sum(shared[name]["seen"]) < 0.7 * sum(one["seen"])
        assert name not in compiled or compiled[name]["seen"] == one["seen"]
