"""The arguments of ``vllm serve`` by version, from catalogues that ``scripts/vllm_flags.py`` reads off the parser.

The catalogue is read only for specs that set flags of their own.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from compiler.errors import Problem

VERSION = "0.24.0"
"""The vLLM that goes with verl 0.9.1."""
UNPAIRED = {"0.32.0": "it needs transformers >= 5.16.1 and torch 2.13, verl 0.9.1 needs transformers < 5.11"}
"""Versions with a catalogue that cannot be installed beside verl 0.9.1, whose rollout runs vLLM in its own
environment."""
VERSIONS = (VERSION, *UNPAIRED)
FOLDER = Path(__file__).parent / "data"
OWNED = {
    "model": "policy.path",
    "served-model-name": "",
    "dtype": "trainer.precision",
    "max-model-len": "rollout.prompt_length and rollout.response_length",
    "max-num-seqs": "rollout.slots",
    "max-num-batched-tokens": "rollout.max_batched_tokens",
    "seed": "seed",
    "generation-config": "",
    "logprobs-mode": "",
    "enable-prefix-caching": "",
    "tensor-parallel-size": "rollout.tensor_parallel_size",
    "pipeline-parallel-size": "",
    "data-parallel-size": "rollout.replicas",
    "gpu-memory-utilization": "rollout.gpu_memory_utilization",
    "enforce-eager": "rollout.enforce_eager",
    "enable-expert-parallel": "rollout.expert_parallel",
    "enable-return-routed-experts": "routing_replay",
    "enable-sleep-mode": "",
    "load-format": "",
    "worker-extension-cls": "",
    "distributed-executor-backend": "",
    "host": "",
    "port": "",
    "api-key": "",
}
"""Flags that the compiler or verl sets -> the spec field that speaks about them, if any."""


@cache
def catalogue(version: str = VERSION) -> Mapping[str, Any]:
    """Canonical name without dashes -> its entry (``type``, ``choices``, ``action``, ...)."""
    flags: dict[str, Any] = json.loads((FOLDER / f"vllm-flags-{version}.json").read_text())["flags"]
    return {name.removeprefix("--"): entry for name, entry in flags.items()}


def flag_problems(flags: Mapping[str, Any], *, version: str = VERSION) -> Iterator[Problem]:
    """What is wrong with ``rollout.flags``."""
    if not flags:
        return
    known = catalogue(version)
    for name, value in flags.items():
        place = ("rollout", "flags", name)
        if name in OWNED:
            field = OWNED[name]
            yield Problem(
                place,
                f"--{name} is set by LiveRL" + (f" from {field}" if field else ""),
                fix=f"set {field}" if field else "remove it",
            )
        elif name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            others = [other for other in VERSIONS if other != version and name in catalogue(other)]
            there = f"; {', '.join(others)} has it" if others else ""
            yield Problem(
                place,
                f"vLLM {version} has no --{name}{there}",
                fix=f"did you mean {close[0]}?" if close else "remove it",
            )
        else:
            yield from _value(place, known[name], value)


def _value(place: tuple[str, ...], entry: Mapping[str, Any], value: Any) -> Iterator[Problem]:
    choices, kind = entry["choices"], entry["type"] or ""
    if value is None:
        return
    if entry["nargs"] == 0:
        if not isinstance(value, bool):
            yield Problem(place, f"{value!r}: a switch", "true, false")
    elif choices and not isinstance(value, list) and value not in choices:
        close = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
        yield Problem(
            place,
            f"{json.dumps(value)} is not possible",
            ", ".join(map(str, choices)),
            f"did you mean {close[0]}?" if close else "",
        )
    elif kind.removeprefix("optional:") == "int" and (not isinstance(value, int) or isinstance(value, bool)):
        yield Problem(place, f"{json.dumps(value)}: not a whole number", "a whole number")
    elif kind.removeprefix("optional:") == "float" and (not isinstance(value, int | float) or isinstance(value, bool)):
        yield Problem(place, f"{json.dumps(value)}: not a number", "a number")
