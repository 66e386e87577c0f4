"""Times what a sandboxed trial costs beyond agent and tests: start, transfers, stop, verdict; alone and 32 at once.

    python benchmarks/sandbox.py [--json] [--trials N] [--no-docker]

A trial here starts a sandbox, runs one command in it, moves one file in and the work directory out, stops it, and has
the result graded by a test that does nothing. ``trial_cpu_ms`` is CPU time of this process and of all that it started,
which says something on a loaded machine too; ``busy_cpu`` is the whole machine's minus its idle time.

Then the same task on a Docker engine of our own (root, Debian's docker.io): by Harbor 0.24 in its Docker environment,
with an agent that does nothing and without its ten seconds of waiting for the end, and by our Docker backend with
containers made ahead. Harbor grades in the agent's own container; ours are three fresh ones for every solved trial.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.config import Bubblewrap, Docker, Environment
from runtime.grading.base import Verifier
from runtime.grading.make import make_verifier
from runtime.sandboxes import make_provider
from runtime.sandboxes.base import SandboxProvider, SandboxRequest
from runtime.sandboxes.pool import PooledProvider
from runtime.task import Task, load_task

TASK_TOML = """
schema_version = "1.4"
[task]
name = "liverl/noop"
[metadata.liverl]
fail_to_pass = ["tests/test_noop.py::test_noop"]
test_files = ["tests/test_noop.py"]
"""
TEST = "def test_noop():\n    pass\n"
TEST_SH = """#!/bin/bash
cd /tests/files/tests && python3 -c 'import test_noop; test_noop.test_noop()' && echo 1 > /logs/verifier/reward.txt
"""
ROOT = Path(__file__).parents[1]
CONCURRENCY = 32
DOCKER_TRIALS = 8


def make_task(root: Path) -> Task:
    files = {
        "task.toml": TASK_TOML,
        "instruction.md": "Nothing is to be done.\n",
        "environment/repo/package.py": "X = 1\n",
        "environment/repo/tests/test_noop.py": TEST,
        "tests/test.sh": TEST_SH,
        "solution/files/package.py": "X = 2\n",
        "tests/files/tests/test_noop.py": TEST,
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


@contextlib.contextmanager
def accounted() -> Iterator[Callable[[], float | None]]:
    """CPU seconds of this process and all that it starts meanwhile, ended or not: what waits for a core costs none.
    None where this machine gives no control group that counts (root alone may make one)."""
    for folder, reader in (("cpuacct", _nanoseconds), (".", _microseconds)):
        group = Path("/sys/fs/cgroup") / folder / f"liverl-bench-{os.getpid()}"
        try:
            group.mkdir()
            (group / "cgroup.procs").write_text("0\n")
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        try:
            yield functools.partial(reader, group)
        finally:
            (group.parent / "cgroup.procs").write_text("0\n")
            with contextlib.suppress(OSError):  # one that is still ending
                group.rmdir()
        return
    yield lambda: None


def _nanoseconds(group: Path) -> float:
    return int((group / "cpuacct.usage").read_text()) / 1e9


def _microseconds(group: Path) -> float:
    return int((group / "cpu.stat").read_text().split()[1]) / 1e6


def bubblewrap(root: Path, task: Task, count: int) -> dict[str, object]:
    """Alone and ``CONCURRENCY`` at once."""

    async def measure(provider: SandboxProvider, once: Callable[[dict[str, list[float]]], Awaitable[None]]) -> Any:
        alone: dict[str, list[float]] = {}
        before, host = spent(), time.process_time()
        for _ in range(count):
            await once(alone)
        after, host = spent(), time.process_time() - host
        cpu = None if before is None or after is None else round((after - before) / count * 1000, 1)
        gate = asyncio.Semaphore(CONCURRENCY)

        async def one() -> None:
            async with gate:
                await once({})

        total = max(4 * count, 2 * CONCURRENCY)
        start, busy = time.perf_counter(), busy_seconds()
        await asyncio.gather(*(one() for _ in range(total)))
        wall, busy = time.perf_counter() - start, busy_seconds() - busy
        return {
            "isolation": provider.capabilities.isolation,
            **{f"{name}_ms": median(values) for name, values in alone.items() if name != "overhead"},
            "start_stop_ms": median(list(map(sum, zip(alone["start"], alone["stop"], strict=True)))),
            "trial_overhead_ms": median(alone["overhead"]),
            "trial_cpu_ms": cpu,
            "trial_cpu_ms_of_this_process": round(host / count * 1000, 1),
            "trials_per_s_32": round(total / wall, 1),
            "busy_cpu_ms_per_trial_32": round(busy / total * 1000, 1),
        }

    with accounted() as spent:
        return asyncio.run(on(Bubblewrap(), root, task, measure))  # type: ignore[no-any-return]


def docker(root: Path, task: Task, overhead_ms: float) -> dict[str, object]:
    """The same task by Harbor and by our Docker backend, on one engine, one after the other."""
    sys.path.insert(0, str(ROOT))  # the tests know how to get an engine and Harbor
    from tests.docker_engine import BASE, Engine
    from tests.harbor_docker import harbor_trials

    (task.path / "environment" / "Dockerfile").write_text(f"FROM {BASE}\nWORKDIR /app\nCOPY repo/ /app/\n")

    async def measure(provider: SandboxProvider, once: Callable[[dict[str, list[float]]], Awaitable[None]]) -> Any:
        alone: dict[str, list[float]] = {}
        for _ in range(DOCKER_TRIALS):
            await once(alone)
        assert isinstance(provider, PooledProvider)
        counts = provider.counts
        return {
            **{f"docker_{name}_ms": median(values) for name, values in alone.items() if name != "overhead"},
            "docker_trial_overhead_ms": median(alone["overhead"]),
            "docker_pool_hits": f"{counts.hits} of {counts.hits + counts.misses}",
        }

    try:
        with Engine.temporary() as engine:
            ours = asyncio.run(
                on(
                    Docker(docker_host=engine.url, base_image=BASE, warm_sandboxes=2),
                    root,
                    task,
                    measure,
                )
            )
            harbor = harbor_trials(engine, task.path, root / "harbor", count=DOCKER_TRIALS)
    except pytest.skip.Exception as reason:
        return {"harbor_docker_ratio": None, "harbor_docker_ratio_reason": str(reason)}
    assert all(reward == 1.0 for _, reward in harbor)
    harbor_ms = median([seconds * 1000 for seconds, _ in harbor])
    return {
        **ours,
        "harbor_docker_trial_ms": harbor_ms,
        "harbor_docker_ratio": round(harbor_ms / overhead_ms, 1),
        "harbor_docker_over_our_docker": round(harbor_ms / ours["docker_trial_overhead_ms"], 2),
    }


async def on(
    settings: Environment,
    root: Path,
    task: Task,
    measure: Callable[[SandboxProvider, Callable[[dict[str, list[float]]], Awaitable[None]]], Awaitable[Any]],
) -> Any:
    """``measure`` with a provider of these settings and a function that plays one trial, after a first one."""
    provider = make_provider(settings, state=root / "state")
    verifier = make_verifier(settings, provider)
    try:
        await trial(provider, verifier, task, {})
        return await measure(provider, lambda times: trial(provider, verifier, task, times))
    finally:
        await provider.close()


def median(values: list[float]) -> float:
    return round(statistics.median(values), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="the last line of output is one JSON object")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--no-docker", action="store_true", help="leave out Harbor and our Docker backend")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        task = make_task(Path(folder) / "noop")
        result = bubblewrap(Path(folder), task, options.trials)
        if options.no_docker:
            result |= {"harbor_docker_ratio": None, "harbor_docker_ratio_reason": "not asked for"}
        else:
            result |= docker(Path(folder), task, float(str(result["trial_overhead_ms"])))
    result["load_average"] = round(os.getloadavg()[0], 2)
    for name, value in result.items():
        print(f"{name:32} {value}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
