"""The closing table says what was measured, in one table with intervals."""

from __future__ import annotations

import io
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from runtime.config import RuntimeConfig
from runtime.telemetry.intervals import wilson
from runtime.telemetry.metrics import Row, read_rows
from runtime.telemetry.plot import line_plot, smooth
from runtime.telemetry.scores import idle_words
from runtime.telemetry.summary import RunReport, compare, failure_counts, gains, print_summary, time_by_part
from tests.runtime.rows import append_row


@pytest.fixture
def facts(tmp_path: Path) -> RunReport:
    """A run whose greedy solve rate rose from 30 % to 70 % of 300 held-out tasks."""
    baselines = tmp_path / "baselines.json"
    rows = [{"name": "random", "solved": 41.3}, {"name": "fixed order", "solved": 60}]
    baselines.write_bytes(orjson.dumps({"tasks": 300, "max_edits": 3, "rows": rows}))
    metrics = tmp_path / "metrics.jsonl"
    append_row(metrics, 0, {"val-core/held-out/reward/mean@1": 0.3, "val-core/held-out-sampled/reward/mean@1": 0.25})
    for step in range(1, 41):
        data = {"critic/score/mean": step / 50, "timing_s/gen": 2.0, "timing_s/step": 3.0}
        append_row(metrics, step, data | {"trajectory_filter/reason/timeout": 1.0 if step == 7 else 0.0})
    append_row(metrics, 40, {"val-core/held-out/reward/mean@1": 0.7, "val-core/held-out-sampled/acc/mean@1": 0.6})
    counts = {"train": 512, "held-out": 300, "held-out-sampled": 300}
    return RunReport(
        tmp_path,
        tmp_path / "runs",
        ("x", "--set", "schedule.steps=3 "),
        counts,
        {"policy": 45.0, "train": 200.0},
        ("a: no tests",),
        baselines,
        metrics,
    )


def test_before_and_after_stand_beside_the_baselines(facts: RunReport, quickstart_config: RuntimeConfig) -> None:
    comparison = compare(read_rows(facts.metrics), quickstart_config, counts=facts.counts, baselines=facts.baselines)
    assert [line.solved for line in comparison.baselines] == [41.3, 60]
    assert [(line.how, line.rate) for line in comparison.before] == [("greedy", 0.3), ("at T=1", 0.25)]
    assert [(line.how, line.rate) for line in comparison.after] == [("greedy", 0.7), ("at T=1", 0.6)]
    greedy, sampled = gains(comparison)
    assert "+40.0 points by reinforcement" in greedy and "+50.0 points against the best baseline (fixed order" in greedy
    assert "+35.0 points" in sampled


def test_everything_is_printed_even_on_a_narrow_page(facts: RunReport, quickstart_config: RuntimeConfig) -> None:
    page = io.StringIO()
    print_summary(facts, quickstart_config, console=Console(file=page, width=80))
    text = page.getvalue()
    for expected in (
        "random",
        "scripted",
        "41.3/300",
        "70.0%",
        "64.6–74.9 %",
        "supervised stage in miniature",
        "Mean reward",
        "gen 80.0",
        "timeout 1",
        "left out: 1",
        str(facts.path),
        "liverl eval x --set 'schedule.steps=3 ' --checkpoint",
        "liverl infer x --set 'schedule.steps=3 ' -n 2",
        f"liverl run real-repos --runs-dir {facts.runs_dir}",
    ):
        assert expected in text


def test_a_run_without_any_score_still_closes(tmp_path: Path, quickstart_config: RuntimeConfig) -> None:
    page = io.StringIO()
    facts = RunReport(tmp_path, tmp_path, ("x",), {}, {}, (), tmp_path / "baselines.json", tmp_path / "metrics.jsonl")
    print_summary(facts, quickstart_config, console=Console(file=page, width=80))
    assert str(tmp_path) in page.getvalue()


def test_times_and_failures_are_summed_over_steps(facts: RunReport) -> None:
    rows = read_rows(facts.metrics)
    assert ("train: gen", 80.0) in time_by_part(rows, facts.phases)
    assert failure_counts(rows) == {"timeout": 1}


@given(total=st.integers(1, 1000), share=st.floats(0, 1))
def test_wilson_interval_holds_the_rate_and_stays_a_probability(total: int, share: float) -> None:
    low, high = wilson(share * total, total)
    assert 0.0 <= low <= share + 1e-9 and share - 1e-9 <= high <= 1.0


def test_wilson_refuses_impossible_counts() -> None:
    with pytest.raises(ValueError):
        wilson(3, 2)


@given(
    values=st.lists(st.floats(-10, 10), min_size=2, max_size=200), width=st.integers(5, 80), height=st.integers(2, 12)
)
def test_plot_has_the_asked_size(values: list[float], width: int, height: int) -> None:
    lines = line_plot(list(enumerate(values)), width=width, height=height)
    assert len(lines) == height + 2
    assert all(len(line) == 9 + width for line in lines[:height])


def test_plot_rises_where_the_values_rise() -> None:
    lines = line_plot([(0, 0.0), (10, 1.0)], width=4, height=2, low=0.0, high=1.0)
    assert lines[0][9:11] == "⠀⠀" and lines[0][12] != "⠀" and lines[1][9] != "⠀"
    assert line_plot([(0, 1.0)]) == []


def test_smoothing_keeps_the_mean_of_a_constant() -> None:
    assert smooth([2.0] * 5, width=3) == [2.0] * 5


@given(mixed=st.lists(st.integers(0, 8), min_size=1, max_size=6))
def test_steps_from_which_nothing_was_learnt_are_said(mixed: list[int]) -> None:
    rows = [Row(0, {}), *(Row(step, {"groups/total": 8.0, "groups/mixed": n}) for step, n in enumerate(mixed, 1))]
    said, idle = idle_words(rows), mixed.count(0)
    assert bool(said) == bool(idle)
    if idle:
        assert ("in all" in said) == (idle == len(mixed)) and "nothing was learnt" in said


def test_the_warning_stands_in_the_closing_words(facts: RunReport, quickstart_config: RuntimeConfig) -> None:
    append_row(facts.metrics, 7, {"groups/total": 8.0, "groups/mixed": 0.0})
    page = io.StringIO()
    print_summary(facts, quickstart_config, console=Console(file=page, width=400))
    assert "Warning: no group differed: nothing was learnt in all 1 steps" in page.getvalue()
