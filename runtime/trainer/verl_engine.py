"""verl's inference client as our ``Engine``: the proxy's calls go through verl's balancer to verl's replicas.

Upstream: ``verl/workers/rollout/llm_server.py`` (``LLMServerClient.generate``), 0.9.1. Knows nothing of sessions
beyond their id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from runtime.errors import Termination, TrialError
from runtime.rollouter.engine import Generation, Routing, SamplingParams

_FINISH: dict[str | None, Literal["stop", "length", "abort"]] = {
    "completed": "stop",
    "stop": "stop",
    "length": "length",
    "aborted": "abort",
    "abort": "abort",
}


class VerlEngine:
    """``client``: an ``LLMServerClient`` or one of its subclasses."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        """See ``Engine.generate``. A reply without log-probabilities is refused: it could not be trained on."""
        sampling: dict[str, Any] = {
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "repetition_penalty": 1.0,
            "logprobs": True,
            "stop_token_ids": list(params.stop_token_ids),
        }
        if params.seed is not None:
            sampling["seed"] = params.seed
        try:
            output = await self._client.generate(
                request_id=session, prompt_ids=list(prompt_ids), sampling_params=sampling
            )
        except Exception as error:
            raise _typed(error) from error
        tokens = list(output.token_ids)
        logprobs = list(output.log_probs or ())
        if len(logprobs) != len(tokens):
            raise TrialError(
                Termination.MODEL_UNAVAILABLE,
                f"the replica answered {len(tokens)} tokens with {len(logprobs)} log-probabilities",
            )
        versions = output.extra_fields.get("weight_versions")
        if versions is None or len(versions) != len(tokens):
            # Other backends name one version per call.
            versions = [int(output.extra_fields.get("global_steps") or 0)] * len(tokens)
        return Generation(
            token_ids=tokens,
            logprobs=logprobs,
            weight_versions=versions,
            finish_reason=_FINISH.get(output.stop_reason, "stop"),
            cached_tokens=int(output.extra_fields.get("num_cached_tokens") or 0),
            routing=_routing(getattr(output, "routed_experts", None)),
        )

    async def close(self) -> None:
        """The client belongs to verl."""


def _routing(rows: Any) -> Routing | None:
    """verl gives the rows of the whole prompt and reply, an array or a tensor of (tokens, layers, experts)."""
    if rows is None:
        return None
    import numpy as np

    array = np.ascontiguousarray(rows, dtype="<u2")
    return Routing(0, array.tobytes(), (array.shape[1], array.shape[2]), 2)


def _typed(error: Exception) -> Exception:
    """Ray wraps what a replica raised: a typed failure comes out as itself, a senseless request as ``ValueError``."""
    cause = getattr(error, "cause", error)
    if isinstance(cause, TrialError | ValueError):
        return cause
    last_line = (str(error).strip().splitlines() or ["no message"])[-1]
    return TrialError(Termination.MODEL_UNAVAILABLE, f"{type(error).__name__}: {last_line}")
