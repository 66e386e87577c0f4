"""What LiveRL adds to vLLM's worker processes, on top of what verl adds.

Upstream: ``verl/workers/rollout/vllm_rollout/utils.py`` (``vLLMColocateWorkerExtension``), 0.9.1.
"""

from __future__ import annotations

import sys

from verl.workers.rollout.vllm_rollout.utils import VLLM_LORA_INT_ID, vLLMColocateWorkerExtension

from runtime.rollouter.fingerprint import added
from runtime.trainer.cuda.places import in_run
from runtime.trainer.cuda.served import adapter_value, parameters_value
from runtime.trainer.startup import reached

if "runtime.trainer.cuda.warm_up" not in sys.orig_argv:
    # vLLM imports this when all else is imported.
    reached("the engine's process")


class WorkerExtension(vLLMColocateWorkerExtension):  # type: ignore[misc]
    def liverl_served(self, *, base: bool, adapter: bool) -> int | str:
        """See ``runtime.trainer.cuda.served``: of the parameters, of the adapter, or of the policy that both make."""
        runner = self.model_runner
        dtype = runner.vllm_config.model_config.dtype
        shares: list[int | str] = []
        if base:
            shares.append(parameters_value(runner.model, dtype=dtype))
        if adapter:
            shares.append(adapter_value(runner.lora_manager, VLLM_LORA_INT_ID, dtype=dtype))
        unknown = [share for share in shares if isinstance(share, str)]
        return unknown[0] if unknown else added(share for share in shares if isinstance(share, int))

    def _get_zmq_handle(self) -> str:
        return in_run(super()._get_zmq_handle())
