"""Verdicts in boxes of a task's own image: a part of what ``benchmarks/verdicts.py --image`` counts in full."""

import asyncio
from pathlib import Path

import pytest

from benchmarks import verdicts
from tests import verdict_images
from tests.runtime.sandboxes.conftest import needs_bubblewrap

pytestmark = [pytest.mark.consumers, needs_bubblewrap]
HONEST, ATTACKS = 8, 10


@pytest.mark.parametrize("name", verdict_images.IMAGES)
def test_honest_work_is_paid_and_attacks_are_not(name: str, tmp_path: Path) -> None:
    boxes = verdicts.prepared(name)
    honest = list(verdicts.honest_cases(2 * len(verdicts.REPAIRS), tmp_path / "honest", boxes))
    attacks = list(verdicts.attack_cases(tmp_path / "attacks", 1, boxes))
    cases = honest[:: len(honest) // HONEST] + attacks[:: len(attacks) // ATTACKS]
    found = asyncio.run(verdicts.measure(cases, verdicts.CONFIG, tmp_path / "state"))
    assert (found["honest_denied"], found["attacks_paid"]) == (0, 0), found
    assert found["apart"] or found["in_two_boxes"]
    assert found["look_alikes"], found
