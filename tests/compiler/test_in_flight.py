"""Groups that are dropped are asked for again, in sync for two batches more than may be in flight."""

import json

import pytest
import yaml

from compiler import compile_in_memory
from tests.compiler.golden_cases import spec_path


@pytest.mark.parametrize(
    ("concurrency", "batch", "group", "spare", "wanted"),
    [(512, 16, 16, 0, 4), (512, 32, 16, 0, 3), (64, 32, 16, 0, 2), (2048, 16, 16, 0, 10), (512, 16, 16, 1, 3)],
)
def test_batches_in_flight_follow_from_the_trials(
    concurrency: int, batch: int, group: int, spare: int, wanted: int
) -> None:
    sets = [
        f"rollout.concurrency={concurrency}",
        f"rollout.spare_trials={spare}",
        f"schedule.train_batch_size={batch}",
        f"schedule.mini_batch_size={batch}",
        f"algorithm.group_size={group}",
    ]
    made = compile_in_memory(spec_path("one-gpu-real"), sets=sets).files["verl.yaml"]
    assert yaml.safe_load(made)["trainer"]["v1"]["sampler"]["sampler_kwargs"] == {
        "filter_groups_metric": "reward",
        "gen_batch_size": 1,
        "train_batch_size": batch,
        "max_inflight_gen_batches": wanted,
        "sync_refill_failed_groups": True,
    }


def test_other_modes_have_their_own_way() -> None:
    mode = json.dumps({"type": "colocate_async"})
    made = compile_in_memory(
        spec_path("one-gpu-real"), sets=[f"mode={mode}", "rollout.release_memory=true", "tasks.curriculum=null"]
    ).files["verl.yaml"]
    assert "max_inflight_gen_batches" not in yaml.safe_load(made)["trainer"]["v1"]["sampler"]["sampler_kwargs"]
