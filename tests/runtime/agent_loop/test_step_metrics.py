"""The numbers of a step, from trials whose numbers are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.agent_loop.step_metrics import percentile, step_metrics
from runtime.agent_loop.types import Sampling, Timings, TrialResult
from runtime.errors import Termination
from runtime.proxy.types import Accounting, Sample
from tests.runtime.agent_loop.conftest import make_key

SAMPLE = Sample([1, 2], [3, 4, 5], [1, 0, 1], [-0.1, 0.0, -0.2], [7, -1, 8])


def trial(reward: float | None, termination: Termination = Termination.COMPLETED, **changes: object) -> TrialResult:
    base = TrialResult(
        key=make_key(),
        termination=termination,
        reward=reward,
        isolation="bubblewrap",
        timings=Timings(setup=0.04, agent=1.0, model=0.6, verifier=0.2, total=1.5),
        sampling=Sampling(1.0, 0),
        samples=(SAMPLE,),
        model_calls=2,
        tool_gaps=(0.1, 0.3),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def test_groups_by_signal_and_reasons_of_what_is_left_out() -> None:
    groups = [
        [trial(1.0), trial(0.0, reused_verdict=True)],
        [trial(0.0), trial(0.0, Termination.TIMEOUT, dropped_ends=("timeout",))],
        [trial(1.0), trial(None, Termination.SANDBOX_LOST)],
    ]
    row = step_metrics(groups, group_size=2, seconds=2.0)
    assert (row["groups/mixed"], row["groups/all_wrong"], row["groups/all_correct"]) == (1, 1, 1)
    assert row["groups/no_signal_frac"] == pytest.approx(2 / 3) and row["groups/partial"] == 1
    assert row["trajectory_filter/invalid_count"] == 2
    assert row["trajectory_filter/reason/timeout"] == row["trajectory_filter/reason/sandbox_lost"] == 1
    assert row["agent_loop/reused_verdicts"] == 1
    assert row["agent_loop/ungraded"] == 1 and row["termination/agent_completed"] == 4
    assert (row["weights/served_min"], row["weights/served_max"]) == (7, 8)
    assert row["timing_s/agent_loop/harbor_agent_tool_call/mean"] == pytest.approx(0.4)
    assert row["sandbox/start_p50"] == 0.04 and row["proxy_num_calls"] == 12
    assert row["proxy_tool_gap_p90"] == 0.3


def test_sets_are_told_apart_where_there_are_several() -> None:
    other = replace(make_key(), task_set="other")
    row = step_metrics(
        [[trial(1.0), trial(0.0)], [trial(1.0, key=other), trial(None, key=other)]], group_size=2, seconds=1
    )
    name = make_key().task_set
    assert (row[f"sets/{name}/trials"], row[f"sets/{name}/reward"]) == (2, 0.5)
    assert (row["sets/other/trials"], row["sets/other/reward"]) == (2, 1.0)
    assert not any(one.startswith("sets/") for one in step_metrics([[trial(1.0)]], group_size=1, seconds=1))


def test_the_trajectory_filter_decides_what_trains() -> None:
    """The same trials under two filters; what was not graded trains under neither."""
    ends = [Termination.COMPLETED, Termination.OVERLONG, Termination.TIMEOUT]
    for dropped, count in ((("timeout",), 1), (("overlong", "timeout"), 2), ((), 0)):
        group = [trial(1.0, end, dropped_ends=dropped) for end in ends]
        group.append(trial(None, Termination.SANDBOX_LOST, dropped_ends=dropped))
        row = step_metrics([group], group_size=4, seconds=1.0)
        assert row["trajectory_filter/dropped_count"] == count
        assert row["trajectory_filter/invalid_count"] == count + 1
        assert [one.trainable for one in group] == [end.value not in dropped for end in ends] + [False]


def test_what_became_of_sampled_tokens_adds_up() -> None:
    groups = [[trial(1.0, accounting=Accounting(10, 6, 2, 1, 1))], [trial(0.0, accounting=Accounting(5, 5, 0, 0, 0))]]
    row = step_metrics(groups, group_size=1, seconds=1.0)
    fates = {name: row[f"proxy_tokens/{name}"] for name in ("trained", "discarded", "auxiliary", "lost")}
    assert fates == {"trained": 11, "discarded": 2, "auxiliary": 1, "lost": 1}
    assert sum(fates.values()) == row["proxy_tokens/sampled"] == 15


def test_a_step_without_trials_has_a_row_too() -> None:
    assert step_metrics([[]], group_size=4, seconds=1.0)["agent_loop/trials"] == 0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_a_percentile_is_one_of_the_values_between_the_ends(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values and min(values) <= found <= max(values)
    assert percentile(values, 0) == min(values) and percentile(values, 1) == max(values)
