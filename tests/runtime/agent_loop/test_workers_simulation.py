"""Many workers under many trainers' demand, small: what ``benchmarks/workers.py`` plays at full size."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.agent_loop.conftest import make_task
from tests.runtime.agent_loop.workers_simulation import simulate


@pytest.mark.deep
def test_trials_of_many_workers_are_played_once_and_leave_nothing(tmp_path: Path) -> None:
    waves, boxes = 4, 160
    found = simulate(make_task(tmp_path), tmp_path, replicas=16, boxes=boxes, workers=8, waves=waves, count=True)
    assert found.trials == found.published == waves * boxes
    assert found.spread <= 1 and found.handed_over == boxes // 8
    # Those at work, two ahead for each worker there has been, and what the dead one took along.
    assert found.boxes <= boxes + 2 * 9 + boxes // 8
    assert found.held == 0, "tokens of settled groups are still in some worker's memory"
    assert found.leases == pytest.approx(1.0, abs=0.2), "the registry hears of sessions, not of calls"
    # A table that is searched, and grows with what has happened, would show. In the second part one was killed.
    assert max(found.lines[2:]) <= 1.05 * found.lines[0], "a trial costs more the longer the run goes on"
