"""The external verl module of runs on GPUs (``VERL_USE_EXTERNAL_MODULES``), loaded in every process of verl.

It puts LiveRL's replica and weight adapter in the places of verl's for ``rollout.name=vllm``, by name: vLLM is imported
where one of them is made, and nowhere else. Upstream: ``verl/workers/rollout/{replica,base}.py``, 0.9.1.
"""

from __future__ import annotations

from typing import Any

from verl.workers.rollout import base as rollout_base
from verl.workers.rollout.replica import RolloutReplicaRegistry

from runtime.trainer.cuda.early import begin
from runtime.trainer.startup import imported

ROLLOUT_NAME = "vllm"


def _replica() -> Any:
    from runtime.trainer.cuda.replica import VllmReplica

    return VllmReplica


RolloutReplicaRegistry.register(ROLLOUT_NAME, _replica)
# The adapter table has no public register function.
rollout_base._ROLLOUT_REGISTRY[(ROLLOUT_NAME, "async")] = "runtime.trainer.cuda.adapter.VllmServerAdapter"
imported()
begin()
