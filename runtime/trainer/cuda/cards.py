"""The GPUs of this machine as NVIDIA's driver lists them, and which of them a run takes: those that are free enough,
so that runs beside each other, and other users' processes, keep theirs.

Imports neither torch nor vLLM, which take long; starts ``nvidia-smi`` alone.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.trainer import joined_ray

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
MIN_GPU_GIB = 15.0
"""A card sold as 16 GB: two engines of a small model, and what torch and vLLM hold besides."""
_QUERY = "--query-gpu=index,uuid,memory.total,memory.free,name"


@dataclass(frozen=True)
class Card:
    """``place``: what ``CUDA_VISIBLE_DEVICES`` calls it."""

    place: str
    name: str
    memory_gib: float
    free_gib: float


@dataclass(frozen=True)
class Wanted:
    """``count`` cards of which vLLM takes ``share`` of the memory; it does not start where less is free."""

    count: int
    share: float = 0.0

    def fits(self, card: Card) -> bool:
        return card.memory_gib >= MIN_GPU_GIB and card.free_gib >= self.share * card.memory_gib


def wanted_by(tree: Mapping[str, Any]) -> Wanted:
    """What a ``verl.yaml`` asks of one machine, on which all of it runs."""
    trainer = tree.get("trainer") or {}
    rollout = (tree.get("actor_rollout_ref") or {}).get("rollout") or {}
    apart = int(rollout.get("nnodes") or 0) * int(rollout.get("n_gpus_per_node") or 0)
    count = int(trainer.get("nnodes") or 1) * int(trainer.get("n_gpus_per_node") or 1) + apart
    return Wanted(count, float(rollout.get("gpu_memory_utilization") or 0.0))


def visible() -> Sequence[Card] | str:
    """What ``nvidia-smi`` lists and ``CUDA_VISIBLE_DEVICES`` leaves, in its order, or why there is nothing to ask."""
    try:
        command = ["nvidia-smi", _QUERY, "--format=csv,noheader,nounits"]
        asked = subprocess.run(command, capture_output=True, timeout=30, check=False, text=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no NVIDIA driver: {error}"
    if asked.returncode != 0:
        said = (asked.stdout + asked.stderr).strip().splitlines() or [f"exit code {asked.returncode}"]
        return f"nvidia-smi: {said[-1]}"
    listed = []
    for line in asked.stdout.splitlines():
        index, uuid, memory, free, name = (part.strip() for part in line.split(",", 4))
        if not all(number.replace(".", "", 1).isdigit() for number in (memory, free)):
            return f"nvidia-smi gives no memory for {name}: {memory}, {free} free"
        listed.append((uuid, Card(index, name, float(memory) / 1024, float(free) / 1024)))
    chosen = os.environ.get(VISIBLE)
    if chosen is None:
        return [card for _, card in listed]
    places = [part.strip() for part in chosen.split(",") if part.strip()]
    named = [(part, uuid, card) for part in places for uuid, card in listed if part == card.place or _is(uuid, part)]
    return [Card(part, card.name, card.memory_gib, card.free_gib) for part, _, card in named]


def _is(uuid: str, part: str) -> bool:
    return not part.isdigit() and uuid.startswith(part)


def taken(wanted: Wanted, *, by_others: Collection[str] = ()) -> Mapping[str, str]:
    """Variables with which a run gets cards that are free enough, those that no other run has taken (``by_others``:
    places) first. None where a Ray that runs already deals out cards of its own, or where there are too few: whoever
    starts the run has said so."""
    found = [] if os.environ.get(joined_ray.ADDRESS) else visible()
    free = [card for card in found if wanted.fits(card)] if not isinstance(found, str) else []
    if len(free) < wanted.count:
        return {}
    first = sorted(free, key=lambda card: card.place in by_others)[: wanted.count]
    return {VISIBLE: ",".join(card.place for card in free if card in first), ORDER: "PCI_BUS_ID"}
