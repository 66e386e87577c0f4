"""Every rule of diagnosis fires on its own fixture and on no other: the whole matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from runtime.report.diagnosis import RULES, diagnose
from runtime.report.facts import Facts
from runtime.telemetry.metrics import Row

Change = Callable[[int, dict[str, float]], None]


def healthy(*changes: Change, steps: int = 12, **facts: Any) -> Facts:
    """A run of 12 steps that learns; ``changes`` alter each row."""
    rows = []
    for step in range(steps + 1):
        data: dict[str, float] = {
            "agent_loop/trials": 64.0,
            "agent_loop/ungraded": 0.0,
            "proxy_num_calls": 300.0,
            "proxy_tokens/trained": 900.0,
            "timing_s/agent_loop/harbor_verifier/mean": 1.0,
        }
        if step:
            data |= {
                "critic/score/mean": 0.3 + 0.03 * step,
                "num_turns/mean": 6.0,
                "actor/lr": 1e-5,
                "actor/grad_norm": 0.3,
                "actor/entropy": 0.9 - 0.02 * step,
                "timing_s/step": 900.0,
                "timing_s/gen": 400.0,
                "sandbox/start_p50": 3.0,
                "rollout_corr/rollout_log_ppl": 0.3,
                "rollout_corr/training_log_ppl": 0.3,
                "training/off_policy/trajectory_staleness/max": 1.0,
                "training/off_policy/evicted_samples": 0.0,
                "training/rollout_failure/evicted_samples": 0.0,
                "groups/total": 8.0,
                "groups/mixed": 6.0,
            }
        if step % 6 == 0:
            data |= {
                "val-core/held-out/reward/mean@1": 0.3 + 0.03 * step,
                "val-aux/num_turns/mean": 6.0,
                "val-aux/agent_loop/trials": 200.0,
                "val-aux/agent_loop/ungraded": 0.0,
            }
        for change in changes:
            change(step, data)
        rows.append(Row(step, data))
    default: dict[str, Any] = {
        "counts": {"held-out": 200}, "alive": True, "status": {"sandboxes": 8, "tokens_per_sec": 900.0, "trials": 64},
        "status_age_sec": 1.0, "quiet_sec": 20.0, "disk_used": 0.5, "batch": 64, "staleness_bound": 4.0,
        "silent_logprobs": (0, 8),
    }  # fmt: skip
    return Facts(rows=rows, **{**default, **facts})


def put(**values: float) -> Change:
    """These numbers at every training step that has them or lacks them; ``__`` stands for a slash."""

    def change(step: int, data: dict[str, float]) -> None:
        if step:
            data.update({name.replace("__", "/"): value for name, value in values.items()})

    return change


def _validation(**values: float) -> Change:
    def change(step: int, data: dict[str, float]) -> None:
        if step % 6 == 0:
            data.update({name.replace("__", "/").replace("AT", "@"): value for name, value in values.items()})

    return change


def _no_sandbox(step: int, data: dict[str, float]) -> None:
    data.update({"termination/env_setup_failed": 62.0, "agent_loop/ungraded": 62.0, "proxy_num_calls": 4.0})
    if step:
        data.update({"critic/score/mean": 0.0, "num_turns/mean": 0.1})


def _jumps(step: int, data: dict[str, float]) -> None:
    if step:
        data["actor/grad_norm"] = 0.0
    if step == 12:
        data["val-core/held-out/reward/mean@1"] = 0.9


def _slower(step: int, data: dict[str, float]) -> None:
    if step:
        data["sandbox/start_p50"] = 30.0 + 9.5 * step


def _collapses(step: int, data: dict[str, float]) -> None:
    if step:
        data.update({"actor/entropy": 0.9 * 0.7**step, "critic/score/mean": 0.4})


def _no_mask(step: int, data: dict[str, float]) -> None:
    data.update({"proxy_tokens/trained": 0.0, "proxy_unread_calls": 250.0})
    if step:
        data.update({"critic/score/mean": 0.0, "num_turns/mean": 1.0})


FIXTURES: dict[str, Facts] = {
    "grader-broken": healthy(put(critic__score__mean=0.0)),
    "no-tools": healthy(put(critic__score__mean=0.0, num_turns__mean=1.05)),
    "mask-empty": healthy(_no_mask),
    "logprobs-zero": healthy(silent_logprobs=(8, 8)),
    "no-sandbox": healthy(_no_sandbox),
    "sandbox-stuck": healthy(
        put(actor__perf__max_memory_allocated_gb=70.0),
        status={"sandboxes": 64, "tokens_per_sec": 0.0, "trials": 64, "done": 0},
        quiet_sec=2500.0,
    ),
    "no-engine": healthy(steps=-1, starting_sec=2000.0, engines=False, quiet_sec=None, status={}, status_age_sec=None),
    "illegal-access": healthy(
        steps=0, log="step\nCUDA error: an illegal memory access was encountered\n", alive=False, status={}
    ),
    "validation-partial": healthy(_validation(**{"val-aux__agent_loop__trials": 68.0})),
    "validation-no-agent": healthy(
        _validation(**{"val-core__held-out__reward__meanAT1": 0.0, "val-aux__num_turns__mean": 0.0})
    ),
    "validation-jump": healthy(_jumps),
    "starts-slow-down": healthy(_slower),
    "disk-full": healthy(disk_used=0.999),
    "lr-zero": healthy(
        put(actor__lr=0.0, critic__score__mean=0.4), _validation(**{"val-core__held-out__reward__meanAT1": 0.4})
    ),
    "entropy-collapse": healthy(_collapses),
    "rollout-too-slow": healthy(
        put(training__off_policy__trajectory_staleness__max=4.0, training__off_policy__evicted_samples=12.0)
    ),
    "refilled-groups": healthy(put(training__rollout_failure__evicted_samples=3.0, timing_s__gen=800.0)),
    "small-batch": healthy(put(agent_loop__trials=40.0)),
}


def test_every_rule_has_its_fixture() -> None:
    assert [rule.id for rule in RULES] == list(FIXTURES)
    assert len(RULES) == 18


@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_fires_its_rule_and_no_other(name: str) -> None:
    found = diagnose(FIXTURES[name])
    assert [one.rule for one in found] == [name]
    assert any(letter.isdigit() for letter in found[0].evidence) or name == "illegal-access"
    assert found[0].advice


def test_a_healthy_run_has_no_finding() -> None:
    assert diagnose(healthy()) == []
    assert diagnose(Facts()) == []


def test_a_schedule_may_end_at_zero_and_a_sure_policy_is_no_collapse() -> None:
    def last(step: int, data: dict[str, float]) -> None:
        if step == 12:
            data["actor/lr"] = 0.0

    def sure(step: int, data: dict[str, float]) -> None:
        if step:
            data.update({"actor/entropy": 0.9 * 0.7**step, "critic/score/mean": 0.95})

    assert diagnose(healthy(last, sure)) == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("disk-full", {"disk_used": 0.5, "log": "OSError: [Errno 28] No space left on device"}),
        ("disk-full", {"disk_used": 0.5, "cause": "the disk of /runs is full (3 MiB free)"}),
    ],
)
def test_other_signs_of_the_same(name: str, changes: dict[str, Any]) -> None:
    assert [one.rule for one in diagnose(dataclasses.replace(healthy(), **changes))] == [name]


def test_the_trainer_sees_missing_logprobs_too() -> None:
    facts = healthy(put(rollout_corr__rollout_log_ppl=0.0, rollout_corr__training_log_ppl=0.7))
    assert [one.rule for one in diagnose(facts)] == ["logprobs-zero"]
