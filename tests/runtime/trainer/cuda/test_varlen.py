"""Packed sequences through the attention that is registered in transformers, against the same sequences one by one."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.torch


def model(attention: str) -> Any:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    import runtime.trainer.cuda.varlen  # noqa: F401

    config = Qwen3Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    torch.manual_seed(0)
    made = Qwen3ForCausalLM(config)
    made.set_attn_implementation(attention)
    return made


def test_sequences_that_lie_behind_each_other_do_not_see_each_other() -> None:
    import torch

    packed, alone = model("liverl_varlen"), model("sdpa")
    with torch.no_grad():
        for lengths in ((5, 1, 9), (3, 4)):  # a second batch has bounds of its own
            rows = [torch.randint(0, 50, (length,)) for length in lengths]
            places = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
            found = packed(input_ids=torch.cat(rows).unsqueeze(0), position_ids=places, use_cache=False).logits[0]
            wanted = torch.cat([alone(input_ids=row.unsqueeze(0), use_cache=False).logits[0] for row in rows])
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_window_ends_where_the_model_says() -> None:
    import torch

    from runtime.trainer.cuda.varlen import packed_attention

    query, key, value = torch.randn(3, 1, 2, 6, 8)
    places = torch.arange(6).unsqueeze(0)
    found, _ = packed_attention(
        torch.nn.Identity(), query, key, value, None, scaling=0.3, position_ids=places, sliding_window=2
    )
    only = slice(3, 5)  # the last token but one sees itself and the one before
    weights = (query[0, :, 4:5] @ key[0, :, only].transpose(1, 2) * 0.3).softmax(-1)
    torch.testing.assert_close(found[0, 4], (weights @ value[0, :, only])[:, 0])


def test_padding_is_refused() -> None:
    import torch

    from runtime.trainer.cuda.varlen import packed_attention

    one = torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match="no padding"):
        packed_attention(torch.nn.Identity(), one, one, one, torch.ones(1, 4), scaling=1.0)
