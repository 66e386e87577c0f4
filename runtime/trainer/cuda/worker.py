"""What LiveRL adds to vLLM's worker processes, on top of what verl adds.

Upstream: ``verl/workers/rollout/vllm_rollout/utils.py`` (``vLLMColocateWorkerExtension``), 0.9.1.
"""

from __future__ import annotations

from verl.workers.rollout.vllm_rollout.utils import VLLM_LORA_INT_ID, vLLMColocateWorkerExtension

from runtime.trainer.cuda.places import in_run
from runtime.trainer.cuda.served import adapter_value, parameters_value


class WorkerExtension(vLLMColocateWorkerExtension):  # type: ignore[misc]
    def liverl_served(self, adapter: bool = False) -> int | None:
        """See ``runtime.trainer.cuda.served``: of the parameters, or of the adapter alone."""
        runner = self.model_runner
        dtype = runner.vllm_config.model_config.dtype
        if not adapter:
            return parameters_value(runner.model, dtype=dtype)
        if runner.vllm_config.parallel_config.tensor_parallel_size > 1:
            return None
        return adapter_value(runner.lora_manager, VLLM_LORA_INT_ID, dtype=dtype)

    def _get_zmq_handle(self) -> str:
        return in_run(super()._get_zmq_handle())
