"""Tokens/s of one pass of the supervised stage, forward and backward over packed demonstrations, in four ways: with
recomputation, as it is, compiled, and compiled with packs of twice the length.

Without verl: what its engine adds is in the rows of a run. Needs a GPU, or patience and ``--size 512``.
Example: python benchmarks/supervised.py --model ~/.cache/liverl/models/SmolLM2-135M-Instruct --json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from runtime.trainer.cuda.varlen import NAME
from runtime.trainer.supervised.bounds import bounds_of
from runtime.trainer.supervised.scored import scored_forward

LENGTHS = (700, 2400)
"""Tokens of a demonstration."""
SCORED = 0.07
"""Share of tokens that the policy is to write; measured on pairs."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def pack(size: int, rng: np.random.Generator, vocabulary: int) -> dict[str, Any]:
    parts: list[np.ndarray[Any, Any]] = []
    left = size
    while left:
        parts.append(np.arange(min(int(rng.integers(*LENGTHS)), left)))
        left -= len(parts[-1])
    positions = torch.from_numpy(np.concatenate(parts))
    tokens = torch.from_numpy(rng.integers(0, vocabulary, size))
    bounds, longest = bounds_of(positions, padding=0)
    return {
        "input_ids": tokens[None].to(DEVICE),
        "position_ids": positions[None].to(DEVICE),
        "shift_labels": tokens.roll(-1)[None].to(DEVICE),
        "scored": torch.from_numpy(rng.random(size) < SCORED).nonzero()[:, 0].to(DEVICE),
        "pack_bounds": bounds.to(DEVICE),
        "pack_longest": longest,
    }


def measure(config: Any, *, recompute: bool, compiled: bool, size: int, passes: int) -> dict[str, float]:
    """``first_sec`` holds the compilation; tokens/s are of the quartile of the other passes."""
    rng = np.random.default_rng(0)
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_config(config, attn_implementation=NAME, dtype=dtype).to(DEVICE).train()
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    forward = scored_forward(model)
    if compiled:
        for layer in model.model.layers:
            layer.compile()
    seconds = []
    for _ in range(passes + 1):
        batch = pack(size, rng, config.vocab_size)
        begun = time.perf_counter()
        (-forward(**batch).log_probs.sum() / size).backward()
        model.zero_grad()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    memory = torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else 0.0
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    usual = sorted(seconds[1:])[passes // 4]
    return {"tokens_per_sec": size / usual, "first_sec": seconds[0], "gib": memory}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder with a config.json; weights are random")
    parser.add_argument("--size", type=int, default=16384, help="tokens of a pack")
    parser.add_argument("--passes", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    config = AutoConfig.from_pretrained(asked.model)
    ways = {
        "recomputed": {"recompute": True, "compiled": False, "size": asked.size},
        "as it is": {"recompute": False, "compiled": False, "size": asked.size},
        "compiled": {"recompute": False, "compiled": True, "size": asked.size},
        "compiled, longer": {"recompute": False, "compiled": True, "size": 2 * asked.size},
    }
    found = {name: measure(config, passes=asked.passes, **way) for name, way in ways.items()}
    if asked.json:
        print(json.dumps({"device": DEVICE, "torch": torch.__version__, "ways": found}))
        return 0
    base = found["recomputed"]["tokens_per_sec"]
    for name, row in found.items():
        speed = row["tokens_per_sec"]
        rest = f"first {row['first_sec']:5.1f} s  {row['gib']:5.1f} GiB"
        print(f"{name:18} {speed:10,.0f} tokens/s  {speed / base:4.1f} x  {rest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
