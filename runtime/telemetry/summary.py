"""The closing words of a run: what the policy learnt, beside the scripted baselines, where the time went, and where
everything lies.

Reads the run directory's files only; does not know how a run is made. Everything shown was measured in this run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from runtime import suggest
from runtime.config import NewPolicy, RuntimeConfig, TaskSet
from runtime.telemetry.intervals import wilson
from runtime.telemetry.metrics import Row, read_rows, series
from runtime.telemetry.plot import line_plot, smooth
from runtime.telemetry.scores import SCORE, before_and_after, idle_words

WARM_START_NOTE = (
    "The warm start is the original system's supervised stage in miniature: a policy of random initialisation is first"
    " taught, by demonstrations on repositories that appear in neither training nor scoring, how to hold the tools."
    " What comes after is reinforcement alone."
)


@dataclass(frozen=True)
class ScoreLine:
    """One line of the table: ``solved`` of ``total`` held-out tasks (an expectation where the actor is random)."""

    name: str
    when: str
    how: str
    solved: float
    total: int

    @property
    def rate(self) -> float:
        return self.solved / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson(self.solved, self.total)


@dataclass(frozen=True)
class Comparison:
    """Everything in the closing table: baselines first, then the policy before and after, per validation set."""

    baselines: tuple[ScoreLine, ...]
    before: tuple[ScoreLine, ...]
    after: tuple[ScoreLine, ...]
    steps: tuple[int, int]
    max_edits: int | None = None


def compare(rows: list[Row], config: RuntimeConfig, *, counts: dict[str, int], baselines: Path) -> Comparison:
    """``counts`` maps task-set names to numbers of tasks. Sets that were never scored are left out."""
    try:
        table = orjson.loads(baselines.read_bytes())
    except (OSError, ValueError):
        table = {"rows": []}
    measured = {score.name: score for score in before_and_after(rows)}
    before, after, steps = [], [], (0, 0)
    for task_set in config.validation:
        score, total = measured.get(task_set.name), counts.get(task_set.name, 0)
        if score is None or not total:
            continue
        how = describe_sampling(task_set, config)
        steps = (score.first_step, score.last_step)
        before.append(ScoreLine(task_set.name, "before", how, _clip(score.first, total), total))
        if score.last_step > score.first_step:
            after.append(ScoreLine(task_set.name, "after", how, _clip(score.last, total), total))
    scripted = tuple(
        ScoreLine(str(row["name"]), "", "scripted", float(row["solved"]), int(table["tasks"])) for row in table["rows"]
    )
    return Comparison(scripted, tuple(before), tuple(after), steps, table.get("max_edits"))


def describe_sampling(task_set: TaskSet, config: RuntimeConfig) -> str:
    temperature = config.rollout.temperature if task_set.temperature is None else task_set.temperature
    return "greedy" if temperature == 0 else f"at T={temperature:g}"


def gains(comparison: Comparison) -> Iterator[str]:
    """Sentences: how far each set rose, and how it ends against the best baseline."""
    first = {line.name: line.rate for line in comparison.before}
    best = max(comparison.baselines, key=lambda line: line.rate, default=None)
    for line in comparison.after:
        start = first[line.name]
        text = f"{line.name} ({line.how}): {start:.1%} → {line.rate:.1%}, {100 * (line.rate - start):+.1f} points"
        text += " by reinforcement"
        if best is not None:
            above = f"{100 * (line.rate - best.rate):+.1f}"
            text += f"; {above} points against the best baseline ({best.name}, {best.rate:.1%})"
        yield text


def time_by_part(rows: list[Row], phases: dict[str, float]) -> list[tuple[str, float]]:
    """(part, seconds): the phases of the run, and below ``train`` verl's timers summed over all steps, largest
    first."""
    parts = list(phases.items())
    sums: dict[str, float] = {}
    for row in rows:
        for name, value in row.data.items():
            part = name.removeprefix("timing_s/")
            if part != name and "/" not in part and part != "step":
                sums[part] = sums.get(part, 0.0) + value
    parts += [
        (f"train: {name}", seconds)
        for name, seconds in sorted(sums.items(), key=lambda item: -item[1])
        if seconds >= 0.05
    ]
    return parts


TRIAL_PARTS = {
    "sandbox start": "harbor_env_setup",
    "agent waiting for the model": "harbor_agent_model_inference",
    "agent's own work and tools": "harbor_agent_tool_call",
    "artifacts out": "download",
    "verifier": "harbor_verifier",
    "sandbox stop": "teardown",
    "waiting for a place": "queue",
}


def trial_time_by_part(rows: list[Row]) -> list[tuple[str, float]]:
    """(part, seconds) inside the training trials, summed over all of them; trials run side by side."""
    found = []
    for label, part in TRIAL_PARTS.items():
        name = f"timing_s/agent_loop/{part}/mean"
        seconds = sum(row.data[name] * row.data.get("agent_loop/trials", 0.0) for row in rows if name in row.data)
        if seconds:
            found.append((label, seconds))
    return found


def failure_counts(rows: list[Row]) -> dict[str, int]:
    """Trials that carried no gradient or no grade, by reason, over all steps."""
    prefix = "trajectory_filter/reason/"
    counts: dict[str, float] = {}
    for row in rows:
        for name, value in row.data.items():
            if name.startswith(prefix) and value:
                reason = name.removeprefix(prefix)
                counts[reason] = counts.get(reason, 0.0) + value
    return {reason: round(count) for reason, count in sorted(counts.items(), key=lambda item: -item[1])}


@dataclass(frozen=True)
class RunReport:
    """What the summary needs to know of a run beside its files."""

    path: Path
    runs_dir: Path
    experiment: Sequence[str | Path]
    """The words that name the experiment to a command."""
    counts: dict[str, int]
    phases: dict[str, float]
    left_out: Sequence[str]
    baselines: Path
    metrics: Path


def print_summary(facts: RunReport, config: RuntimeConfig, *, console: Console) -> None:
    """Print the closing table, the plot, times, failures, places and next commands."""
    rows = read_rows(facts.metrics)
    comparison = compare(rows, config, counts=facts.counts, baselines=facts.baselines)
    console.print()
    if comparison.baselines or comparison.before or comparison.after:
        console.print(_score_table(comparison))
    else:
        console.print("No held-out task was scored: the spec names no validation tasks.", highlight=False)
    for sentence in gains(comparison):
        console.print(sentence, highlight=False)
    if idle := idle_words(rows):
        console.print(f"Warning: {idle}.", style="yellow", highlight=False, markup=False)
    if isinstance(config.policy, NewPolicy):
        console.print(WARM_START_NOTE, style="dim", highlight=False)
    _print_plot(rows, console)
    _print_times(rows, facts, console)
    _print_failures(rows, facts, console)
    _print_places(facts, console)


def _score_table(comparison: Comparison) -> Table:
    facts = [f"before: step {comparison.steps[0]}", f"after: step {comparison.steps[1]}"]
    facts += [f"{comparison.max_edits} edits a task"] if comparison.max_edits else []
    # Fits a page of 80 columns.
    table = Table(
        title="Solve rate on held-out tasks, with 95 % Wilson intervals",
        caption=", ".join(facts),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    for name in ("who", "when", "how"):
        table.add_column(name, no_wrap=True)
    for name in ("solved", "rate", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for group, style in ((comparison.baselines, ""), (comparison.before, ""), (comparison.after, "bold")):
        for line in group:
            low, high = line.interval
            solved, interval = f"{line.solved:.4g}/{line.total}", f"{100 * low:.1f}–{100 * high:.1f} %"
            table.add_row(line.name, line.when, line.how, solved, f"{line.rate:.1%}", interval, style=style)
        table.add_section()
    return table


def _print_plot(rows: list[Row], console: Console) -> None:
    points = series(rows, SCORE)
    smoothed = smooth([value for _, value in points], width=max(1, len(points) // 20))
    lines = line_plot([(step, value) for (step, _), value in zip(points, smoothed, strict=True)], low=0.0, high=1.0)
    if lines:
        console.print("\nMean reward of the training trials, by step", highlight=False)
        for line in lines:
            console.print(line, highlight=False, markup=False)


def _print_times(rows: list[Row], facts: RunReport, console: Console) -> None:
    parts = time_by_part(rows, facts.phases)
    if parts:
        console.print("\nTime by part (seconds)", highlight=False)
        console.print("  " + " · ".join(f"{name} {seconds:.1f}" for name, seconds in parts), highlight=False)
    inside = trial_time_by_part(rows)
    if inside:
        console.print(
            "Inside the training trials, which run side by side (seconds, all trials together)", highlight=False
        )
        console.print("  " + " · ".join(f"{name} {seconds:.1f}" for name, seconds in inside), highlight=False)


def _print_failures(rows: list[Row], facts: RunReport, console: Console) -> None:
    counts = failure_counts(rows)
    if counts:
        console.print(
            "\nTrials outside the loss: " + ", ".join(f"{reason} {count}" for reason, count in counts.items()),
            highlight=False,
        )
    if facts.left_out:
        console.print(
            f"\nTask directories left out: {len(facts.left_out)}; the first: {facts.left_out[0]}",
            highlight=False,
            markup=False,
        )


def _print_places(facts: RunReport, console: Console) -> None:
    checkpoints = sorted(
        (facts.path / "checkpoints").glob("global_step_*"), key=lambda path: int(path.name.rpartition("_")[2])
    )
    checkpoint = checkpoints[-1] if checkpoints else facts.path / "policy"
    words, there = facts.experiment, suggest.elsewhere(facts.runs_dir)
    lines = [
        f"\nEverything lies in {facts.path}",
        "  metrics.jsonl   one row of numbers per step        trials/        every kept trial: turns, tokens, verdict",
        "  checkpoints/    Hugging Face folders               bundle/        the compiled configuration that was run",
        "\nTry next",
        f"  {suggest.liverl('eval', *words, '--checkpoint', checkpoint, *there)}",
        f"  {suggest.liverl('infer', *words, '-n', '2', '--checkpoint', checkpoint, *there)}",
        f"  {suggest.liverl(*(('run', 'real-repos') if words[0] != 'real-repos' else ('runs',)), *there)}",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _clip(rate: float, total: int) -> float:
    return min(max(rate, 0.0), 1.0) * total
