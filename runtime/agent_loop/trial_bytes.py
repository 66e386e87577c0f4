"""A trial's result as bytes and back, for the buffer's journal: token lists as arrays, the rest as JSON."""

from __future__ import annotations

import struct
from array import array
from dataclasses import replace
from typing import Any

import orjson

from runtime.agent_loop.types import Sampling, Timings, TrialKey, TrialResult
from runtime.errors import Termination
from runtime.proxy.types import Accounting, Sample
from runtime.rollouter.engine import Routing

_HEAD = struct.Struct("<I")
_LISTS = (
    ("prompt_ids", "i"),
    ("response_ids", "i"),
    ("response_mask", "b"),
    ("response_logprobs", "d"),
    ("weight_versions", "i"),
)
"""With their types of ``array``: the journal is read on the machine that wrote it, or on one like it."""


def to_bytes(result: TrialResult) -> bytes:
    head = {
        **{name: getattr(result, name) for name in _PLAIN},
        "key": vars(result.key),
        "termination": result.termination.value,
        "timings": vars(result.timings),
        "sampling": vars(result.sampling),
        "accounting": vars(result.accounting),
        "outcomes": dict(result.outcomes),
        "metrics": dict(result.metrics),
        "samples": [_measure(sample) for sample in result.samples],
    }
    parts = [array(kind, getattr(one, name)).tobytes() for one in result.samples for name, kind in _LISTS]
    routing = [one.routed_experts.rows for one in result.samples if one.routed_experts is not None]
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([_HEAD.pack(len(text)), text, *parts, *routing])


def from_bytes(content: bytes) -> TrialResult:
    (length,) = _HEAD.unpack_from(content)
    head: dict[str, Any] = orjson.loads(content[_HEAD.size : _HEAD.size + length])
    place, samples = _HEAD.size + length, []
    for measure in head["samples"]:
        lists: dict[str, Any] = {}
        for name, kind in _LISTS:
            count = measure["prompt" if name == "prompt_ids" else "response"]
            values = array(kind)
            size = count * values.itemsize
            values.frombytes(memoryview(content)[place : place + size])
            lists[name], place = values.tolist(), place + size
        samples.append(Sample(**lists))
    for number, measure in enumerate(head["samples"]):
        if (routing := measure["routing"]) is None:
            continue
        rows = content[place : place + routing["bytes"]]
        experts = Routing(routing["start"], rows, tuple(routing["shape"]), routing["item_bytes"])
        samples[number], place = replace(samples[number], routed_experts=experts), place + len(rows)
    return TrialResult(
        **{name: _tuple(head[name]) for name in _PLAIN},
        key=TrialKey(**head["key"]),
        termination=Termination(head["termination"]),
        timings=Timings(**head["timings"]),
        sampling=Sampling(**head["sampling"]),
        accounting=Accounting(**head["accounting"]),
        outcomes=head["outcomes"],
        metrics=head["metrics"],
        samples=tuple(samples),
    )


_OWN = {"key", "termination", "timings", "sampling", "accounting", "outcomes", "metrics", "samples"}
_PLAIN = tuple(name for name in TrialResult.__dataclass_fields__ if name not in _OWN)


def _measure(sample: Sample) -> dict[str, Any]:
    routing = sample.routed_experts
    told = None
    if routing is not None:
        told = {
            "start": routing.start,
            "shape": routing.shape,
            "item_bytes": routing.item_bytes,
            "bytes": len(routing.rows),
        }
    return {"prompt": len(sample.prompt_ids), "response": len(sample.response_ids), "routing": told}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
