"""Several agent-loop workers on one machine against one, and the demand of many trainers in virtual time.

    python benchmarks/workers.py [--only workers|simulation] [--rounds N] [--waves N] [--count] [--json]

``workers``: real trials (sandbox, agent, proxy, verifier) on an engine that answers within 50 ms, by one worker in this
process and by four Ray actors, in turn, with as many trials in flight. ``ratio`` compares trials per second;
``cpu_ratio`` the CPU time of a trial, of all processes, which others' load on the machine does not change.
``simulation``: 512 replicas, 10,000 boxes and 40 workers, see ``tests/runtime/agent_loop/workers_simulation.py``.
``last_over_first`` compares the CPU of a trial in its last wave with that in the first; with ``--count`` the lines
of ``runtime`` that are gone through for it, which no other load on the machine can change (twice as long).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runtime import run_paths
from runtime.agent_loop.groups import GroupRequest, GroupRunner
from runtime.config import RuntimeConfig
from runtime.config.rollout import AgentLoop
from runtime.task import Task
from runtime.trainer.players import Players, ThisProcess

ROOT = Path(__file__).resolve().parents[1]
WORKERS, GROUP, AT_ONCE = 4, 4, 8
FULL = {"replicas": 512, "boxes": 10_000, "workers": 40}


def spent() -> float:
    """CPU seconds of this process and of all that came of it, which have ended or not."""
    total = 0.0
    me = psutil.Process()
    for one in (me, *me.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


@contextmanager
def ray_of_our_own(folder: Path, model: Path) -> Iterator[None]:
    """A Ray with one engine server of the run in ``folder``."""
    os.environ |= {
        run_paths.RUN_DIR: str(folder),
        run_paths.RAY_DIR: str(folder / "r"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_worker_register_timeout_seconds": "600",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    import ray

    from runtime.laptop.engine.server import EngineServer
    from runtime.laptop.engine.socket_replica import engine_socket

    (folder / "r").mkdir()
    _start_ray(folder / "r")
    try:
        made = ray.remote(EngineServer).options(max_concurrency=1000)
        server = made.remote(
            str(model),
            slots=64,
            max_len=4096,
            seed=0,
            import_path="benchmarks._scripted_engine:ScriptedEngine",
            kwargs={"text": "SOLVE it", "wait_sec": 0.05},
        )
        ray.get([server.open_gate.remote(), server.listen.remote(str(engine_socket("liverl_engine_0")))])
        yield
    finally:
        ray.shutdown()


def _start_ray(folder: Path) -> None:
    """Ray gives a busy machine half a minute."""
    import ray

    for attempt in range(8):
        try:
            ray.init(num_cpus=16, include_dashboard=False, log_to_driver=False, _temp_dir=str(folder / str(attempt)))
            return
        except Exception as error:
            print(f"Ray: {error}", file=sys.stderr)
            ray.shutdown()
    raise SystemExit("Ray does not start")


async def round_of(players: Players, task: Task, *, groups: int, number: int) -> tuple[float, float]:
    """Trials per second, and CPU milliseconds of one."""
    runner = GroupRunner(players.runner, concurrency=AT_ONCE)
    began, cpu = time.perf_counter(), spent()
    requests = [GroupRequest(task, "train", f"g{number}-{index}", number, GROUP, 1.0) for index in range(groups)]
    found = await asyncio.gather(*map(runner.run, requests))
    results = [result for group in found for result in group]
    wrong = [one for one in results if one.reward != 1.0]
    assert not wrong, (wrong[0].termination, wrong[0].error)
    await players.forget([one.key for one in results])
    return len(results) / (time.perf_counter() - began), (spent() - cpu) / len(results) * 1e3


async def compare(folder: Path, config: RuntimeConfig, task: Task, model: Path, rounds: int) -> dict[str, float]:
    from runtime.trainer.platform import find_platform
    from runtime.trainer.ray_workers import RayWorkers

    run, numbers = run_paths.RunPaths(folder), itertools.count(1)
    several = config.model_copy(
        update={"rollout": config.rollout.model_copy(update={"agent_loop": AgentLoop(workers=WORKERS, cpus=1.0)})}
    )
    run.runtime_json.parent.mkdir(parents=True)
    run.runtime_json.write_text(several.model_dump_json())
    rows: dict[str, list[tuple[float, float]]] = {"one": [], "four": []}
    async with (
        ThisProcess.open(config, platform=find_platform("cpu"), model_folder=model, run=run) as one,
        RayWorkers.open(several, device="cpu", model_folder=model, run=run, image_of=lambda task: None) as four,
    ):
        arms: dict[str, Players] = {"one": one, "four": four}
        for players in arms.values():  # their first boxes and imports are no part of it
            await round_of(players, task, groups=WORKERS, number=next(numbers))
        for turn in range(rounds):
            for name in sorted(arms, reverse=bool(turn % 2)):
                rows[name].append(await round_of(arms[name], task, groups=8, number=next(numbers)))
    middle = {name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in rows.items()}
    pairs = [four[0] / one[0] for one, four in zip(rows["one"], rows["four"], strict=True)]
    return {
        "one_trials_per_s": middle["one"][0],
        "four_trials_per_s": middle["four"][0],
        "ratio": statistics.median(pairs),
        "one_cpu_ms": middle["one"][1],
        "four_cpu_ms": middle["four"][1],
        "cpu_ratio": middle["one"][1] / middle["four"][1],
    }


def real_workers(rounds: int) -> dict[str, float]:
    from tests.runtime.agent_loop.conftest import make_config, make_task
    from tests.runtime.proxy.tiny_model import write_model

    with tempfile.TemporaryDirectory(prefix="lr-", dir="/tmp") as name:
        folder = Path(name)
        model = write_model(folder / "model", family="chatml")
        config = make_config(environment={"type": "bubblewrap"}, concurrency=AT_ONCE)
        with ray_of_our_own(folder, model):
            return asyncio.run(compare(folder, config, make_task(folder / "tasks"), model, rounds))


def simulation(waves: int, *, count: bool) -> dict[str, Any]:
    from tests.runtime.agent_loop.conftest import make_task
    from tests.runtime.agent_loop.workers_simulation import simulate

    with tempfile.TemporaryDirectory() as name:
        found = simulate(make_task(Path(name)), Path(name), **FULL, waves=waves, count=count)
    parts = found.lines if count else found.cpu_ms
    return {
        "simulated_trials": found.trials,
        "published": found.published,
        "spread_at_start": found.spread,
        "handed_over": found.handed_over,
        "leases_per_trial": found.leases,
        "cpu_ms_per_trial": found.cpu_sec / found.trials * 1e3,
        "last_over_first": parts[-1] / parts[0],
        **({"lines_per_trial": sum(found.lines) / waves} if count else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--only", choices=("workers", "simulation"), help="one of the two")
    parser.add_argument("--rounds", type=int, default=4, help="of each arm")
    parser.add_argument("--waves", type=int, default=4, help="of 10,000 trials each, in the simulation")
    parser.add_argument("--count", action="store_true", help="count lines instead of CPU in the simulation")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    if arguments.only != "simulation":
        found |= real_workers(arguments.rounds)
    if arguments.only != "workers":
        found |= simulation(arguments.waves, count=arguments.count)
    table = Table(title="Agent-loop workers", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in found.items():
        table.add_row(name, f"{value:,.2f}" if isinstance(value, float) else f"{value:,}")
    Console().print(table)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
