"""Finished groups into verl's TransferQueue: keys, tags and fields exactly as the V1 trainer reads them.

Upstream contract: ``verl/trainer/ppo/v1/agent_loop_tq.py`` and ``replay_buffer.py``, 0.9.1. Knows nothing of how a
trial came about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from tensordict import NonTensorStack, TensorDict

from runtime.agent_loop.types import TrialResult
from runtime.errors import RunError
from runtime.proxy.types import Sample
from runtime.rollouter.engine import Routing

KEPT_ROW_FIELDS = ("uid", "data_source", "reward_model", "extra_info", "global_steps", "index")
"""Dataset columns that the trainer reads again; the rest (prompt messages, dummies) would only be copied around."""


@dataclass(frozen=True)
class Trajectories:
    """What one ``kv_batch_put`` takes: equal-length lists."""

    keys: list[str]
    fields: list[dict[str, Any]]
    tags: list[dict[str, Any]]


ORDER = "order"
"""Of a row, and tag of its trajectories: prompts as they were given out, counted. Uids are random."""


GIVEN_OUT: dict[str, int] = {}
"""The ``ORDER`` of prompts for training that were given out and are not taken or dropped, by uid: known before any of
their trials has ended. Written by the agent loop manager, read by the sampler, in one process."""


def kept_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is published with each trajectory of a row."""
    return {name: row[name] for name in (*KEPT_ROW_FIELDS, ORDER) if name in row}


def trajectories(row: Mapping[str, Any], results: Sequence[TrialResult]) -> Trajectories:
    """Keys, fields and tags for every sample of every result. ``results`` must all be graded and hold at least one
    sample. Raises ``RunError`` where some came with a mixture's experts and others without."""
    _all_or_none_routed(results)
    batch = Trajectories([], [], [])
    kept = {name: row[name] for name in KEPT_ROW_FIELDS if name in row}
    for result in results:
        assert result.reward is not None, "only graded trials are published"
        session = result.key.index
        for index, sample in enumerate(result.samples):
            batch.keys.append(f"{row['uid']}_{session}_{index}")
            batch.fields.append({**kept, **_fields(result, sample), "session_id": session})
            batch.tags.append({**_tag(sample, int(row["global_steps"])), ORDER: row.get(ORDER, 0)})
    return batch


def _fields(result: TrialResult, sample: Sample) -> dict[str, Any]:
    prompts = torch.tensor(sample.prompt_ids, dtype=torch.int64)
    responses = torch.tensor(sample.response_ids, dtype=torch.int64)
    mask = torch.tensor(sample.response_mask, dtype=torch.int64)
    rewards = torch.zeros(len(responses), dtype=torch.float32)
    assert result.reward is not None
    rewards[-1] = result.reward
    length = len(prompts) + len(responses)
    replayed = {} if sample.routed_experts is None else {"routed_experts": _routing(sample.routed_experts)}
    return {
        **replayed,
        "prompts": prompts,
        "responses": responses,
        "response_mask": mask,
        "loss_mask": mask,
        "rollout_log_probs": torch.tensor(sample.response_logprobs, dtype=torch.float32),
        "rm_scores": rewards,
        "input_ids": torch.cat([prompts, responses]),
        "position_ids": torch.arange(length),
        "multi_modal_inputs": {},
        "num_turns": result.model_calls,
        # "reward_extra_info" must exist (verl reads it unconditionally) and must hold no "acc": scores are reported as
        # val-core/<set>/reward/..., and verl prefers "acc" wherever it finds one.
        "extra_fields": {"trial_id": result.key.trial_id, "reward_extra_info": {}},
    }


def _all_or_none_routed(results: Sequence[TrialResult]) -> None:
    without = [one.key.trial_id for one in results if any(sample.routed_experts is None for sample in one.samples)]
    if without and any(one.routed_bytes for one in results):
        raise RunError(
            f"routing_replay: the engine gave the experts of some replies alone; trials without: {', '.join(without)}. "
            "Mend the engine, or set routing_replay to 'off'"
        )


def _routing(routing: Routing) -> torch.Tensor:
    """verl's form: (prompt + response, layers, experts per token), int16, indexed by absolute position."""
    rows = np.frombuffer(routing.rows, dtype=f"<u{routing.item_bytes}").reshape(-1, *routing.shape)
    return torch.from_numpy(rows.astype(np.int16))


def _tag(sample: Sample, global_steps: int) -> dict[str, Any]:
    sampled = [v for v, m in zip(sample.weight_versions, sample.response_mask, strict=True) if m] or [global_steps]
    return {
        "status": "success",
        "prompt_len": len(sample.prompt_ids),
        "response_len": len(sample.response_ids),
        "seq_len": len(sample.prompt_ids) + len(sample.response_ids),
        "global_steps": global_steps,
        "min_global_steps": min(sampled),
        "max_global_steps": max(sampled),
    }


def finished_groups(partition: str) -> list[str]:
    """The groups that a checkpoint has brought back with their trajectories."""
    held = (tq.kv_list(partition) or {}).get(partition, {})
    return [key for key, tag in held.items() if tag.get("is_prompt") and tag.get("status") == "finished"]


async def mark_running(uid: str, *, partition: str) -> None:
    await tq.async_kv_put(key=uid, partition_id=partition, tag={"status": "running"})


async def put_trajectories(row: Mapping[str, Any], results: Sequence[TrialResult], partition: str) -> None:
    """What trials of a group have to offer. Any process of the run may do it; the group's status comes after all."""
    batch = trajectories(row, results)
    await tq.async_kv_batch_put(
        keys=batch.keys, fields=as_tensordict(batch.fields), tags=batch.tags, partition_id=partition
    )


async def publish_group(row: Mapping[str, Any], results: Sequence[TrialResult], *, partition: str) -> None:
    """Put the group's trajectories, then its status."""
    if results:
        await put_trajectories(row, results, partition)
    await end_group(row, partition=partition, published=bool(results))


async def end_group(row: Mapping[str, Any], *, partition: str, published: bool) -> None:
    """The group's one terminal status: ``finished``, or ``failure`` when there is nothing to publish.

    Called once per group, after every trial of it has settled: a later write would hit a group that the trainer has
    cleared.
    """
    status = "finished" if published else "failure"
    await tq.async_kv_put(key=row["uid"], partition_id=partition, tag={"status": status})


def as_tensordict(rows: Sequence[Mapping[str, Any]]) -> TensorDict:
    """Rows of equal fields as verl keeps them (``verl/utils/tensordict_utils.py``, whose import takes ten seconds and
    half a gigabyte): tensors of one shape are stacked, others nested, the rest are lists."""

    def column(values: list[Any]) -> Any:
        if not all(isinstance(value, torch.Tensor) for value in values):
            return NonTensorStack(*values)
        if all(value.shape == values[0].shape for value in values):
            return torch.stack(values)
        return torch.nested.as_nested_tensor(values, layout=torch.jagged)

    columns = {name: column([row[name] for row in rows]) for name in rows[0]}
    return TensorDict(columns, batch_size=[len(rows)])
