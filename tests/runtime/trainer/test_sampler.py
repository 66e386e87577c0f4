"""verl's replay buffers as they are used: filtered groups and the ledger, on a TransferQueue of plain dicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime import processes

# verl warns about its own imports.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

SPEC = Path(__file__).parents[3] / "specs" / "one-gpu.jsonnet"


class Queue:
    """In the TransferQueue's place."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, Any]] = {}
        self.rewards: dict[str, float] = {}

    def publish(self, uid: str, *rewards: float, order: int) -> None:
        self.held[uid] = {"is_prompt": True, "global_steps": 1, "status": "finished"}
        for index, reward in enumerate(rewards):
            key = f"{uid}_{index}_0"
            self.held[key] = {"order": order, "min_global_steps": 1, "global_steps": 1}
            self.rewards[key] = reward

    def kv_list(self) -> dict[str, Any]:
        return {"train": {key: dict(tag) for key, tag in self.held.items()}}

    def kv_clear(self, *, partition_id: str, keys: list[str]) -> None:
        for key in keys:
            self.held.pop(key, None)

    def kv_batch_get(self, *, keys: list[str], partition_id: str, select_fields: list[str]) -> Any:
        import torch

        assert select_fields == ["rm_scores"]
        return {"rm_scores": [torch.tensor([0.0, self.rewards[key]]) for key in keys]}


class Ledger:
    def __init__(self) -> None:
        self.was_taken: list[str] = []
        self.was_dropped: list[str] = []

    def taken(self, groups: list[str], *, step: int) -> None:
        self.was_taken += groups

    def dropped(self, groups: list[str], *, step: int, reason: str) -> None:
        self.was_dropped += groups


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_groups_without_signal_are_replaced_and_the_ledger_hears_of_all(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omegaconf import OmegaConf
    from verl.trainer.ppo.v1 import replay_buffer

    from compiler import compile_in_memory
    from runtime.trainer import sampler

    sets = ["algorithm.drop_uniform_groups=true"]
    if mode != "sync":
        sets.append('mode={"type": "colocate_async", "warmup_batches": 0, "max_staleness": 8, "stale": "drop"}')
    verl = OmegaConf.create(compile_in_memory(SPEC, sets=sets).files["verl.yaml"])
    settings = verl.trainer.v1.sampler
    queue, ledger, asked = Queue(), Ledger(), []
    monkeypatch.setattr(replay_buffer, "tq", queue)
    monkeypatch.setattr(sampler, "LEDGER", ledger)
    monkeypatch.setenv(processes.MARK, str(tmp_path))
    queue.publish("even", 1.0, 1.0, order=1)
    queue.publish("late", 0.0, 1.0, order=3)

    def refill(count: int) -> None:
        asked.append(count)
        queue.publish("early", 1.0, 0.0, order=2)
        queue.publish("spare", 1.0, 0.0, order=4)

    made = getattr(sampler, settings.custom_sampler.name)(
        trainer_mode=mode,
        trainer_config={},
        max_off_policy_threshold=8,
        max_off_policy_strategy="drop",
        sampler_kwargs=settings.sampler_kwargs,
        refill_fn=refill,
    )
    batch, metrics = made.sample(1, "train", 2)
    assert batch.keys == ["early_0_0", "early_1_0", "late_0_0", "late_1_0"]
    assert ledger.was_taken == ["early", "late"]
    # Synchronous: what was asked for beyond the batch is not kept for the next one.
    assert (asked, ledger.was_dropped) == (([3], ["even", "spare"]) if mode == "sync" else ([1], ["even"]))
    assert metrics["training/filter_groups/evicted_samples"] == 1
    assert metrics["training/refilled_groups"] == asked[0]


def test_a_step_begins_as_many_groups_as_it_probably_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer come too late than by verl's two for each that is left out, and which are trained does not depend on how
    long each took."""
    from tests.runtime.trainer.refill_simulation import simulate, two_for_one

    monkeypatch.setenv(processes.MARK, str(tmp_path))
    ours = simulate(mixed=0.3, steps=4)
    assert simulate(mixed=0.3, steps=4, hurry=1).batches == ours.batches
    theirs = simulate(mixed=0.3, steps=4, kind=two_for_one())
    assert ours.begun < 0.9 * theirs.begun and ours.wasted < 0.7 * theirs.wasted
    assert ours.seconds < theirs.seconds
    assert ours.batches[0] == theirs.batches[0], "the oldest with a difference, either way"


def test_late_groups_are_trained_by_the_next_step_where_staleness_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.runtime.trainer.refill_simulation import simulate

    monkeypatch.setenv(processes.MARK, str(tmp_path))
    one = simulate(mixed=0.3, steps=6, staleness=2, ahead=1)
    assert max(one.behind) == 1 and one.surplus == 0
    assert one.stale < 0.1 * one.trained and one.begun * 0.3 < 1.4 * (one.trained + 16)
