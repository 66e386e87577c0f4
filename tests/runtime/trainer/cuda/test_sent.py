"""What passes to an engine, and what the engine must hold afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

pytestmark = pytest.mark.torch


def passed(state: Mapping[str, Any], *, compare: bool = True, **settings: Any) -> tuple[dict[str, Any], Any]:
    import torch

    from runtime.trainer.cuda.sent import Sent

    sent = Sent(torch.bfloat16, **{"tied": False, **settings})

    async def main() -> dict[str, Any]:
        async def weights() -> AsyncIterator[tuple[str, Any]]:
            for name, tensor in state.items():
                yield name, tensor

        return {name: tensor async for name, tensor in sent.passing(weights(), compare=compare)}

    return asyncio.run(main()), sent


def test_masters_travel_as_the_engine_holds_them_and_a_tied_head_not_at_all() -> None:
    import torch

    from runtime.rollouter.fingerprint import RowFingerprint

    table = torch.randn(10, 4)
    state = {
        "embed.weight": table,
        "norm.weight": torch.randn(4),
        "experts.kept": torch.ones(3, 2).long(),
        "lm_head.weight": table,
    }
    found, sent = passed(state, tied=True)
    assert set(found) == set(state) - {"lm_head.weight"}
    assert found["embed.weight"].dtype is torch.bfloat16 and found["norm.weight"].dtype is torch.float32
    assert found["experts.kept"].dtype is torch.int64
    assert sent.bytes == 10 * 4 * 2 + 4 * 4 + 3 * 2 * 8
    held = RowFingerprint(torch.bfloat16)
    for tensor in (table, state["norm.weight"], state["experts.kept"]):
        held.add(tensor.bfloat16())
    assert sent.fingerprint.value() == held.value()
    both, _ = passed(state)
    assert "lm_head.weight" in both
    _, unasked = passed(state, compare=False)
    assert unasked.fingerprint.value() == 0 and unasked.bytes > 0


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"r": 8, "lora_alpha": 8}, 1.0),
        ({"r": 8, "lora_alpha": 12}, 1.5),
        ({"r": 16, "lora_alpha": 4, "use_rslora": True}, 1.0),
        ({"r": 4, "lora_alpha": 6, "use_rslora": True}, 3.0),
    ],
)
def test_an_adapter_is_compared_as_the_engine_scales_it(settings: Mapping[str, Any], scale: float) -> None:
    import torch

    from runtime.rollouter.fingerprint import RowFingerprint

    first, second = torch.randn(4, 6).bfloat16(), torch.randn(8, 4).bfloat16()
    found, sent = passed({"q.lora_A.weight": first, "q.lora_B.weight": second}, adapter=settings)
    assert torch.equal(found["q.lora_B.weight"], second), "what travels is not scaled"
    held = RowFingerprint(torch.bfloat16)
    held.add(first)
    held.add(second * scale)
    assert sent.is_adapter and sent.fingerprint.value() == held.value()
