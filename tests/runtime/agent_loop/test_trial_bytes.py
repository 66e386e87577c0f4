"""A trial's result comes back from the journal as it went in."""

from __future__ import annotations

import array
import math
import struct
from dataclasses import replace

import numpy as np
import orjson

from runtime.agent_loop import trial_bytes
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


def test_what_every_list_may_hold_comes_back() -> None:
    """Narrow where nothing is lost by it; values that are all alike stand in the head."""
    many = 1000
    small = Sample([5] * many, list(range(many)), [1] * many, [-0.5] * many, [3] * many)
    wide = Sample([70_000, 1], [2**31 - 1, 0], [0, 1], [-0.1, float("-inf")], [40_000, -1])
    result = replace(RESULT, samples=(small, wide))
    assert from_bytes(to_bytes(result)) == result
    assert len(to_bytes(replace(RESULT, samples=(small,)))) < 8 * many
    (value,) = from_bytes(
        to_bytes(replace(RESULT, samples=(replace(SAMPLE, response_logprobs=[float("nan")]),)))
    ).samples
    assert math.isnan(value.response_logprobs[0])


def test_what_an_earlier_version_wrote_is_read() -> None:
    head = {
        **{name: getattr(RESULT, name) for name in trial_bytes._PLAIN},
        "key": vars(RESULT.key),
        "termination": RESULT.termination.value,
        "timings": vars(RESULT.timings),
        "sampling": vars(RESULT.sampling),
        "accounting": vars(RESULT.accounting),
        "outcomes": RESULT.outcomes,
        "metrics": RESULT.metrics,
        "samples": [{"prompt": 3, "response": 2, "routing": None}],
    }
    lists = (SAMPLE.prompt_ids, SAMPLE.response_ids, SAMPLE.response_mask, SAMPLE.response_logprobs)
    parts = [array.array(kind, values) for kind, values in zip("iibd", lists, strict=True)]
    parts.append(array.array("i", SAMPLE.weight_versions))
    text = orjson.dumps(head)
    written = struct.pack("<I", len(text)) + text + b"".join(part.tobytes() for part in parts)
    assert from_bytes(written) == replace(RESULT, samples=(SAMPLE,))


def test_so_do_the_experts_of_a_mixture() -> None:
    rows = np.arange(5 * 2 * 2, dtype="<u2").tobytes()
    routed = replace(SAMPLE, routed_experts=Routing(0, rows, (2, 2), 2))
    result = replace(RESULT, samples=(SAMPLE, routed, routed))
    assert from_bytes(to_bytes(result)) == result


def test_tokens_may_lie_in_any_sequence() -> None:
    packed = replace(SAMPLE, prompt_ids=array.array("i", SAMPLE.prompt_ids))  # type: ignore[arg-type]
    assert from_bytes(to_bytes(replace(RESULT, samples=(packed,)))).samples == (SAMPLE,)
