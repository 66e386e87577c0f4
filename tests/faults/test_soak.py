"""A soak: hundreds of real trials of a trainer that is killed again and again, whose replicas, boxes and disk fail.

``LIVERL_SOAK_SEED`` and ``LIVERL_SOAK_TRIALS``: other faults than every time's, and more of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from runtime.task import Task, load_task
from tests.faults.soak import Soak, why_no_disk
from tests.faults.training import Plan
from tests.runtime.proxy.tiny_model import write_model
from tests.runtime.sandboxes.conftest import needs_bubblewrap

# verl warns about its own imports.
pytestmark = [pytest.mark.deep, pytest.mark.filterwarnings("ignore"), needs_bubblewrap]

TRIALS = int(os.environ.get("LIVERL_SOAK_TRIALS", "500"))
SEED = int(os.environ.get("LIVERL_SOAK_SEED", "7"))
REPAIRED = "if grep -q 'a + b' /app/calc.py; then r=1; else r=0; fi\necho $r > /logs/verifier/reward.txt\n"
POISON = "exit 1\n"
"""No reward: a verifier that crashes whatever it is given."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tokenizer"), family="chatml")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    folder = tmp_path_factory.mktemp("tasks")
    return [_task(folder / f"t{number}", POISON if number == 5 else REPAIRED) for number in range(16)]


def _task(folder: Path, script: str) -> Task:
    files = {
        "task.toml": "",
        "instruction.md": "Repair calc.add.",
        "environment/repo/calc.py": "def add(a, b):\n    return a - b\n",
        "tests/test.sh": f"#!/bin/sh\n{script}",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return load_task(folder)


KINDS = {
    **{"kill": 2, "train": 1, "save": 2, "saved": 1, "sync": 2, "tail": 1, "checkpoint": 1},
    **{"replica": 5, "stopped": 5, "500": 5, "429": 5, "box": 8, "hung": 4, "full": 4},
}
"""Faults and their weights: the first line ends the trainer."""


@pytest.mark.timeout(3600)
def test_hundreds_of_trials_and_random_faults(tasks: list[Task], tokenizer: Path, tmp_path: Path) -> None:
    kinds = dict(KINDS)
    if (why := why_no_disk(tmp_path)) is not None:
        print(f"without a full disk: {why}")
        del kinds["full"]
    plan = Plan(steps=TRIALS, groups=4, size=4, save_every=1, keep=2, staleness=3)
    soak = Soak(plan, tmp_path, tokenizer, tasks, TRIALS, every=8, kinds=kinds, seed=SEED, deadline_sec=600.0)
    try:
        soak.run()
    finally:
        print(f"seed {SEED}: {soak.report()}")
    soak.check()
    assert soak.played >= TRIALS and soak.witness.starts > TRIALS // 100


def test_what_must_hold_is_seen_when_it_does_not(tasks: list[Task], tokenizer: Path, tmp_path: Path) -> None:
    """A few trials, one kill, and then lies about them."""
    plan = Plan(steps=16, groups=2, size=2, save_every=1)
    soak = Soak(plan, tmp_path, tokenizer, tasks, 16, every=12, kinds={"kill": 1}, most=1, seed=SEED)
    soak.run()
    soak.check()
    assert soak.witness.starts == 2
    trained = soak.witness.end["trained"]
    unpaid = next(one for one in trained if one["reward"] == 0.0)
    damages: dict[str, Any] = {
        "'reward': 1.0": {**unpaid, "reward": 1.0},
        "sampled by versions": {**unpaid, "span": [unpaid["span"][0], unpaid["span"][1] + 1]},
        "tokens of several sessions": {**unpaid, "words": [*unpaid["words"], trained[-1]["words"][0]]},
    }
    for said, damaged in damages.items():
        soak.witness.end["trained"] = [damaged if one is unpaid else one for one in trained]
        with pytest.raises(AssertionError, match=said):
            soak.check()
