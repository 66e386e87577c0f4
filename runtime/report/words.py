"""Trials as lines of text for a terminal. What an agent wrote cannot steer it: control characters are shown, not sent.

Knows what is worth showing first; not where it is printed.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from runtime.report.trials import TrialRow

if TYPE_CHECKING:  # a list of trials needs neither, and they take longer than the list
    from runtime.report.patch import Patch
    from runtime.report.trial import TrialView, TurnView

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_PARTS = ("queue", "setup", "agent", "model", "tools", "download", "verifier", "teardown", "total")


def visible(text: str) -> str:
    """Control characters and those that turn the direction of writing, spelled out; tabs and line ends stay.

    >>> visible("\\x1b[31mred")
    '\\\\x1b[31mred'
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def table(rows: Sequence[TrialRow]) -> list[str]:
    """One line for each trial, below a heading."""
    cells: list[tuple[str, ...]] = [("step", "trial", "reward", "end", "turns", "tokens", "seconds", "")]
    for row in rows:
        reward = "–" if row.reward is None else f"{row.reward:g}"
        seconds = "–" if row.seconds is None else f"{row.seconds:.1f}"
        numbers = ("–" if value is None else str(value) for value in (row.model_calls, row.completion_tokens))
        problem = " ".join((row.problem or "").split())[:80]
        cells.append((str(row.step), row.trial_id, reward, row.termination or "?", *numbers, seconds, problem))
    widths = [max(len(line[column]) for line in cells) for column in range(8)]
    right = {0, 2, 4, 5, 6}
    return [
        visible("  ".join(f"{cell:{'>' if n in right else '<'}{widths[n]}}" for n, cell in enumerate(line)).rstrip())
        for line in cells
    ]


def pages(trial: TrialView, patch: Patch, siblings: Sequence[TrialRow], *, tokens: bool = False) -> Iterator[str]:
    """Everything about one trial, line by line: verdict first, then turns, patch, tests, siblings, what is missing."""
    record = trial.record
    yield from _head(trial)
    for turn in trial.turns:
        yield ""
        yield from _turn(trial, turn, tokens=tokens)
    yield ""
    yield "── work"
    yield from visible(patch.text).splitlines() or ["(no change that can be shown)"]
    yield from (visible(f"{change.path}: {change.what}, {change.why}") for change in patch.changes if not change.text)
    if outcomes := record.get("outcomes"):
        yield ""
        yield "── tests"
        yield from (visible(f"{outcome:<8} {name}") for name, outcome in outcomes.items())
    if len(siblings) > 1:
        yield ""
        yield "── the other trials of its group"
        yield from table(siblings)
    for line in (*trial.missing, *patch.missing):
        yield visible(f"missing  {line}")


def _head(trial: TrialView) -> Iterator[str]:
    record = trial.record
    reward = record.get("reward")
    worth = "no reward" if reward is None else f"reward {reward:g}"
    yield visible(f"step {trial.step}  {trial.trial_id}  {record.get('verdict', '?')}  {worth}")
    facts = {
        "task": record.get("task"),
        "set": record.get("task_set"),
        "end": record.get("termination"),
        "problem": record.get("error") or record.get("cause"),
        "isolation": record.get("isolation"),
        "defences": ", ".join(record.get("defences") or ()),
        "weights": _range(record.get("weight_versions")),
    }
    yield from (visible(f"  {name:<10} {value}") for name, value in facts.items() if value)
    timings = record.get("timings")
    if isinstance(timings, dict):
        shown = (f"{part} {timings[part]:.2f}" for part in _PARTS if isinstance(timings.get(part), int | float))
        yield f"  {'seconds':<10} " + ", ".join(shown)


def _turn(trial: TrialView, turn: TurnView, *, tokens: bool) -> Iterator[str]:
    from_ = "" if turn.parent is None or turn.parent == turn.seq - 1 else f" from turn {turn.parent}"
    note = "" if turn.kind == "policy" else f" ({turn.kind}, not trained)"
    yield visible(
        f"── turn {turn.seq}{from_}{note}: {turn.number('prompt_tokens'):.0f} + "
        f"{turn.number('completion_tokens'):.0f} tokens, {turn.number('generate_sec'):.2f} s"
    )
    parent = None if turn.parent is None else trial.by_seq[turn.parent]
    known = {use.id for use in parent.tools} if parent is not None else set()
    for message in turn.messages:
        if message.role != "tool" or message.tool_call_id not in known:
            yield from _block(f"{message.role}: ", message.content)
    yield from _block("model: ", turn.text)
    for use in turn.tools:
        yield from _block(f"call {use.name}: ", use.arguments)
        yield from _block("  → ", use.output if use.output is not None else "(no answer came)")
    if tokens and turn.span is not None:
        sample, own = trial.samples[turn.span.sample], slice(turn.span.start, turn.span.end)
        trained = [""] * len(sample.response_ids)
        if sample.trainer_logprobs is not None:
            trained = [f" (trainer {value:.4f})" for value in sample.trainer_logprobs]
        lists = (sample.response_ids, sample.response_logprobs, trained, sample.weight_versions)
        for token, logprob, ours, version in zip(*(values[own] for values in lists), strict=True):
            yield f"    token {token}  logprob {logprob:.4f}{ours}  weights {version}"


def _block(label: str, text: str) -> Iterator[str]:
    lines = visible(text).splitlines() or [""]
    yield label + lines[0]
    yield from (textwrap.indent(line, "    ") for line in lines[1:])


def _range(versions: Any) -> str:
    if not isinstance(versions, dict):
        return ""
    low, high = versions.get("min"), versions.get("max")
    return str(low) if low == high else f"{low} to {high}"
