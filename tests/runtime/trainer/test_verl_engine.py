"""verl's client as an engine: what is asked of it, and how its failures come out."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.errors import Termination, TrialError
from runtime.rollouter.engine import SamplingParams
from runtime.trainer.verl_engine import VerlEngine

PARAMS = SamplingParams(max_tokens=5, temperature=0.5, stop_token_ids=(2,), seed=11)


class Client:
    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, {}

    async def generate(self, **asked: Any) -> Any:
        self.asked = asked
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def output(**changes: Any) -> SimpleNamespace:
    fields = {"token_ids": [5, 2], "log_probs": [-0.1, -0.2], "stop_reason": "completed", "extra_fields": {}}
    return SimpleNamespace(**{**fields, **changes})


def ask(client: Client) -> Any:
    return asyncio.run(VerlEngine(client).generate([1], PARAMS, session="t.g.0"))


def test_the_session_is_the_sticky_key() -> None:
    client = Client(output(extra_fields={"weight_versions": [3, 4], "num_cached_tokens": 1}))
    reply = ask(client)
    assert client.asked["request_id"] == "t.g.0"
    assert (
        client.asked["sampling_params"] | {"temperature": 0.5, "max_tokens": 5, "seed": 11, "logprobs": True}
        == (client.asked["sampling_params"])
    )
    assert (reply.weight_versions, reply.finish_reason, reply.cached_tokens) == ([3, 4], "stop", 1)


def test_a_backend_may_name_one_version_per_call() -> None:
    client = Client(output(stop_reason="length", extra_fields={"global_steps": 6}))
    reply = ask(client)
    assert reply.weight_versions == [6, 6] and reply.finish_reason == "length"


def test_a_reply_without_logprobs_is_refused() -> None:
    with pytest.raises(TrialError) as caught:
        ask(Client(output(log_probs=None)))
    assert caught.value.termination is Termination.MODEL_UNAVAILABLE


def test_what_a_replica_raised_comes_out_of_rays_wrapping() -> None:
    wrapped = RuntimeError("ray task failed")
    wrapped.cause = TrialError(Termination.OVERLONG, "the prompt fills the engine")  # type: ignore[attr-defined]
    with pytest.raises(TrialError) as caught:
        ask(Client(wrapped))
    assert caught.value.termination is Termination.OVERLONG
    with pytest.raises(TrialError, match="ConnectionError: gone") as caught:
        ask(Client(ConnectionError("gone")))
    assert caught.value.termination is Termination.MODEL_UNAVAILABLE
