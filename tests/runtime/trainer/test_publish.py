"""What verl gets to see, compared with what verl's own worker would have written."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from runtime.agent_loop.types import TrialResult
from runtime.errors import RunError, Termination
from runtime.proxy.types import Sample
from runtime.rollouter.engine import Routing
from tests.runtime.agent_loop.conftest import make_key
from tests.runtime.agent_loop.test_step_metrics import trial

# verl warns about its own imports.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

ROW = {
    "uid": "1111-2222",
    "data_source": "train",
    "reward_model": {"style": "rule", "ground_truth": ""},
    "extra_info": {"task": "/tasks/calc"},
    "global_steps": 9,
    "raw_prompt": [{"role": "user", "content": "x" * 1000}],
    "dummy_tensor": 0,
}


def results() -> list[TrialResult]:
    first = trial(1.0, key=make_key(index=0))
    two = (Sample([1], [2, 3], [1, 1], [-0.5, -0.6], [8, 8]), Sample([1, 9], [4], [1], [-0.7], [7]))
    return [first, trial(0.25, key=make_key(index=3), samples=two)]


def test_rows_are_put_as_verl_would_put_them() -> None:
    """Of equal lengths and of different ones."""
    import torch
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    from runtime.trainer.publish import as_tensordict, trajectories

    for chosen in (results(), results()[:1], [results()[0], results()[0]]):
        fields = trajectories(ROW, chosen).fields
        ours, theirs = as_tensordict(fields), list_of_dict_to_tensordict(fields)
        assert set(ours.keys()) == set(theirs.keys()) and ours.batch_size == theirs.batch_size
        for name in theirs.keys():  # noqa: SIM118
            mine, verls = ours.get(name), theirs.get(name)
            assert type(mine) is type(verls), name
            if not isinstance(verls, torch.Tensor):
                assert mine.tolist() == verls.tolist(), name
            elif verls.is_nested:
                assert mine.layout == verls.layout
                assert all(torch.equal(a, b) for a, b in zip(mine.unbind(), verls.unbind(), strict=True)), name
            else:
                assert torch.equal(mine, verls), name


def test_fields_equal_those_of_verls_own_agent_loop_output() -> None:
    import torch
    from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

    from runtime.trainer.publish import trajectories

    batch = trajectories(ROW, results())
    assert batch.keys == ["1111-2222_0_0", "1111-2222_3_0", "1111-2222_3_1"]
    sample = results()[0].samples[0]
    theirs = AgentLoopOutput(
        prompt_ids=sample.prompt_ids,
        response_ids=sample.response_ids,
        response_mask=sample.response_mask,
        response_logprobs=sample.response_logprobs,
        reward_score=1.0,
        num_turns=2,
        metrics=AgentLoopMetrics(),
    ).as_dict()
    ours = batch.fields[0]
    for name in ("prompts", "responses", "response_mask", "rollout_log_probs", "rm_scores"):
        assert torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype, name
    assert ours["input_ids"].tolist() == [1, 2, 3, 4, 5] and ours["position_ids"].tolist() == [0, 1, 2, 3, 4]
    assert len({frozenset(fields) for fields in batch.fields}) == 1
    assert not {"raw_prompt", "dummy_tensor"} & ours.keys()
    # A session's reward stands on every one of its samples, as in verl's worker.
    assert [float(fields["rm_scores"][-1]) for fields in batch.fields] == [1.0, 0.25, 0.25]


def test_tags_carry_whole_numbers_of_the_versions_that_wrote_the_tokens() -> None:
    from runtime.trainer.publish import trajectories

    tags = trajectories(ROW, results()).tags
    assert [(tag["min_global_steps"], tag["max_global_steps"]) for tag in tags] == [(7, 8), (8, 8), (7, 7)]
    assert all(tag["seq_len"] == tag["prompt_len"] + tag["response_len"] for tag in tags)
    assert all(type(tag[k]) is int for tag in tags for k in tag if k != "status")


def test_a_group_ends_with_one_terminal_status_after_its_trajectories(monkeypatch: pytest.MonkeyPatch) -> None:
    import transfer_queue as tq

    from runtime.trainer.publish import publish_group

    calls: list[tuple[str, Any]] = []

    async def put(key: str, *, partition_id: str, tag: dict[str, Any]) -> None:
        calls.append((tag["status"], partition_id))

    async def batch_put(keys: list[str], fields: Any, tags: Any, partition_id: str) -> None:
        assert fields.batch_size[0] == len(keys)
        calls.append(("trajectories", len(keys)))

    monkeypatch.setattr(tq, "async_kv_put", put)
    monkeypatch.setattr(tq, "async_kv_batch_put", batch_put)
    asyncio.run(publish_group(ROW, results(), partition="train"))
    asyncio.run(publish_group(ROW, [], partition="val"))
    assert calls == [("trajectories", 3), ("finished", "train"), ("failure", "val")]


def test_an_ungraded_trial_is_never_published() -> None:
    from runtime.trainer.publish import trajectories

    with pytest.raises(AssertionError, match="graded"):
        trajectories(ROW, [replace(results()[0], reward=None, termination=Termination.SANDBOX_LOST)])


def test_experts_of_some_replies_alone_are_no_batch() -> None:
    from runtime.trainer.publish import trajectories

    first, second = results()
    (sample,) = first.samples
    rows = len(sample.prompt_ids) + len(sample.response_ids)
    routed = replace(first, samples=(replace(sample, routed_experts=Routing(0, bytes(rows), (1, 1), 1)),))
    assert "routed_experts" in trajectories(ROW, [routed]).fields[0]
    with pytest.raises(RunError, match=f"trials without: {second.key.trial_id}[.] Mend the engine"):
        trajectories(ROW, [routed, second])
