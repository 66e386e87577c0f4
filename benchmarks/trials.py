"""How long it takes to list a large run's trials and to open a long one, on the command line and behind the page.

    python benchmarks/trials.py [--json] [--trials N] [--tokens N] [--turns N]

A run directory of N trials is made, of which one is long; then each question is asked as a user does, by a process of
its own (its start counts), or of the page's library. Seconds are CPU seconds, which hold on a machine that others use
too; the best of three. ``trials_first`` is asked while there is no index: it is made then.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runtime.launch import rundir
from runtime.page.library import Library
from runtime.page.server import as_json
from runtime.report import trials as index

ROOT = Path(__file__).resolve().parents[1]
PER_STEP = 256
TIMES = 3
LONG = "task-00.long.0"


def make_run(runs: Path, *, trials: int, tokens: int, turns: int) -> Path:
    """A run of ``trials`` trials, of 64 tasks, every tenth without a grade, and one more of ``turns`` turns."""
    directory = rundir.create(runs, experiment="large", target="local")
    directory.finish("succeeded", exit_code=0, cause="")
    for number in range(trials):
        step, task = divmod(number, PER_STEP)
        lost = number % 10 == 0
        folder = directory.trials / str(step) / f"task-{task % 64:02d}.train-{number:06d}.{number % 8}"
        folder.mkdir(parents=True)
        record = _record(f"task-{task % 64:02d}", step, number, lost=lost)
        (folder / "trial.json").write_text(json.dumps(record))
    long = directory.trials / "0" / LONG
    long.mkdir(parents=True)
    (long / "trial.json").write_text(json.dumps(_record("task-00", 0, trials, lost=False)))
    (long / "trajectory.json").write_text(json.dumps(_trajectory(tokens, turns)))
    (long / "verifier").mkdir()
    (long / "verifier" / "output").write_text('{"tests": {}}')
    return directory.path


def _record(task: str, step: int, number: int, *, lost: bool) -> dict[str, Any]:
    return {
        "task": task,
        "task_set": "train",
        "step": step,
        "group": f"train-{number // 8:06d}",
        "index": number % 8,
        "attempt": 0,
        "validation": False,
        "reward": None if lost else float(number % 3 == 0),
        "verdict": "no-grade" if lost else "solved" if number % 3 == 0 else "unsolved",
        "termination": "sandbox_lost" if lost else "completed",
        "trainable": not lost,
        "isolation": "bubblewrap",
        "error": "sandbox: the box is gone" if lost else None,
        "timings": {"queue": 0.1, "setup": 0.2, "agent": 3.0, "verifier": 0.5, "total": 4.0 + number % 60},
        "weight_versions": {"min": step, "max": step},
        "model_calls": 12,
        "completion_tokens": 700,
        "started": 1.7e9 + number,
    }


def _trajectory(tokens: int, turns: int) -> dict[str, Any]:
    """One conversation: each turn writes a third of its tokens, its tool's answer is the rest."""
    each = tokens // turns
    own = each // 3
    ids: list[int] = []
    mask: list[int] = []
    said = []
    for seq in range(turns):
        ids += range(each)
        mask += [0] * (each - own) + [1] * own
        answer = {"role": "tool", "tool_call_id": f"call-{seq - 1}", "content": "x = 1\n" * (each // 3)}
        call = {"id": f"call-{seq}", "name": "run", "arguments": json.dumps({"command": f"sed -n {seq}p a.py"})}
        said.append(
            {
                "seq": seq,
                "parent": seq - 1 if seq else None,
                "dialect": "openai",
                "kind": "policy",
                "messages": [answer] if seq else [{"role": "user", "content": "Repair it."}],
                "text": "Now that line. " * (own // 4),
                "tool_calls": [call] if seq < turns - 1 else [],
                "parse_status": "calls",
                "finish_reason": "stop",
                "prompt_tokens": 20 + len(ids) - own,
                "completion_tokens": own,
                "cached_tokens": 0,
                "weight_versions": [0, 0],
                "started_sec": float(seq),
                "generate_sec": 0.5,
                "gap_sec": 0.25,
            }
        )
    count = len(ids)
    sample = {
        "prompt_ids": list(range(20)),
        "response_ids": ids,
        "response_mask": mask,
        "response_logprobs": [-0.5123456 * flag for flag in mask],
        "weight_versions": [0 if flag else -1 for flag in mask],
    }
    assert count == len(mask)
    return {"turns": said, "samples": [sample]}


def command(*words: str) -> float:
    """CPU seconds of a command of ours, its start with it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "liverl", *words], check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def answer(ask: Callable[[], Any]) -> float:
    """CPU seconds until an answer of the page lies there as JSON."""
    began = time.process_time()
    as_json(ask())
    return time.process_time() - began


def measure(run: Path) -> dict[str, float]:
    found = {"trials_first": command("trials", str(run))}

    def best(name: str, one: Callable[[], float]) -> None:
        found[name] = min(one() for _ in range(TIMES))

    best("trials", lambda: command("trials", str(run)))
    best("trials_failed", lambda: command("trials", str(run), "--failed", "--sort", "seconds", "--descending"))
    best("trials_json", lambda: command("trials", str(run), "--json"))
    best("trials_all_json", lambda: command("trials", str(run), "--json", "--limit", "0"))
    best("trial", lambda: command("trial", str(run), f"0/{LONG}"))
    best("trial_tokens", lambda: command("trial", str(run), f"0/{LONG}", "--tokens"))
    best("trial_json", lambda: command("trial", str(run), f"0/{LONG}", "--json"))
    library = Library(run.parents[1])
    shown = library.runs()[0]
    found["page_first"] = answer(lambda: shown.trials({}))
    best("page_trials", lambda: answer(lambda: shown.trials({})))
    best("page_failed", lambda: answer(lambda: shown.trials({"failed": "1", "sort": "seconds", "descending": "1"})))
    best("page_groups", lambda: answer(shown.groups))
    best("page_diagnosis", lambda: answer(shown._diagnose))
    best("page_trial", lambda: answer(lambda: shown.trial("0", LONG)))
    best("page_tokens", lambda: answer(lambda: shown.tokens("0", LONG, 0)))
    library.close()
    return {name: round(seconds, 3) for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="The last line is one object.")
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = make_run(Path(scratch), trials=options.trials, tokens=options.tokens, turns=options.turns)
        found: dict[str, float] = measure(run)
        found["index_mib"] = round((run / "trials" / index.INDEX).stat().st_size / (1 << 20), 1)
    table = Table("question", "CPU seconds")
    for name, value in found.items():
        table.add_row(name, f"{value:g}")
    Console().print(table)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
