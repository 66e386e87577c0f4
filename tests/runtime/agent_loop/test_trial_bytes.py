"""A trial's result comes back from the journal as it went in."""

from __future__ import annotations

import array
from dataclasses import replace

import numpy as np

from runtime.agent_loop.trial_bytes import from_bytes, to_bytes
from runtime.agent_loop.types import Sampling, Timings, TrialKey, TrialResult
from runtime.errors import Termination
from runtime.proxy.types import Accounting, Sample
from runtime.rollouter.engine import Routing

SAMPLE = Sample([1, 2, 151_643], [3, 4], [1, 0], [-0.1234567890123, 0.0], [7, -1])
RESULT = TrialResult(
    key=TrialKey("task-1", "train", 8, "train-abc", 3, attempt=1),
    termination=Termination.MAX_TURNS,
    reward=0.5,
    isolation="bubblewrap",
    timings=Timings(agent=1.5, total=2.25),
    sampling=Sampling(1.0, 12345),
    verdict="solved",
    defences=("canary", "fresh_sandbox"),
    outcomes={"tests/test_a.py::test_one": "passed"},
    samples=(SAMPLE, replace(SAMPLE, response_ids=[], response_mask=[], response_logprobs=[], weight_versions=[])),
    metrics={"turns": 4},
    accounting=Accounting(sampled=2, trained=1, lost=1),
    tool_gaps=(0.25, 0.5),
    dropped_ends=("timeout",),
    cause=None,
)


def test_a_result_comes_back_as_it_was() -> None:
    assert from_bytes(to_bytes(RESULT)) == RESULT


def test_so_do_the_experts_of_a_mixture() -> None:
    rows = np.arange(5 * 2 * 2, dtype="<u2").tobytes()
    routed = replace(SAMPLE, routed_experts=Routing(0, rows, (2, 2), 2))
    result = replace(RESULT, samples=(SAMPLE, routed, routed))
    assert from_bytes(to_bytes(result)) == result


def test_tokens_may_lie_in_any_sequence() -> None:
    packed = replace(SAMPLE, prompt_ids=array.array("i", SAMPLE.prompt_ids))  # type: ignore[arg-type]
    assert from_bytes(to_bytes(replace(RESULT, samples=(packed,)))).samples == (SAMPLE,)
