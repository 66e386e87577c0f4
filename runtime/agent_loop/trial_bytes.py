"""A trial's result as bytes and back, for the buffer's journal: token lists as arrays, the rest as JSON."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from runtime.agent_loop.types import Sampling, Timings, TrialKey, TrialResult
from runtime.errors import Termination
from runtime.proxy.types import Accounting, Sample
from runtime.rollouter.engine import Routing

_HEAD = struct.Struct("<I")
_LISTS = (
    ("prompt_ids", "Hi"),
    ("response_ids", "Hi"),
    ("response_mask", "b"),
    ("response_logprobs", "fd"),
    ("weight_versions", "hi"),
)
"""With their types of ``array``, of which the first that loses nothing is taken: the journal is read on the machine
that wrote it, or on one like it."""
_SIZES = {kind: array(kind).itemsize for kind in "bhHifd"}
_ALL_ALIKE = "="
"""In place of a type: there is one value, which stands in the head."""


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
    }
    parts: list[bytes] = []
    head["samples"] = [_measure(sample, parts) for sample in result.samples]
    routing = [one.routed_experts.rows for one in result.samples if one.routed_experts is not None]
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([_HEAD.pack(len(text)), text, *parts, *routing])


def from_bytes(content: bytes) -> TrialResult:
    (length,) = _HEAD.unpack_from(content)
    head: dict[str, Any] = orjson.loads(content[_HEAD.size : _HEAD.size + length])
    place, samples, view = _HEAD.size + length, [], memoryview(content)
    for measure in head["samples"]:
        lists: dict[str, Any] = {}
        for (name, _), (kind, count, *value) in zip(_LISTS, _forms(measure), strict=True):
            if kind == _ALL_ALIKE:
                lists[name] = value * count
                continue
            size = count * _SIZES[kind]
            lists[name], place = _unpacked(kind, view[place : place + size]), place + size
        samples.append(Sample(**lists))
    for number, measure in enumerate(head["samples"]):
        if (routing := measure["routing"]) is None:
            continue
        rows = content[place : place + routing["bytes"]]
        experts = Routing(routing["start"], rows, tuple(routing["shape"]), routing["item_bytes"])
        samples[number], place = replace(samples[number], routed_experts=experts), place + len(rows)
    return TrialResult(
        **{name: _tuple(head[name]) for name in _PLAIN if name in head},  # newer ones have a default
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


def _forms(measure: dict[str, Any]) -> list[Any]:
    """Type and number of the values of each list, in order of ``_LISTS``."""
    if "lists" in measure:
        found: list[Any] = measure["lists"]
        return found
    # As versions before wrote it, whose runs may go on.
    widest = (kinds[-1] for _, kinds in _LISTS)
    return [[kind, measure["response" if number else "prompt"]] for number, kind in enumerate(widest)]


def _packed(values: Sequence[Any], kinds: str, parts: list[bytes]) -> list[Any]:
    """The form of these values, whose bytes are added to ``parts``."""
    count = len(values)
    if kinds == "fd":
        return _packed_floats(values, parts)
    # Most lists that are not all alike differ at their ends: looking there first saves reading all of them.
    if count and values[0] == values[-1] and values.count(values[0]) == count:
        return [_ALL_ALIKE, count, values[0]]
    for kind in kinds[:-1]:
        try:
            narrow = struct.pack(f"{count}{kind}", *values)
        except struct.error:
            continue
        parts.append(narrow)
        return [kind, count]
    # Several times as fast as ``array`` is with a list.
    parts.append(struct.pack(f"{count}{kinds[-1]}", *values))
    return [kinds[-1], count]


def _packed_floats(values: Sequence[float], parts: list[bytes]) -> list[Any]:
    wide = struct.pack(f"{len(values)}d", *values)
    exact = np.frombuffer(wide)
    with np.errstate(over="ignore"):
        narrow = exact.astype(np.float32)
    same = bool((narrow == exact).all())
    parts.append(narrow.tobytes() if same else wide)
    return ["f" if same else "d", len(values)]


def _unpacked(kind: str, content: bytes | memoryview) -> list[Any]:
    values = array(kind)
    values.frombytes(content)
    return values.tolist()


def _measure(sample: Sample, parts: list[bytes]) -> dict[str, Any]:
    routing = sample.routed_experts
    told = None
    if routing is not None:
        told = {
            "start": routing.start,
            "shape": routing.shape,
            "item_bytes": routing.item_bytes,
            "bytes": len(routing.rows),
        }
    lists = [_packed(getattr(sample, name), kinds, parts) for name, kinds in _LISTS]
    return {"lists": lists, "routing": told}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
