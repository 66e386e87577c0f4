"""What is trained on in packs is what each demonstration alone would give: log-probabilities and gradients."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.torch


def tiny(family: str, attention: str) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 90,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    }
    if family != "Llama":
        sizes["head_dim"] = 8
    config = getattr(transformers, f"{family}Config")(**sizes)
    config._attn_implementation = attention
    return getattr(transformers, f"{family}ForCausalLM")(config)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_packs_give_what_each_demonstration_gives_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from runtime.trainer.cuda import varlen
    from runtime.trainer.supervised import scored
    from runtime.trainer.supervised.bounds import bounds_of

    generator = torch.Generator().manual_seed(1)
    lengths, padding = [7, 1, 19, 30], 7
    rows = [torch.randint(0, 90, (length,), generator=generator) for length in lengths]
    masks = [torch.randint(0, 2, (length,), generator=generator) for length in lengths]
    for mask in masks:
        mask[0] = 0

    plain = tiny(family, "sdpa")
    expected = []
    for ids, mask in zip(rows, masks, strict=True):
        logits = plain(ids[None]).logits[0, :-1].float()
        expected.append((torch.log_softmax(logits, -1).gather(1, ids[1:, None])[:, 0] * mask[1:]).sum())
    torch.stack(expected).sum().backward()

    packed = tiny(family, varlen.NAME)
    ids = torch.cat([*rows, torch.zeros(padding, dtype=torch.long)])
    positions = torch.cat([torch.arange(length) for length in [*lengths, padding]])
    bounds, longest = bounds_of(positions[: sum(lengths)], padding=padding)
    assert bounds.tolist()[:7] == [0, 7, 8, 27, 57, 64, 64] and longest == 256
    monkeypatch.setattr(scored, "LOGITS_AT_ONCE", 90 * 5)  # in parts, computed again for the gradient
    forward = scored.scored_forward(packed)
    where = torch.roll(torch.cat(masks), -1).nonzero()[:, 0]
    out = forward(
        ids[None], positions[None], torch.roll(ids, -1)[None], where, pack_bounds=bounds, pack_longest=longest
    )
    assert out.log_probs.shape == (1, 64) and int((out.log_probs != 0).sum()) == len(where)
    ends = torch.tensor(lengths).cumsum(0).tolist()
    found = [out.log_probs[0, end - length : end].sum() for end, length in zip(ends, lengths, strict=True)]
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), atol=1e-5, rtol=1e-5)
    out.log_probs.sum().backward()
    for (name, one), other in zip(packed.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=2e-5, rtol=1e-4, msg=name)


def test_padding_is_cut_into_pieces_no_longer_than_a_demonstration() -> None:
    import torch

    from runtime.trainer.supervised.bounds import bounds_of

    positions = torch.cat([torch.arange(300), torch.arange(100)])
    bounds, longest = bounds_of(positions, padding=1600)
    assert longest == 512
    assert bounds.tolist()[:6] == [0, 300, 400, 912, 1424, 1936]
    assert len(bounds) % 64 == 0 and int(bounds.diff().max()) <= longest and int(bounds[-1]) == 2000
