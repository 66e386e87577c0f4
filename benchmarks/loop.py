"""Share of a training step in which neither the model computed nor the task's tests ran: the loop's own overhead.

    python benchmarks/loop.py [RUN_DIR] [--json] [--trials N]

Reads a run directory's records (``metrics.jsonl`` and ``trials/<step>/``). Without one, N trials of generated tasks
are run in process with a random policy, which has no trainer's part. A reply counts as model time from the engine's
call to its answer, a verdict as test time from start to end; what runs at the same time as either costs the step
nothing and is no overhead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

COMPUTE = ("old_log_prob", "ref", "values", "update_actor", "update_critic")
OTHER = ("adv", "save_checkpoint", "update_weights")


@dataclass(frozen=True)
class Step:
    """Seconds of one step. ``busy``: model or tests at work while trials were running."""

    number: int
    total: float
    compute: float
    rollout: float
    busy: float
    sync: float
    save: float

    @property
    def overhead(self) -> float:
        return max(0.0, self.total - self.compute - self.busy)


def union(intervals: Iterable[tuple[float, float]]) -> float:
    """Total length covered by the intervals (start, end)."""
    covered, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        if stop > end:
            covered += stop - max(start, end)
            end = stop
    return covered


def busy_intervals(trial: Path) -> list[tuple[float, float]]:
    """When the model answered this trial, and when its tests ran; seconds since the epoch."""
    record = orjson.loads((trial / "trial.json").read_bytes())
    turns = orjson.loads((trial / "trajectory.json").read_bytes())["turns"]
    times, began = record["timings"], float(record["started"])
    found = [(began + t["started_sec"], began + t["started_sec"] + t["generate_sec"]) for t in turns]
    graded = began + times["total"]
    return [*found, (graded - times["verifier"], graded)]


def step_of(data: dict[str, Any], number: int, trials: Path) -> Step:
    seconds = {name: float(data.get(f"timing_s/{name}", 0.0)) for name in ("step", "gen", *COMPUTE, *OTHER)}
    return Step(
        number=number,
        total=seconds["step"],
        compute=sum(seconds[name] for name in COMPUTE),
        rollout=seconds["gen"],
        busy=union(pair for trial in trials.iterdir() if trial.is_dir() for pair in busy_intervals(trial)),
        sync=seconds["update_weights"],
        save=seconds["save_checkpoint"],
    )


def read_run(run: Path) -> list[Step]:
    """Steps whose trials were all kept; the first one is left out: everything in it happens for the first time."""
    rows = [orjson.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    steps = [(row["step"], row["data"]) for row in rows if "timing_s/step" in row["data"]]
    kept = [(number, data) for number, data in steps[1:] if (run / "trials" / str(number)).is_dir()]
    return [step_of(data, number, run / "trials" / str(number)) for number, data in kept]


def run_in_process(trials: int) -> list[Step]:
    """One rollout of ``trials`` trials with a policy of random weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from runtime.agent_loop.evaluate import EvaluationSet, evaluate
    from runtime.config import Bubblewrap, PretrainedPolicy, Proxy, RuntimeConfig, ShellScaffold, TorchRollout
    from runtime.laptop.compact import CHAT_TEMPLATE
    from runtime.laptop.engine.torch_engine import TorchEngine
    from runtime.laptop.policy.tokenizer import train_tokenizer
    from runtime.laptop.synth import generate
    from runtime.task import load_task

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = [load_task(path) for path in generate(16, seed=0, split="held_out", out=folder / "tasks")]
        words = [task.instruction for task in tasks] * 20
        policy = folder / "policy"
        policy.mkdir()
        train_tokenizer(words, [], vocabulary_size=512).save(str(policy / "tokenizer.json"))
        (policy / "tokenizer_config.json").write_text('{"eos_token": "<|end|>", "pad_token": "<|pad|>"}')
        (policy / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=512,
                hidden_size=64,
                intermediate_size=192,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=1024,
                tie_word_embeddings=True,
            )
        )
        model.save_pretrained(policy)
        rollout = TorchRollout(
            replicas=1,
            slots=32,
            prompt_length=256,
            response_length=768,
            max_tokens_per_turn=16,
            temperature=1.0,
            tool_parser="compact",
            concurrency=32,
        )
        config = RuntimeConfig(
            experiment="loop",
            seed=0,
            target="local",
            policy=PretrainedPolicy(path="policy"),
            train=(),
            validation=(),
            baselines=False,
            scaffold=ShellScaffold(tools="repair", max_turns=8, max_edits=3),
            environment=Bubblewrap(),
            rollout=rollout,
            proxy=Proxy(record_journal=False),
        )

        async def play() -> list[dict[str, Any]]:
            engine = TorchEngine(policy, slots=32, max_len=1024, seed=0)
            sets = [EvaluationSet("loop", tasks, temperature=1.0, n=max(1, trials // len(tasks)))]
            try:
                return await evaluate(sets, config=config, engine=engine, model_folder=policy, out=folder)
            finally:
                await engine.close()

        records = asyncio.run(play())
        # Without what is started once per process: from the first trial's start to the last one's end.
        began = min(record["started"] for record in records)
        total = max(record["started"] + record["timings"]["total"] for record in records) - began
        return [step_of({"timing_s/step": total, "timing_s/gen": total}, 0, folder / "trials" / "0")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="run directory; without it a short run in process")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--trials", type=int, default=64, help="trials of the run in process")
    arguments = parser.parse_args()
    steps = read_run(arguments.run) if arguments.run else run_in_process(arguments.trials)
    if not steps:
        parser.error(f"{arguments.run}: no step with kept trials (dump.trials_every) after the first")
    print(
        f"{'step':>6} {'total s':>8} {'update':>8} {'rollout':>8} {'busy':>8} {'sync':>8} {'save':>8} {'overhead':>9}"
    )
    for one in steps:
        numbers = (one.total, one.compute, one.rollout, one.busy, one.sync, one.save)
        share = one.overhead / one.total
        print(f"{one.number:>6} " + " ".join(f"{value:8.2f}" for value in numbers) + f" {share:9.1%}")
    total = sum(one.total for one in steps)
    share = sum(one.overhead for one in steps) / total
    print(f"overhead: {share:.1%} of {total:.1f} s (model and tests overlap it for the rest)")
    if arguments.json:
        print(
            json.dumps({"overhead_share": round(share, 4), "steps": len(steps), "step_s": round(total / len(steps), 3)})
        )


if __name__ == "__main__":
    main()
