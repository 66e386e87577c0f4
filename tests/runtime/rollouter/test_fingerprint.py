"""Fingerprints: equal for equal values however they are held, different for anything else."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.torch


def state():
    import torch

    stream = torch.Generator().manual_seed(0)
    return {f"layer.{n}.weight": torch.randn(8, 6, generator=stream).bfloat16().float() for n in range(4)}


def test_order_strides_iterables_and_wider_types_do_not_matter() -> None:
    from runtime.rollouter.fingerprint import fingerprint

    tensors = state()
    wanted = fingerprint(tensors)
    assert fingerprint(dict(reversed(tensors.items()))) == wanted
    assert fingerprint(iter(tensors.items())) == wanted
    assert fingerprint({name: tensor.t().contiguous().t() for name, tensor in tensors.items()}) == wanted
    assert fingerprint({name: tensor.bfloat16() for name, tensor in tensors.items()}) == wanted
    assert fingerprint({name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}) == wanted


@settings(deadline=None)
@given(st.integers(0, 3), st.integers(0, 7), st.integers(0, 5))
def test_one_changed_element_shows(index: int, row: int, column: int) -> None:
    import torch

    from runtime.rollouter.fingerprint import fingerprint

    changed = state()
    tensor = changed[f"layer.{index}.weight"]
    tensor[row, column] = torch.nextafter(tensor[row, column], torch.tensor(torch.inf))
    assert fingerprint(changed) != fingerprint(state())


def test_names_shapes_and_swaps_show() -> None:
    from runtime.rollouter.fingerprint import fingerprint

    tensors = state()
    first, second, *_ = tensors
    variants = [
        tensors,
        {name: tensor for name, tensor in tensors.items() if name != first},
        tensors | {first: tensors[second], second: tensors[first]},
        tensors | {first: tensors[first].reshape(6, 8)},
        {name + "x": tensor for name, tensor in tensors.items()},
        tensors | {first: tensors[first].double()},
        {},
    ]
    assert len({fingerprint(variant) for variant in variants}) == len(variants)
    with pytest.raises(ValueError, match="came twice"):
        fingerprint([*tensors.items(), (first, tensors[first])])


def test_packed_weights_answer_for_the_state_they_were_made_of(model_folder) -> None:
    from runtime.laptop.engine.weights import Weights, state_fingerprint
    from runtime.rollouter.fingerprint import fingerprint

    for family in ("qwen2", "qwen3"):
        for tied in (True, False):
            model, folder = model_folder(family, tied=tied)
            weights = Weights.load(folder)
            assert weights.architecture.parameters().keys() == dict(model.named_parameters()).keys()
            served = dict(weights.named_tensors())
            assert {name: tuple(tensor.shape) for name, tensor in served.items()} == weights.architecture.parameters()
            assert fingerprint(served) == state_fingerprint(weights.architecture, model.state_dict())
            assert fingerprint(served) == fingerprint(model.named_parameters())


def test_half_a_million_parameters_take_milliseconds() -> None:
    import torch

    from runtime.rollouter.fingerprint import fingerprint

    tensors = {str(n): torch.randn(100, 500) for n in range(10)}
    fingerprint(tensors)
    before = time.process_time()
    fingerprint(tensors)
    assert time.process_time() - before < 0.05
