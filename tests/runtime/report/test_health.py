"""Health lamps: each is well on a healthy run, ill on its own illness, and unknown where the run says nothing."""

from __future__ import annotations

import pytest

from runtime.report.curves import derived
from runtime.report.health import SILENT_SEC, lamps
from runtime.telemetry.metrics import Row

HEALTHY = {
    "critic/score/mean": 0.4,
    "actor/lr": 1e-5,
    "actor/grad_norm": 0.3,
    "training/rollout_actor_probs_pearson_corr": 0.999,
    "rollout_corr/kl": 3e-4,
    "num_turns/mean": 6.0,
    "agent_loop/trials": 64.0,
    "termination/env_setup_failed": 0.0,
    "trajectory_filter/invalid_ratio": 0.02,
    "response_length/clip_ratio": 0.01,
    "groups/no_signal_frac": 0.3,
    "rollout_corr/rollout_is_eff_sample_size": 0.97,
    "fully_async/trainer/idle_ratio": 0.1,
}
ILL = {
    "score moves": ({"critic/score/mean": 0.0}, "ill"),
    "learning rate": ({"actor/lr": 0.0}, "ill"),
    "rollout and trainer agree": ({"training/rollout_actor_probs_pearson_corr": 0.75}, "ill"),
    "rollout KL": ({"rollout_corr/kl": -0.02}, "ill"),
    "sandboxes start": ({"termination/env_setup_failed": 60.0}, "ill"),
    "trials in the loss": ({"trajectory_filter/invalid_ratio": 0.5}, "ill"),
    "responses fit": ({"response_length/clip_ratio": 0.6}, "ill"),
    "groups differ": ({"groups/no_signal_frac": 1.0}, "ill"),
    "effective samples": ({"rollout_corr/rollout_is_eff_sample_size": 0.06}, "ill"),
    "trainer busy": ({"fully_async/trainer/idle_ratio": 0.8}, "warn"),
}
LAST = {"gradient norm": {"actor/grad_norm": 0.02}, "turns": {"num_turns/mean": 1.1}}
"""Ill by comparison with the run's own past."""


def states(rows: list[Row]) -> dict[str, str]:
    return {lamp.name: lamp.state for lamp in lamps(rows) if lamp.name != "signs of life"}


def test_a_healthy_run_is_well() -> None:
    assert set(states([Row(step, HEALTHY) for step in range(1, 9)]).values()) == {"ok"}


@pytest.mark.parametrize("name", ILL)
def test_an_illness_shows_at_its_lamp_alone(name: str) -> None:
    change, state = ILL[name]
    found = states([Row(step, {**HEALTHY, **change}) for step in range(1, 9)])
    assert {lamp: shown for lamp, shown in found.items() if shown != "ok"} == {name: state}


@pytest.mark.parametrize("name", LAST)
def test_a_run_is_held_against_its_own_past(name: str) -> None:
    found = states([*(Row(step, HEALTHY) for step in range(1, 9)), Row(9, {**HEALTHY, **LAST[name]})])
    assert {lamp: shown for lamp, shown in found.items() if shown != "ok"} == {name: "ill"}


def test_what_is_not_emitted_is_unknown() -> None:
    assert set(states([]).values()) == set(states([Row(1, {})]).values()) == {"unknown"}


def test_lag_explains_a_difference() -> None:
    lagging = {**HEALTHY, "rollout_corr/kl": 0.02, "training/off_policy/trajectory_staleness/mean": 1.0}
    assert states([Row(1, lagging)])["rollout KL"] == "warn"


@pytest.mark.parametrize(
    ("alive", "silent", "state"),
    [(True, SILENT_SEC + 1, "ill"), (True, SILENT_SEC / 2, "warn"), (True, 5.0, "ok"), (True, None, "unknown"),
     (False, 1e6, "unknown")],
)  # fmt: skip
def test_a_living_run_that_is_silent_hangs(alive: bool, silent: float | None, state: str) -> None:
    assert lamps([], alive=alive, silent_sec=silent)[-1].state == state


def test_numbers_that_follow_from_a_row() -> None:
    data = {
        "critic/score/mean": 0.5, "agent_loop/trials": 100.0, "agent_loop/ungraded": 0.0, "response_length/mean": 90.0,
        "num_turns/mean": 3.0, "timing_s/step": 10.0, "timing_s/gen": 6.0, "timing_s/agent_loop/step": 5.0,
        "perf/total_num_tokens": 500.0, "val-core/held-out/reward/mean@1": 0.25,
    }  # fmt: skip
    found = derived(Row(1, data), counts={"held-out": 40})
    assert found["derived/tokens_per_turn"] == 30.0
    assert found["derived/tokens_per_s"] == 50.0
    assert found["derived/trainer_idle"] == pytest.approx(0.6)
    assert found["derived/rollout_idle"] == pytest.approx(0.5)
    assert "derived/image_cache" not in found
    counts = {"sandbox/images_built": 1.0, "sandbox/images_found": 1.0, "sandbox/images_reused": 6.0}
    assert derived(Row(1, counts), counts={}) == {"derived/image_cache": 0.875}
    # Wilson's interval of 50 of 100 and of 10 of 40.
    assert (found["solve/train/low"], found["solve/train/high"]) == pytest.approx((0.404, 0.596), abs=5e-4)
    assert (found["solve/held-out/held-out/low"], found["solve/held-out/held-out/high"]) == pytest.approx(
        (0.142, 0.402), abs=5e-4
    )
    assert derived(Row(1, {}), counts={}) == {}
    assert derived(Row(1, {"critic/score/mean": -1.0}), counts={}) == {"solve/train": -1.0}
