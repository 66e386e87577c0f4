"""Times what a sandboxed trial costs beyond agent and tests: start, transfers, stop, verdict; alone and 32 at once.

    python benchmarks/sandbox.py [--json] [--trials N]

A trial here starts a sandbox, runs one command in it, moves one file in and the work directory out, stops it, and has
the result graded by a test that does nothing. CPU is the whole machine's minus its idle time: run it on a quiet one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from runtime.config import Environment
from runtime.environment import make_provider, make_verifier
from runtime.environment.base import SandboxProvider, SandboxRequest, Verifier
from runtime.tasks.task import Task, load_task

TASK_TOML = """
[metadata.liverl]
fail_to_pass = ["tests/test_noop.py::test_noop"]
test_files = ["tests/test_noop.py"]
"""
CONCURRENCY = 32


def make_task(root: Path) -> Task:
    files = {
        "task.toml": TASK_TOML,
        "instruction.md": "Nothing is to be done.\n",
        "environment/repo/package.py": "X = 1\n",
        "environment/repo/tests/test_noop.py": "def test_noop():\n    pass\n",
        "tests/test.sh": "exit 1\n",
        "tests/files/tests/test_noop.py": "def test_noop():\n    pass\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return load_task(root)


async def trial(provider: SandboxProvider, verifier: Verifier, task: Task, times: dict[str, list[float]]) -> None:
    marks = [time.perf_counter()]
    sandbox = await provider.start(SandboxRequest(name="bench", lower=task.repository))
    marks.append(time.perf_counter())
    await sandbox.exec(["true"], timeout_sec=30)
    marks.append(time.perf_counter())
    await sandbox.upload({"/app/package.py": b"X = 2\n"})
    artifacts = await sandbox.download(["/app"])
    marks.append(time.perf_counter())
    await sandbox.stop()
    marks.append(time.perf_counter())
    verdict = await verifier.grade(task, artifacts)
    marks.append(time.perf_counter())
    assert verdict.reward == 1.0, verdict
    for name, start, end in zip(("start", "exec", "transfers", "stop", "verdict"), marks, marks[1:], strict=False):
        times.setdefault(name, []).append((end - start) * 1000)
    overhead = marks[-1] - marks[0] - (marks[2] - marks[1])
    times.setdefault("overhead", []).append(overhead * 1000)


def busy_seconds() -> float:
    """CPU seconds that this machine has spent on anything but idling."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


async def measure(count: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        task = make_task(root / "noop")
        provider = make_provider(Environment(), state=root / "state")
        verifier = make_verifier(Environment(), provider, state=root / "state")
        try:
            await trial(provider, verifier, task, {})
            alone: dict[str, list[float]] = {}
            for _ in range(count):
                await trial(provider, verifier, task, alone)
            gate = asyncio.Semaphore(CONCURRENCY)

            async def one() -> None:
                async with gate:
                    await trial(provider, verifier, task, {})

            total = max(4 * count, 2 * CONCURRENCY)
            start, busy = time.perf_counter(), busy_seconds()
            await asyncio.gather(*(one() for _ in range(total)))
            wall, busy = time.perf_counter() - start, busy_seconds() - busy
        finally:
            await provider.close()
    return {
        "isolation": provider.capabilities.isolation,
        **{f"{name}_ms": round(statistics.median(values), 2) for name, values in alone.items() if name != "overhead"},
        "start_stop_ms": round(statistics.median(map(sum, zip(alone["start"], alone["stop"], strict=True))), 2),
        "trial_overhead_ms": round(statistics.median(alone["overhead"]), 2),
        "trials_per_s_32": round(total / wall, 1),
        "busy_cpu_ms_per_trial_32": round(busy / total * 1000, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "harbor_docker_ratio": None,
        "harbor_docker_ratio_reason": "not measured here: needs a Docker engine and Harbor under Python 3.12",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="the last line of output is one JSON object")
    parser.add_argument("--trials", type=int, default=50)
    options = parser.parse_args()
    result = asyncio.run(measure(options.trials))
    for name, value in result.items():
        print(f"{name:32} {value}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
