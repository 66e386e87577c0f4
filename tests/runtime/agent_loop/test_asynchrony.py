"""Rollouts that never wait for the slowest trial: the real groups and buffer, everything slow in virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.agent_loop.asynchrony_simulation import compare
from tests.runtime.agent_loop.conftest import make_task


@pytest.mark.deep
def test_a_long_tailed_mix_is_trained_faster_and_no_staler_than_allowed(tmp_path: Path) -> None:
    found = compare(make_task(tmp_path), tmp_path, ahead=2, limit=4)
    assert found["async_over_sync"] >= 1.6 and found["share_of_bound"] >= 0.9
    assert found["staleness_max_sync"] == 0
    assert 0 < found["staleness_max"] <= 4 and found["dropped_share"] < 0.05
    assert found["partial_share"] > 0, "no trial went on under new weights"
