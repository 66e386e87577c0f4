"""The batches of the warm start: every walk once, however many processes share them, and nobody waits for another."""

from __future__ import annotations

import random
from typing import Any

import pytest

from runtime.laptop.policy.demonstrations import Ground, walk
from runtime.laptop.policy.encoding import Encoder, Row
from runtime.laptop.policy.memory import MemoryWorkspace
from runtime.laptop.policy.tokenizer import train_tokenizer
from runtime.laptop.synth.repository import build
from runtime.laptop.tools.survey import survey

pytestmark = pytest.mark.torch

SETTINGS: dict[str, Any] = {
    "steps": 32, "batch_size": 16, "max_position": 1024, "seed": 5, "max_edits": 3, "max_turns": 20,
    "informed_fraction": 0.4, "informed_families": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def grounds() -> list[Ground]:
    numbers = range(24)
    return [
        Ground("Repair it.", survey(MemoryWorkspace.of(build("demonstrations", seed=9, number=number))))
        for number in numbers
    ]


@pytest.fixture(scope="module")
def encoder(grounds: list[Ground]) -> Encoder:
    rng = random.Random(1)
    walks = [walk(ground, rng, informed=1.0, max_edits=3, max_turns=20) for ground in grounds]
    return Encoder(train_tokenizer((text for parts in walks for _, text in parts), [], vocabulary_size=400))


def items(grounds: list[Ground], encoder: Encoder, **changes: Any) -> tuple[list[list[Row]], int]:
    from runtime.laptop.policy.train import Batches

    batches = Batches(grounds, encoder, {**SETTINGS, **changes})
    return [batches[index] for index in range(len(batches))], batches.parts


def test_any_number_of_processes_sees_the_same_parts(grounds: list[Ground], encoder: Encoder) -> None:
    alone, parts = items(grounds, encoder, processes=1)
    assert parts == 2 and len(alone) == SETTINGS["steps"] * parts
    assert sum(map(len, alone)) == SETTINGS["steps"] * SETTINGS["batch_size"]
    for processes in (2, 4):
        shared, _ = items(grounds, encoder, processes=processes)
        for number, whole in enumerate(alone):
            shares = shared[number * processes : (number + 1) * processes]
            assert len({len(share) for share in shares}) == 1, "every process has as many walks"
            assert sorted(row.ids for share in shares for row in share) == sorted(row.ids for row in whole)


def test_no_process_waits_long_for_another(grounds: list[Ground], encoder: Encoder) -> None:
    shared, _ = items(grounds, encoder, processes=2)
    longest = [max(len(row.ids) for row in share) for share in shared]
    steps = list(zip(longest[::2], longest[1::2], strict=True))
    waited = sum(abs(one - other) for one, other in steps) / sum(longest)
    anyone = sum(abs(one - other) for one, other in zip(longest, longest[8:], strict=False)) / sum(longest)
    assert waited < anyone / 2


def test_a_batch_that_cannot_be_parted_is_one_part(grounds: list[Ground], encoder: Encoder) -> None:
    alone, parts = items(grounds, encoder, processes=3, batch_size=9)
    assert parts == 1 and {len(share) for share in alone} == {3}


def test_walks_end_at_the_last_position(grounds: list[Ground], encoder: Encoder) -> None:
    alone, _ = items(grounds, encoder, processes=1, max_position=100)
    assert max(len(row.ids) for part in alone for row in part) == 100
