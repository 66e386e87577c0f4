"""verl's FSDP engine, in whose place ours goes: an update moves the weights, and the rollout's experts are replayed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from runtime.laptop.cpu_platform import CPU
from runtime.run_paths import RunPaths
from tests.runtime.proxy.tiny_model import MIXTURE, write_policy

pytestmark = [pytest.mark.verl, pytest.mark.torch, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[3]


def test_what_the_rollout_saw_comes_back_after_an_update(tmp_path: Path) -> None:
    """Padded and packed, with layers that are computed again in the backward pass."""
    folder = write_policy(tmp_path, family="compact", kind="Qwen3Moe", **MIXTURE)
    environment = {**os.environ, **CPU.environment(RunPaths(tmp_path)), "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "tests.runtime.trainer.replay_program", str(folder), "0.0002"]
    done = subprocess.run(program, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for attention, found in orjson.loads(done.stdout.splitlines()[-1]).items():
        assert min(found["before"]) > 0.99999, attention
        with_replay, without = found["after"]
        assert with_replay >= 0.99 and without < with_replay - 0.01, (attention, with_replay, without)
