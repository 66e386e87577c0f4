"""Two runs side by side, held against figures that were computed in other ways."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from runtime.report.compare import compare, held_out, mcnemar, paired, words
from tests.run_directories import MadeRun, make_run, make_tasks


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[MadeRun, MadeRun]:
    folder = tmp_path_factory.mktemp("compare")
    tasks = make_tasks(folder / "tasks", 3)
    return (
        make_run(folder / "runs", steps=1, seed=1, group_size=1, tasks=tasks),
        make_run(folder / "runs", steps=2, seed=5, group_size=1, tasks=tasks),
    )


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    # Binomial tables: 2 * P(X <= min) for X ~ B(n, 1/2).
    [(0, 0, 1.0), (0, 1, 1.0), (1, 9, 0.021484375), (9, 1, 0.021484375), (5, 5, 1.0), (0, 10, 0.001953125)],
)
def test_the_exact_test(only_a: int, only_b: int, p_value: float) -> None:
    assert mcnemar(only_a, only_b) == pytest.approx(p_value)


def test_the_pairing_is_by_task() -> None:
    a = {("s", f"t{n}"): [float(n < 3)] for n in range(10)} | {("s", "only-a"): [1.0]}
    b = {("s", f"t{n}"): [float(n > 0)] for n in range(10)} | {("s", "only-b"): [0.0]}
    found = paired(a, b)
    assert found is not None
    assert (found.tasks, found.only_a, found.only_b) == (10, 1, 7)
    assert (found.rate_a, found.rate_b) == pytest.approx((0.3, 0.9)) and found.difference == pytest.approx(0.6)
    # The bootstrap of a mean: about 1.96 standard errors to either side.
    error = math.sqrt((7 * 0.4**2 + 2 * 0.6**2 + 1.6**2) / 10) / math.sqrt(10)
    assert found.low == pytest.approx(0.6 - 1.96 * error, abs=0.1) and found.high == pytest.approx(1.0, abs=0.11)
    assert paired(a, a).p_value == 1.0 and paired(a, a).low == paired(a, a).high == 0.0  # type: ignore[union-attr]
    assert paired(a, {}) is None


def test_a_run_is_scored_at_its_newest_step(two: tuple[MadeRun, MadeRun], tmp_path: Path) -> None:
    scored = held_out(two[1].path)
    assert scored.step == 2 and set(scored.scores) == {("held-out", f"calc-{n}") for n in range(3)}
    assert held_out(two[1].path, step=0).step == 0
    assert held_out(tmp_path).step is None


def test_curves_scores_and_words(two: tuple[MadeRun, MadeRun]) -> None:
    result = compare([one.path for one in two])
    assert [len(curve) for curve in result["curves"]["critic/score/mean"]] == [1, 2]
    assert result["runs"][1]["held_out_step"] == 2 and result["paired"][0]["tasks"] == 3
    text = "\n".join(words(result))
    assert "A and B on 3 held-out tasks" in text and "critic/score/mean" in text
