"""A run directory as the product's own writers leave it, small, with texts that an adversary would write."""

from __future__ import annotations

from pathlib import Path

from runtime.agent_loop.records import TrialFiles, write_trial
from runtime.agent_loop.step_metrics import step_metrics
from runtime.agent_loop.types import Sampling, Timings, TrialKey, TrialResult
from runtime.errors import Termination
from runtime.launch.rundir import RunDirectory, create
from runtime.proxy.types import Accounting, Sample, Turn
from tests.runtime.rows import append_row

HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>\"'>&amp;\u202e\x1b[31m"
TASKS = ("never", "always", "sometimes")


def make_run(runs_dir: Path, *, steps: int = 4, experiment: str = "small", lr: float = 1e-4) -> RunDirectory:
    """A run of ``steps`` steps that goes on (its owner is this process): end it with ``finish``."""
    run = create(runs_dir, experiment=experiment, target="local")
    run.update(state="running", tasks={"train": 3, "held-out": 40}, phases={"tasks": 1.0, "train": 20.0})
    run.bundle.mkdir()
    run.verl_yaml.write_text("trainer:\n  total_training_steps: 10\n")
    append_row(run.metrics, 0, {"val-core/held-out/reward/mean@1": 0.25})
    for step in range(1, steps + 1):
        add_step(run, step, lr=lr)
    return run


def add_step(run: RunDirectory, step: int, *, lr: float = 1e-4) -> None:
    """One more step: its trials, and then its row."""
    groups = [[_write(run, task, step, index) for index in range(2)] for task in TASKS]
    rewards = [trial.reward for group in groups for trial in group if trial.reward is not None]
    row = {
        **step_metrics(groups, group_size=2, seconds=4.0),
        "training/global_step": float(step),
        "critic/score/mean": sum(rewards) / len(rewards),
        "critic/score/min": min(rewards),
        "critic/score/max": max(rewards),
        "actor/lr": lr,
        "actor/grad_norm": 0.3 + 0.01 * step,
        "actor/entropy": 1.0 / (1 + step),
        "actor/ppo_kl": 1e-4 * step,
        "rollout_corr/kl": 2e-5,
        "training/rollout_actor_probs_pearson_corr": 0.999,
        "num_turns/mean": 2.0,
        "response_length/mean": 12.0 + step,
        "response_length/clip_ratio": 0.01,
        "perf/mfu/actor": 0.3,
        "perf/throughput": 900.0 + step,
        "perf/total_num_tokens": 4000.0,
        "timing_s/step": 5.0 + 0.1 * step,
        "timing_s/gen": 3.0,
        "timing_s/update_actor": 1.5,
    }
    append_row(run.metrics, step, row)


def _write(run: RunDirectory, task: str, step: int, index: int) -> TrialResult:
    solved = task == "always" or (task == "sometimes" and (step + index) % 2 == 0)
    call = {"id": "call_1", "name": "run", "arguments": f'{{"command": "cat {HOSTILE[:20]}"}}'}
    first = Turn(
        seq=0, parent=None, dialect="openai", kind="policy",
        messages=({"role": "user", "content": f"Repair {task}. {HOSTILE}"},), text=f"I look. {HOSTILE}",
        tool_calls=(call,), parse_status="ok", finish_reason="tool_calls", prompt_tokens=5, completion_tokens=3,
        cached_tokens=0, weight_versions=(step - 1, step - 1), started_sec=0.5, generate_sec=0.4, gap_sec=None,
    )  # fmt: skip
    second = Turn(
        seq=1, parent=0, dialect="openai", kind="policy",
        messages=({"role": "tool", "tool_call_id": "call_1", "content": f"FAIL {HOSTILE}"},), text="Done.",
        tool_calls=(), parse_status="ok", finish_reason="stop", prompt_tokens=10, completion_tokens=2,
        cached_tokens=5, weight_versions=(step - 1, step), started_sec=1.5, generate_sec=0.3, gap_sec=0.6,
    )  # fmt: skip
    sample = Sample(
        prompt_ids=[1, 2, 3, 4, 5], response_ids=[7, 8, 9, 1, 1, 7, 8], response_mask=[1, 1, 1, 0, 0, 1, 1],
        response_logprobs=[-0.1, -2.5, -0.2, 0.0, 0.0, -0.3, -0.05],
        weight_versions=[step - 1, step - 1, step - 1, -1, -1, step - 1, step],
    )  # fmt: skip
    result = TrialResult(
        key=TrialKey(task=task, task_set="train", step=step, group=f"train-{task}", index=index),
        termination=Termination.COMPLETED,
        reward=1.0 if solved else 0.0,
        isolation="bubblewrap",
        timings=Timings(
            queue=0.2, setup=0.5, agent=2.0, model=0.7, download=0.1, verifier=1.0, teardown=0.1, total=3.9
        ),
        sampling=Sampling(temperature=1.0, seed=index),
        verdict="solved" if solved else "unsolved",
        defences=("fresh_sandbox", "network_off"),
        outcomes={"tests/test_calc.py::test_add": "passed" if solved else "failed", HOSTILE: "passed"},
        samples=(sample,),
        model_calls=2,
        prompt_tokens=15,
        accounting=Accounting(sampled=5, trained=5),
        started=1_800_000_000.0 + step * 10 + index,
    )
    files = TrialFiles(
        turns=(first, second), verifier=f"1 passed {HOSTILE}".encode(), agent={"log.txt": HOSTILE.encode()}
    )
    write_trial(run.trials, result, files)
    return result


def add_long_trial(run: RunDirectory, *, turns: int, tokens: int) -> str:
    """A trial as long as real ones get; returns its id."""
    each = tokens // turns
    kept = [
        Turn(
            seq=number, parent=number - 1 if number else None, dialect="openai", kind="policy",
            messages=({"role": "user", "content": "Repair it."},) if not number else
            ({"role": "tool", "tool_call_id": f"call_{number - 1}", "content": f"line {number}\n" * each},),
            text=f"Now {number}.", tool_calls=({"id": f"call_{number}", "name": "bash", "arguments": "{}"},),
            parse_status="ok", finish_reason="tool_calls", prompt_tokens=10 + number * each,
            completion_tokens=each // 4,
            cached_tokens=0, weight_versions=(1, 1), started_sec=float(number), generate_sec=0.5, gap_sec=0.5,
        )
        for number in range(turns)
    ]  # fmt: skip
    mask = ([1] * (each // 4) + [0] * (each - each // 4)) * turns
    sample = Sample(
        prompt_ids=list(range(10)), response_ids=[number % 5000 for number in range(len(mask))], response_mask=mask,
        response_logprobs=[-0.5 * one for one in mask], weight_versions=[2 * one - 1 for one in mask],
    )  # fmt: skip
    result = TrialResult(
        key=TrialKey(task="long", task_set="train", step=1, group="train-long", index=0),
        termination=Termination.COMPLETED, reward=1.0, isolation="bubblewrap", verdict="solved",
        timings=Timings(setup=1.0, agent=float(turns), model=turns / 2, verifier=1.0, total=turns + 2.0),
        sampling=Sampling(temperature=1.0, seed=0), samples=(sample,), model_calls=turns, started=1_800_000_000.0,
    )  # fmt: skip
    write_trial(run.trials, result, TrialFiles(turns=kept))
    return result.key.trial_id
