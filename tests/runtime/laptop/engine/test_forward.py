"""The cached forward pass for any mix of chunks, against transformers, and the linear layer against torch's own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.torch
LENGTH = 320


@settings(deadline=None, max_examples=25)
@given(
    slots=st.permutations(range(12)).map(lambda order: order[:9]),
    shared=st.sampled_from([0, 40, 280]),
    chunk=st.integers(1, 33),
    family=st.sampled_from(["qwen2", "qwen3", "qwen3moe", "llama"]),
    seed=st.integers(0, 1000),
)
def test_logits_equal_a_full_forward(model_folder, slots, shared: int, chunk: int, family: str, seed: int) -> None:
    """Nine sequences in scattered slots, six of which begin alike; first all but some tokens, then the rest."""
    import numpy as np
    import torch

    from runtime.laptop.engine.forward import Chunk, KVCache, Rotary, forward
    from runtime.laptop.engine.weights import Weights

    model, folder = model_folder(family)
    weights = Weights.load(folder)
    cache = KVCache(weights.architecture, slots=12, length=LENGTH)
    rotary = Rotary(weights.architecture, length=LENGTH)
    stream = np.random.default_rng(seed)
    prefix = stream.integers(0, 97, shared)
    rows = []
    for index in range(9):
        own = stream.integers(0, 97, stream.integers(chunk + 1, 40))
        rows.append(np.concatenate([prefix, own]) if index < 6 else own)
    cuts = [len(row) - int(stream.integers(1, chunk + 1)) for row in rows]
    names = [0 if index < 6 and shared else -1 for index in range(9)]
    with torch.inference_mode():
        first = [Chunk(slot, 0, row[:cut]) for slot, row, cut in zip(slots, rows, cuts, strict=True)]
        forward(weights, cache, rotary, first)
        rest = [
            Chunk(slot, cut, row[cut:], name, shared)
            for slot, row, cut, name in zip(slots, rows, cuts, names, strict=True)
        ]
        logits = forward(weights, cache, rotary, rest)
        for row, got in zip(rows, logits, strict=True):
            wanted = model(torch.from_numpy(row)[None]).logits[0, -1]
            assert (got.log_softmax(-1) - wanted.log_softmax(-1)).abs().max() <= 1e-5


@pytest.mark.parametrize("rows", [1, 7, 8, 300])
@pytest.mark.parametrize("biased", [True, False])
def test_linear_equals_torch(rows: int, biased: bool) -> None:
    import torch

    from runtime.laptop.engine.linear import Linear

    torch.manual_seed(0)
    reference = torch.nn.Linear(48, 80, bias=biased).requires_grad_(False)
    x = torch.randn(rows, 48)
    assert torch.allclose(Linear(reference.weight, reference.bias)(x), reference(x), atol=1e-5)
