"""Fingerprints: equal for equal values however they are held, different for anything else."""

from __future__ import annotations

import time

import msgspec
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

    for family in ("qwen2", "qwen3", "qwen3moe"):
        for tied in (True, False):
            model, folder = model_folder(family, tied=tied)
            weights = Weights.load(folder)
            served = dict(weights.named_tensors())
            if family == "qwen3moe":  # transformers keeps the experts of a layer in two tensors of its own
                again = Weights.pack(weights.architecture, served)
                assert fingerprint(again.named_tensors()) == fingerprint(served)
                assert fingerprint(served) == state_fingerprint(weights.architecture, served)
                continue
            assert weights.architecture.parameters().keys() == dict(model.named_parameters()).keys()
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


def test_rows_count_however_an_engine_stacks_pads_and_orders_them() -> None:
    import torch

    from runtime.rollouter.fingerprint import RowFingerprint

    def rows(tensors, dtype=torch.bfloat16) -> int:
        found = RowFingerprint(dtype)
        for tensor in tensors:
            found.add(tensor)
        return found.value()

    sent = [*state().values(), torch.linspace(-1, 1, 6), torch.linspace(2, 3, 4)]
    wanted = rows(sent)
    padded = torch.cat([sent[2], torch.zeros(5, 6)])
    held = [torch.cat([sent[4], sent[5]]), padded, torch.cat([sent[1], sent[0]]), sent[3]]
    assert rows(tensor.bfloat16() for tensor in held) == wanted
    assert rows(sent[:-1]) != wanted and rows(sent, torch.float32) != wanted
    for index, tensor in enumerate(sent):
        for place in range(tensor.numel()):
            changed = tensor.bfloat16()
            changed.view(-1)[place] *= 1.01
            assert rows([*sent[:index], changed, *sent[index + 1 :]]) != wanted
    swapped = sent[0].clone()
    swapped[0, 0], swapped[0, 1] = sent[0][0, 1], sent[0][0, 0]
    assert rows([swapped, *sent[1:]]) != wanted


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 9), st.booleans())
def test_parts_of_a_matrix_add_up_however_it_is_cut(widths: list[int], rows: int, by_columns: bool) -> None:
    """As tensor parallelism cuts: by rows each part counts its own; by columns the numbers of rows are summed first."""
    import torch

    from runtime.rollouter.fingerprint import RowFingerprint, combined

    matrix = torch.randn(sum(widths), rows) if not by_columns else torch.randn(rows, sum(widths))
    whole = RowFingerprint(torch.bfloat16)
    whole.add(matrix)
    parts = torch.split(matrix, widths, dim=int(by_columns))
    if by_columns:
        one, begun, numbers = RowFingerprint(torch.bfloat16), 0, torch.zeros(rows, dtype=torch.int64)
        for part in parts:
            numbers = numbers + one.rows(part, first_column=begun)
            begun += part.shape[1]
        one.add_rows(numbers)
        values = [one.value()]
    else:
        values = []
        for part in parts:
            found = RowFingerprint(torch.bfloat16)
            found.add(part)
            values.append(found.value())
    assert combined(values) == combined([whole.value()]) and len(combined(values)) == 16


@given(st.lists(st.integers(0, 2**64 - 1), max_size=4))
def test_values_together_fit_into_a_message_as_each_does(values: list[int]) -> None:
    from runtime.rollouter.fingerprint import added, combined

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(added(values))) == added(values)
    assert combined([added(values), 7]) == combined([*values, 7])
