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
from compiler.spec.policy import APART, ONE_ADAPTER

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
    "enable-lora": "policy.lora",
    "max-lora-rank": "policy.lora",
    "lora-target-modules": "policy.lora",
    "enable-sleep-mode": "",
    "load-format": "",
    "worker-extension-cls": "",
    "host": "",
    "port": "",
    "api-key": "",
}
"""Flags that the compiler or verl sets -> the spec field that speaks about them, if any."""


_EXECUTORS = ("mp", "uni")
"""Of ``distributed-executor-backend``: the others start vLLM's workers where nobody would tell them apart."""
_OF_ADAPTERS = ("max-loras", "max-cpu-loras", "lora-modules", "default-mm-loras")


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
        elif name in _OF_ADAPTERS:
            yield Problem(place, f"--{name} is for several adapters, but {ONE_ADAPTER}", fix=f"remove it; {APART}")
        elif name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            others = [other for other in VERSIONS if other != version and name in catalogue(other)]
            there = f"; {', '.join(others)} has it" if others else ""
            yield Problem(
                place,
                f"vLLM {version} has no --{name}{there}",
                fix=f"did you mean {close[0]}?" if close else "remove it",
            )
        elif name == "distributed-executor-backend" and value not in _EXECUTORS:
            yield Problem(place, f"{json.dumps(value)}: workers of another kind of process", ", ".join(_EXECUTORS))
        else:
            yield from _graphs(place, value) if name == "compilation-config" else ()
            yield from _value(place, known[name], value)


def _graphs(place: tuple[str, ...], value: Any) -> Iterator[Problem]:
    """CUDA graphs of whole mixed batches gave wrong probabilities where they were tried (docs/measurements.md)."""
    given = value if isinstance(value, dict) else _json(value)
    mode = given.get("cudagraph_mode") if isinstance(given, dict) else None
    if isinstance(mode, str) and mode.upper() == "FULL":
        yield Problem(
            place,
            f'cudagraph_mode "{mode}": with it vLLM {VERSION} sampled with other probabilities than the trainer has',
            "FULL_AND_PIECEWISE (vLLM's own choice), FULL_DECODE_ONLY, PIECEWISE, NONE",
        )


def _value(place: tuple[str, ...], entry: Mapping[str, Any], value: Any) -> Iterator[Problem]:
    if value is None:
        return
    if entry["nargs"] == 0:
        if not isinstance(value, bool):
            yield Problem(place, f"{value!r}: a switch", "true, false")
    elif isinstance(value, bool) and not (value and entry["nargs"] == "?"):
        yield Problem(place, f"{json.dumps(value)}: no switch, it takes a value", fix="null for vLLM's default")
    elif isinstance(value, list):
        if entry["nargs"] != "+":
            text = json.dumps(value)
            fix = f"the text '{text}'" if _reads_json(entry) else ""
            yield Problem(place, f"{text}: it takes one value, no list", fix=fix)
            return
        for item in value:
            yield from _single(place, entry, item)
    else:
        yield from _single(place, entry, value)


def _single(place: tuple[str, ...], entry: Mapping[str, Any], value: Any) -> Iterator[Problem]:
    kind = (entry["type"] or "").removeprefix("optional:")
    # vLLM 0.24 lists "None" beside the choices of some flags and then refuses it; null says the same.
    choices = [choice for choice in entry["choices"] or () if choice not in (None, "None")]
    if choices and value not in choices:
        close = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
        yield Problem(
            place,
            f"{json.dumps(value)} is not possible",
            ", ".join(map(str, choices)),
            f"did you mean {close[0]}?" if close else "",
        )
    elif kind in ("int", "human_readable_int") and (not isinstance(value, int) or isinstance(value, bool)):
        yield Problem(place, f"{json.dumps(value)}: not a whole number", "a whole number")
    elif kind == "float" and (not isinstance(value, int | float) or isinstance(value, bool)):
        yield Problem(place, f"{json.dumps(value)}: not a number", "a number")
    elif _reads_json(entry) and not isinstance(value, dict) and not _is_json(value):
        yield Problem(place, f"{json.dumps(value)}: not JSON", "an object, or the text of one")


def _reads_json(entry: Mapping[str, Any]) -> bool:
    return (entry["type"] or "").removeprefix("optional:") in ("loads", "_parse_type", "parse_dataclass")


def _is_json(value: Any) -> bool:
    try:
        json.loads(value)
    except (TypeError, ValueError):
        return False
    return True


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and _is_json(value) else None
