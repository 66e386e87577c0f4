"""When a run should not go on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.agent_loop.health import MEMORY_SAMPLES, WINDOW, HealthWatch, memory_in_use
from runtime.config.health import Health
from runtime.errors import Termination


@dataclass(frozen=True)
class Trial:
    termination: Termination = Termination.COMPLETED
    reward: float | None = 0.0
    mismatches: int = 0


LOST = Trial(Termination.SANDBOX_LOST, None)
CRASHED = Trial(Termination.VERIFIER_CRASHED, None)
STRANGE = Trial(mismatches=2)


def watch(limits: Health, *, memory: float = 0.5, free: float = 1e6, grouped: bool = True) -> HealthWatch:
    return HealthWatch(limits, grouped=grouped, memory=lambda: memory, free_mib=lambda: free)


@pytest.mark.parametrize(
    ("bad", "allowed", "said"),
    [
        (
            LOST,
            32,
            r"33 of the newest 64 trials ended without a grade \(33 sandbox_lost\); health.failed_trials",
        ),
        (CRASHED, 16, r"17 of the newest 64 trials were left without a grade by their verifier; .*verifier_crashes"),
        (STRANGE, 16, r"17 of the newest 64 trials hold tokens that cannot be trained on; health.token_mismatches"),
    ],
)
def test_a_share_of_bad_trials_ends_the_run(bad: Trial, allowed: int, said: str) -> None:
    health = watch(Health())
    for _ in range(WINDOW - 1):
        health.trial(bad)
    assert health.why_stop() is None, "too few to judge"
    for one in [Trial()] * (WINDOW - allowed) + [bad] * allowed:
        health.trial(one)
    assert health.why_stop() is None, "as many as are allowed, the older ones are forgotten"
    for one in [bad] * (allowed + 1) + [Trial()] * (WINDOW - allowed - 1):
        health.trial(one)
    why = health.why_stop()
    assert why is not None and re.match(said, why), why


def test_a_share_of_one_never_ends_it() -> None:
    health = watch(Health(failed_trials=1.0))
    for _ in range(WINDOW):
        health.trial(LOST)
    assert health.why_stop() is None


def test_memory_ends_it_when_it_stays_short() -> None:
    used = iter([0.98] * (MEMORY_SAMPLES - 1) + [0.5] + [0.98] * MEMORY_SAMPLES)
    health = HealthWatch(Health(), grouped=True, memory=lambda: next(used), free_mib=lambda: 1e6)
    assert all(health.why_stop() is None for _ in range(2 * MEMORY_SAMPLES - 1)), "a peak is no reason"
    assert health.why_stop() == "98.0% of the memory are in use, more than 97% for 10 samples in a row"


def test_a_full_disk_is_a_reason_of_its_own() -> None:
    """No checkpoint is written for it."""
    health = watch(Health(), free=100.0)
    assert health.disk_full() == "100 MiB of disk are free, less than 512" and health.why_stop() is None
    assert watch(Health()).disk_full() is None


def test_memory_is_the_containers_where_that_is_nearer(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 750 kB\n")
    assert memory_in_use(tmp_path) == 0.25
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("100000\n")
    (group / "memory.current").write_text("90000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 10000\nactive_file 15000\nslab_reclaimable 5000\n")
    assert memory_in_use(tmp_path) == 0.6
    (group / "memory.max").write_text("max\n")
    assert memory_in_use(tmp_path) == 0.25


@pytest.mark.parametrize(
    ("reward", "advice"), [(0.0, "0 of 8 trials solved.*easier tasks"), (1.0, "8 of 8 trials solved.*harder tasks")]
)
def test_a_run_whose_siblings_are_all_alike_ends(reward: float, advice: str) -> None:
    health = watch(Health(signal_groups=4))
    for number in range(3):
        health.group([reward, reward], step=1 + number)
    health.group([], step=3)  # all of its trials failed: says nothing
    assert health.why_stop() is None, "too few to judge"
    health.group([reward, reward], step=4)
    why = health.why_stop()
    assert why is not None and re.search(rf"none of the first 4 groups .*{advice}", why), why


def test_one_mixed_group_opens_the_gate_for_good() -> None:
    health = watch(Health(signal_groups=2))
    health.group([0.0, 0.5], step=1)
    for _ in range(9):
        health.group([0.0, 0.0], step=2)
        assert health.why_stop() is None


def test_where_there_are_no_siblings_trials_are_compared_with_each_other() -> None:
    limits = Health(signal_groups=3)
    health, alike, compared = watch(limits, grouped=False), watch(limits, grouped=False), watch(limits)
    for reward in (0.0, 0.0, 1.0):
        health.group([reward, reward], step=1)
        alike.group([0.0, 0.0], step=1)
        compared.group([reward, reward], step=1)
    assert health.why_stop() is None, "PPO and REINFORCE++ compare over the whole batch, whatever the group's size"
    assert "all trials of the first 3 groups have the same reward" in (alike.why_stop() or "")
    assert compared.why_stop() is not None


def test_what_is_left_of_a_group_alone_says_nothing_where_siblings_are_compared() -> None:
    health = watch(Health(signal_groups=2))
    for _ in range(4):
        health.group([0.0], step=1)
    assert health.why_stop() is None


def test_a_run_that_goes_on_or_wants_no_gate_is_not_judged() -> None:
    for limits, step in ((Health(signal_groups=2), 40), (Health(signal_groups=None), 1)):
        health = watch(limits)
        for _ in range(4):
            health.group([1.0, 1.0], step=step)
        assert health.why_stop() is None
