"""Speed of the compiler: a cold ``compile`` of the quickstart against Hydra composing verl's own config, a warm one,
and a sweep.

    python benchmarks/compile.py [--json] [--repeat N] [--points N]

``cold_over_hydra`` compares two fresh processes of this run, so it holds on a busy machine too; ``*_cpu_ms`` is the
time of the whole process tree on a CPU. Both sides start with their bytecode compiled, as after any first start.
Hydra's share is left out where verl or hydra is not installed. ``sweep_point_growth`` is the cost of a point in the
whole sweep over that in a tenth of it; ``peak_mib`` is the largest process of a cold compile.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPEC = ROOT / "specs" / "quickstart.jsonnet"
HYDRA = """
import sys, hydra
with hydra.initialize_config_dir(config_dir=sys.argv[1], version_base=None):
    hydra.compose("ppo_trainer", overrides=["actor_rollout_ref.rollout.name=vllm"])
"""


def peak_mib(scratch: str) -> float:
    """Peak memory of the largest process of a cold compile."""
    process = subprocess.Popen(
        [sys.executable, "-m", "liverl", "compile", str(SPEC), "-o", f"{scratch}/bundle"],
        cwd=scratch, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss / 1024


def timed(arguments: list[str], cwd: str) -> tuple[float, float]:
    """(wall ms, CPU ms) of a fresh process and its children."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, cwd=cwd, env=environment, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall * 1e3, (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def warm(repeat: int) -> tuple[float, float]:
    """(whole warm compile, the part after evaluation) in ms, medians."""
    sys.path.insert(0, str(ROOT))
    from compiler import compile_in_memory
    from compiler.assemble import assemble
    from compiler.load import evaluate
    from compiler.registry import find_target

    whole, rest = [], []
    evaluated, target = evaluate(SPEC), find_target("local")
    for _ in range(repeat):
        began = time.perf_counter()
        compile_in_memory(SPEC)
        whole.append((time.perf_counter() - began) * 1e3)
        began = time.perf_counter()
        assemble(evaluated, target=target)
        rest.append((time.perf_counter() - began) * 1e3)
    return statistics.median(whole), statistics.median(rest)


def changed(repeat: int) -> float:
    """Median ms of a warm compile whose spec was never seen before."""
    from compiler import compile_in_memory

    times = []
    for index in range(repeat):
        began = time.perf_counter()
        compile_in_memory(SPEC, sets=[f"seed={index + 1}"])
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


def sweep(points: int, scratch: str) -> float:
    """Seconds for a sweep of the quickstart, bundles written."""
    from compiler import compile_all

    folder = Path(scratch) / "specs"
    folder.mkdir(exist_ok=True)
    shutil.copy(SPEC, folder / "quickstart.jsonnet")
    spec = folder / "sweep.jsonnet"
    spec.write_text(
        "local base = import 'quickstart.jsonnet';\n"
        f"{{ sweep: {{ ['p%04d' % i]: base {{ seed: i }} for i in std.range(1, {points}) }} }}\n"
    )
    began = time.perf_counter()
    compile_all(spec, out=Path(scratch) / f"sweep-{points}")
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--points", type=int, default=1000, help="of the sweep; 0 leaves it out")
    options = parser.parse_args()
    verl = importlib.util.find_spec("verl") if importlib.util.find_spec("hydra") else None
    cold, hydra = [], []
    with tempfile.TemporaryDirectory(prefix="liverl-bench-") as scratch:
        timed(["-m", "liverl", "compile", str(SPEC), "-o", f"{scratch}/bundle"], scratch)  # writes the bytecode
        for _ in range(options.repeat):
            cold.append(timed(["-m", "liverl", "compile", str(SPEC), "-o", f"{scratch}/bundle"], scratch))
            if verl is not None and verl.origin is not None:
                folder = Path(verl.origin).parent / "trainer" / "config"
                hydra.append(timed(["-c", HYDRA, str(folder)], scratch))
        peak = peak_mib(scratch)
        warm_ms, assemble_ms = warm(options.repeat * 4)
        changed_ms = changed(options.repeat * 4)
        sweep_s = sweep(options.points, scratch) if options.points else None
        tenth_s = sweep(max(1, options.points // 10), scratch) if options.points else None
    found = {
        "cold_ms": round(statistics.median(wall for wall, _ in cold), 1),
        "cold_cpu_ms": round(statistics.median(cpu for _, cpu in cold), 1),
        "warm_ms": round(warm_ms, 1),
        "warm_changed_ms": round(changed_ms, 1),
        "assemble_ms": round(assemble_ms, 1),
        "peak_mib": round(peak, 1),
    }
    if sweep_s is not None and tenth_s is not None:
        found[f"sweep_{options.points}_s"] = round(sweep_s, 2)
        found["sweep_point_growth"] = round(sweep_s / options.points / (tenth_s / max(1, options.points // 10)), 2)
    if hydra:
        found["hydra_cpu_ms"] = round(statistics.median(cpu for _, cpu in hydra), 1)
        found["hydra_ms"] = round(statistics.median(wall for wall, _ in hydra), 1)
        found["cold_over_hydra"] = round(found["cold_ms"] / found["hydra_ms"], 3)
    for name, value in found.items():
        print(f"{name:<18} {value:>9}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
