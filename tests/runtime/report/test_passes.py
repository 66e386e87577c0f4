"""pass@k held against what it estimates: drawing k of n trials in every way."""

from __future__ import annotations

from itertools import combinations

import pytest

from runtime.report.passes import pass_at, passes


@pytest.mark.parametrize(("trials", "solved"), [(1, 0), (1, 1), (5, 0), (5, 1), (5, 3), (6, 6), (8, 2)])
def test_it_is_the_share_of_draws_that_hold_a_solved_trial(trials: int, solved: int) -> None:
    outcomes = [True] * solved + [False] * (trials - solved)
    for k in range(1, trials + 1):
        draws = list(combinations(outcomes, k))
        assert pass_at(trials, solved, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_over_tasks() -> None:
    rewards = {f"t{n}": [1.0] * (n % 3) + [0.5] * (4 - n % 3) for n in range(60)}
    one, two = passes(rewards, 1), passes(rewards, 2)
    assert one is not None and two is not None
    assert one.value == pytest.approx(0.25) and one.tasks == 60
    assert two.value == pytest.approx((0 + 0.5 + 5 / 6) / 3)
    # A mean's interval by the normal distribution: 1.96 standard errors.
    assert one.high - one.low == pytest.approx(2 * 1.96 * (0.125 / 3) ** 0.5 / 60**0.5, rel=0.15)
    assert passes(rewards, 5) is None and passes({}, 1) is None
    assert passes({**rewards, "new": [1.0]}, 2) == two


@pytest.mark.parametrize(("trials", "solved", "k"), [(3, 4, 1), (3, 1, 4), (3, 1, 0)])
def test_what_makes_no_sense_is_refused(trials: int, solved: int, k: int) -> None:
    with pytest.raises(ValueError, match="solved of"):
        pass_at(trials, solved, k)
