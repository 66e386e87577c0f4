"""Verdicts in containers of a task's own image, few of each: ``benchmarks/verdicts.py --docker --image`` has more."""

import asyncio
from pathlib import Path

import pytest

from benchmarks import verdicts
from runtime.config import Docker
from tests import verdict_images
from tests.docker_engine import BASE, Engine

pytestmark = pytest.mark.consumers
ATTACKS = 2


def test_honest_work_is_paid_and_attacks_are_not(engine: Engine, tmp_path: Path) -> None:
    cases = []
    for number, name in enumerate(verdict_images.IMAGES):
        boxes = verdicts.prepared(name)
        cases += list(verdicts.honest_cases(number + 1, tmp_path / name / "honest", boxes))[number:]
        attacks = list(verdicts.attack_cases(tmp_path / name / "attacks", 1, boxes))
        cases += attacks[number :: len(attacks) // ATTACKS][:ATTACKS]  # others in each image
    settings = Docker(docker_host=engine.url, base_image=BASE, memory_mib=512, verifier_timeout_sec=60.0)
    found = asyncio.run(verdicts.measure(cases, settings, tmp_path / "state"))
    assert (found["honest"], found["attacks"]) == (len(verdict_images.IMAGES), ATTACKS * len(verdict_images.IMAGES))
    assert (found["honest_denied"], found["attacks_paid"]) == (0, 0), found
    assert found["apart"] and found["look_alikes"], found
