"""What a trial of a real spec costs in CPU time, by part, without a model: real boxes, agents, proxy and verdicts.

    python benchmarks/trial_cost.py --tasks DIR [--spec SPEC] [--number N] [--siblings N] [--solved SHARE] [--json]

Tasks are directories below DIR. A policy that knows the solution plays siblings of each: a share of them makes the
right edit at once, the others as many wrong ones as they may, all different. CPU seconds are those of control groups
(``cpuacct``), so others' load changes little: ``host`` is this process (event loop, proxy, tokenising), ``making`` the
fork server and a box before it is handed over, ``agent`` and ``verdict`` what runs in the boxes of each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from liverl.compiled import bundle_files
from runtime.agent_loop.services import open_services
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.types import TrialKey, TrialResult
from runtime.config import PretrainedPolicy, RuntimeConfig, ShellScaffold
from runtime.demonstrations.conversation import Speaker
from runtime.demonstrations.many import speaker_of
from runtime.demonstrations.solver import Solver, script_of
from runtime.models.store import find
from runtime.sandboxes import bubblewrap
from runtime.task import Task, load_task

ROOT = Path(__file__).resolve().parents[1]
ACCOUNTS = Path("/sys/fs/cgroup/cpuacct")
PARTS = ("host", "making", "agent", "verdict")


class Accounts:
    """A control group for each part."""

    def __init__(self, name: str) -> None:
        self.folder = ACCOUNTS / name
        for part in PARTS:
            (self.folder / part).mkdir(parents=True)
        self.admit("host", os.getpid())

    def admit(self, part: str, pid: int) -> None:
        (self.folder / part / "cgroup.procs").write_text(f"{pid}\n")

    def read(self) -> dict[str, float]:
        return {part: int((self.folder / part / "cpuacct.usage").read_text()) / 1e9 for part in PARTS}

    def close(self) -> None:
        (ACCOUNTS / "cgroup.procs").write_text(f"{os.getpid()}\n")
        for part in PARTS:
            (self.folder / part).rmdir()
        self.folder.rmdir()


@contextmanager
def accounts() -> Iterator[Accounts]:
    """What the provider starts is accounted for from now on."""
    made = Accounts(f"trial-cost-{os.getpid()}")
    launch, hand_over = bubblewrap.start_zygote, bubblewrap.BubblewrapProvider._sandbox

    async def start(**settings: Any) -> Any:
        zygote = await launch(**settings)
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if zygote._process.pid in (
                    int(folder.name),
                    int((folder / "stat").read_text().rsplit(")")[1].split()[1]),
                ):
                    made.admit("making", int(folder.name))
            except OSError:
                continue
        return zygote

    async def sandbox(provider: Any, request: Any, channel: Any, *rest: Any) -> Any:
        part = "verdict" if request.name.startswith("verify-") else "agent"
        children = Path(f"/proc/{channel.pid}/task/{channel.pid}/children").read_text().split()
        for pid in (channel.pid, *map(int, children)):
            made.admit(part, pid)
        return await hand_over(provider, request, channel, *rest)

    bubblewrap.start_zygote, bubblewrap.BubblewrapProvider._sandbox = start, sandbox  # type: ignore[assignment]
    try:
        yield made
    finally:
        bubblewrap.start_zygote, bubblewrap.BubblewrapProvider._sandbox = launch, hand_over  # type: ignore[method-assign]
        made.close()


async def play(
    tasks: list[Task], config: RuntimeConfig, model: Path, options: argparse.Namespace, state: Path, kept: Accounts
) -> dict[str, Any]:
    assert isinstance(config.scaffold, ShellScaffold)
    speaker: Speaker = speaker_of(model, config.rollout.tool_parser, config.scaffold)
    engine, gate = Solver(speaker), asyncio.Semaphore(options.at_once)
    results: list[TrialResult] = []

    async def one(runner: TrialRunner, task: Task, name: str, index: int) -> None:
        key = TrialKey(task=task.id, task_set="train", step=1, group=name, index=index)
        rng = random.Random(key.trial_id)
        solves = rng.random() < options.solved
        script = script_of(task, wrong=0 if solves else config.scaffold.max_edits, rng=rng)  # type: ignore[union-attr]
        assert not isinstance(script, str), script
        async with gate:
            engine.scripts[key.trial_id] = script
            results.append(await runner.run(task, key=key, temperature=1.0))

    async with open_services(config, engine=engine, model_folder=model, state=state / "state") as services:
        runner = TrialRunner(services, config, trials=state / "trials")
        # What is found out once per task is no part of a trial: the looks, compiled files, how its code is kept apart.
        await asyncio.gather(*(one(runner, task, "first", index) for task in tasks for index in range(2)))
        results.clear()
        before, began = kept.read(), time.perf_counter()
        asked = [(task, index) for index in range(options.siblings) for task in tasks]
        await asyncio.gather(*(one(runner, task, "group", index) for task, index in asked))
        wall, after = time.perf_counter() - began, kept.read()
    number = len(results)
    found: dict[str, Any] = {f"{part}_ms": (after[part] - before[part]) / number * 1e3 for part in PARTS}
    return {
        "trials": number,
        **found,
        "cpu_ms": sum(found.values()),
        "trials_per_s": number / wall,
        "edits": sum(one.metrics.get("edits", 0.0) for one in results) / number,
        "solved": sum(one.reward == 1.0 for one in results) / number,
        "reused_verdicts": sum(one.reused_verdict for one in results) / number,
        "ends": dict(Counter(str(one.termination.value) for one in results)),
        "verdicts": dict(Counter(one.verdict for one in results)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--spec", type=Path, default=ROOT / "specs" / "one-gpu-real.jsonnet")
    parser.add_argument("--number", type=int, default=12, help="of tasks")
    parser.add_argument("--siblings", type=int, default=16)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--solved", type=float, default=0.15, help="share of trials that make the right edit at once")
    options = parser.parse_args()
    files = bundle_files(options.spec, target="local", sandbox=None, tla=None, settings=None)
    config = RuntimeConfig.model_validate_json(files["runtime.json"])
    assert isinstance(config.policy, PretrainedPolicy)
    config = config.model_copy(update={"proxy": config.proxy.model_copy(update={"record_journal": False})})
    everything = sorted(path.parent for path in options.tasks.glob("*/task.toml"))
    rng = random.Random(0)
    chosen = rng.sample(everything, len(everything))
    tasks = [
        task for path in chosen if not isinstance(script_of(task := load_task(path), wrong=0, rng=random.Random()), str)
    ]
    model = find(config.policy.path)
    assert model is not None, f"liverl models add {config.policy.path}"
    with tempfile.TemporaryDirectory(prefix="lr-") as state, accounts() as kept:
        found = asyncio.run(play(tasks[: options.number], config, model, options, Path(state), kept))
    table = Table(title="A trial's cost", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in found.items():
        table.add_row(name, f"{value:,.2f}" if isinstance(value, float) else str(value))
    Console().print(table)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
