"""A request of the gate in vLLM's engine, and what comes of it.

Knows vLLM's engine alone. Upstream: ``vllm/v1/engine/async_llm.py`` (``AsyncLLM.generate``), 0.24.0; its parts are used
one by one, because the gate must know when a request has reached the engine.
"""

from __future__ import annotations

import asyncio
from typing import Any

from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind

from runtime.trainer.cuda.gate import Reply, Request


class VllmCall:
    """Implements ``gate.Call``."""

    def __init__(self, engine: Any, output: Any) -> None:
        self._engine = engine
        self._output = output

    async def reply(self) -> Reply:
        try:
            while not (found := self._output.get_nowait() or await self._output.get()).finished:
                pass
        except asyncio.CancelledError:
            await self._engine.abort(self._output.request_id, internal=True)
            raise
        finally:
            self._output.close()
        if not found.outputs:  # aborted before its first token
            return Reply([], [], "abort")
        first = found.outputs[0]
        tokens = list(first.token_ids)
        logprobs = [step[token].logprob for token, step in zip(tokens, first.logprobs or (), strict=False)]
        rows = getattr(first, "routed_experts", None)
        return Reply(tokens, logprobs, str(first.finish_reason), found.num_cached_tokens or 0, rows)


async def start(engine: Any, request: Request, *, adapter: Any) -> VllmCall:
    """``adapter``: the LoRA request that stands for the policy, None for the model's own weights. Raises ``ValueError``
    for a request that vLLM does not take."""
    wanted = request.sampling_params
    try:
        params = SamplingParams(
            max_tokens=wanted.max_tokens,
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            top_k=wanted.top_k,
            stop_token_ids=wanted.stop_token_ids,
            # The sampled token's alone, which needs no text.
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = TokensPrompt(prompt_token_ids=request.token_ids)
        output = await engine.add_request(request.request_id, prompt, params, lora_request=adapter)
    except VLLMValidationError as error:
        raise ValueError(str(error)) from None
    return VllmCall(engine, output)
