"""Trials per second through the data buffer and its journal, and decisions per second.

    python benchmarks/buffer.py [--json] [--samples N]

``samples_per_s``: a trial of 64 + 768 tokens is made into bytes, put, synced to disk in batches, claimed and read
back.
``decisions_per_s``: groups without tokens are reserved, taken and dropped, a step's groups at a time.
``cpu_us_per_sample`` is what it costs on a machine that others use too, ``over_disk`` the time of all against that of
as many bytes that are only written and synced as often.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runtime.agent_loop.trial_bytes import from_bytes, to_bytes
from runtime.agent_loop.types import Sampling, Timings, TrialKey, TrialResult
from runtime.errors import Termination
from runtime.proxy.types import Sample
from runtime.rollouter.buffer import DataBuffer, Slot

GROUP, BATCH = 8, 256
"""Trials of a group, and of a sync to disk."""


def trial(index: int) -> TrialResult:
    response = list(range(1000, 1768))
    return TrialResult(
        key=TrialKey("task", "train", 1, "train-group", index),
        termination=Termination.COMPLETED,
        reward=1.0,
        isolation="bubblewrap",
        timings=Timings(agent=1.0),
        sampling=Sampling(1.0, index),
        samples=(Sample(list(range(64)), response, [1] * 768, [-0.5] * 768, [3] * 768),),
    )


def throughput(folder: Path, samples: int) -> dict[str, float]:
    results = [trial(index) for index in range(GROUP)]
    buffer = DataBuffer(folder / "groups.log")
    buffer.recover(0)
    began, cpu = time.perf_counter(), time.process_time()
    syncs = ThreadPoolExecutor(1)  # as in a run, where trials go on while others are synced
    for number in range(samples):
        name = f"group-{number // GROUP}"
        if number % GROUP == 0:
            buffer.reserve(name, Slot("train", name, 1))
        buffer.put(name, number % GROUP, to_bytes(results[number % GROUP]), versions=(3, 3))
        if (number + 1) % BATCH == 0:
            syncs.submit(buffer.commit)
    syncs.shutdown()
    buffer.commit()
    put = time.perf_counter() - began
    for first in range(0, samples, BATCH):
        names = [f"group-{number // GROUP}" for number in range(first, min(samples, first + BATCH), GROUP)]
        for name in names:
            for index in range(GROUP):
                payload = buffer.claim(name, index)
                assert payload is not None and from_bytes(payload).reward == 1.0
        buffer.taken(names, step=1)
    seconds = time.perf_counter() - began
    cpu = time.process_time() - cpu
    written = buffer.journal_bytes
    buffer.close()
    disk = bare(folder, written, syncs=2 * -(-samples // BATCH))
    return {
        "samples_per_s": samples / seconds,
        "over_disk": seconds / disk,
        "kb_per_sample": written / samples / 1e3,
        "cpu_us_per_sample": cpu / samples * 1e6,
        "put_s": put,
        "take_s": seconds - put,
    }


def bare(folder: Path, size: int, *, syncs: int) -> float:
    """Seconds that so many bytes take to reach this disk, now, in so many equal parts."""
    block = os.urandom(size // syncs)
    began = time.perf_counter()
    with (folder / "bare").open("wb", buffering=0) as file:
        for _ in range(syncs):
            file.write(block)
            os.fdatasync(file.fileno())
    return time.perf_counter() - began


def decisions(folder: Path, *, steps: int = 200, groups: int = 64) -> float:
    buffer = DataBuffer(folder / "decisions.log")
    buffer.recover(0)
    began, made = time.perf_counter(), 0
    for step in range(1, steps + 1):
        names = [f"{step}-{number}" for number in range(groups)]
        for name in names:
            buffer.reserve(name, Slot("train", name, step))
        buffer.taken(names[1:], step=step)
        buffer.dropped(names[:1], step=step, reason="stale")
        buffer.saved(step)
        made += 2 * groups
    seconds = time.perf_counter() - began
    buffer.close()
    return made / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--samples", type=int, default=8192, help="trials that are put and taken")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = throughput(Path(folder), arguments.samples)
        found["decisions_per_s"] = decisions(Path(folder))
    table = Table(title=f"Data buffer: {arguments.samples} trials of 832 tokens", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in found.items():
        table.add_row(name, f"{value:,.3f}" if value < 100 else f"{value:,.0f}")
    Console().print(table)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
