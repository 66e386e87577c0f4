"""Trials as the page asks for them: a page of the list, one trial, its tokens. Text stays text: nothing is made fit for
a browser here but numbers and lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runtime.report.patch import read_patch
from runtime.report.trial import TrialView, TurnView, read_trial
from runtime.report.trials import SORTS, TrialFilter, TrialIndex, TrialRow

PAGE = 50
LONGEST_PAGE = 500
_LONG = 200_000
"""Characters of one text above which its middle is left out: a browser gets slow, and the file holds all."""


def listing(index: TrialIndex, query: Mapping[str, str], choices: Mapping[str, Any]) -> dict[str, Any]:
    """A page of the list, with what there is to choose from and how many there are. Wrong words of a query are as
    none."""
    wanted = TrialFilter(
        task=query.get("task") or None,
        task_set=query.get("set") or None,
        step=_whole(query.get("step")),
        group=query.get("group") or None,
        failed=query.get("failed") == "1",
        validation={"1": True, "0": False}.get(query.get("validation", "")),
        verdict=query.get("verdict") or None,
        termination=query.get("termination") or None,
        reward_min=_number(query.get("min")),
        reward_max=_number(query.get("max")),
        words=query.get("words") or None,
    )
    size = min(max(_whole(query.get("size")) or PAGE, 1), LONGEST_PAGE)
    total = index.count(wanted)
    page = min(max(_whole(query.get("page")) or 0, 0), max(0, (total - 1) // size))
    sort = query.get("sort", "started")
    found = index.rows(
        wanted,
        sort=sort if sort in SORTS else "started",
        descending=query.get("order", "down") == "down",
        limit=size,
        offset=page * size,
    )
    return {
        "rows": [asdict(row) for row in found],
        "total": total,
        "page": page,
        "size": size,
        "choices": choices,
    }


def whole_list(index: TrialIndex) -> dict[str, Any]:
    """Every trial, the newest first, and what there is to choose from."""
    return {
        "rows": [asdict(row) for row in index.rows(sort="started", descending=True)],
        "choices": choices_of(index),
    }


def choices_of(index: TrialIndex) -> dict[str, list[Any]]:
    """What a list can be filtered by. Counts every trial several times: worth keeping."""
    steps = sorted((int(step) for step in index.counts("step")), reverse=True)
    return {"step": steps, **{name: list(index.counts(column)) for name, column in _CHOICES.items()}}


_CHOICES = {"set": "task_set", "verdict": "verdict", "termination": "termination"}


def everything(run: Path, index: TrialIndex, row: TrialRow) -> dict[str, Any]:
    """Everything of a trial but its tokens."""
    view = read_trial(index.folder(row))
    patch = read_patch(run, view.record)
    return {
        "row": asdict(row),
        "record": view.record,
        "turns": [_turn(turn, view) for turn in view.turns],
        "conversations": [[turn.seq for turn in conversation] for conversation in view.conversations],
        "samples": [
            {
                "prompt": len(one.prompt_ids),
                "response": len(one.response_ids),
                "trained": sum(map(bool, one.response_mask)),
            }
            for one in view.samples
        ],
        "patch": {
            "changes": [{**asdict(change), "text": _cut(change.text)} for change in patch.changes],
            "missing": patch.missing,
        },
        "verifier": _cut(view.verifier),
        "logs": {name: _cut(text) for name, text in view.logs.items()},
        "missing": view.missing,
        "siblings": [asdict(sibling) for sibling in index.siblings(row)],
    }


def _turn(turn: TurnView, view: TrialView) -> dict[str, Any]:
    """What a tool answered stands with its call, not again among the messages of the next turn."""
    before = None if turn.parent is None else view.by_seq.get(turn.parent)
    answered = {tool.id for tool in before.tools if tool.output is not None} if before is not None else set()
    kept = (
        *("kind", "parse_status", "finish_reason", "prompt_tokens", "completion_tokens", "cached_tokens"),
        *("weight_versions", "started_sec", "generate_sec", "gap_sec", "discarded", "delivery"),
    )
    return {
        "seq": turn.seq,
        "parent": turn.parent,
        "messages": [
            {"role": one.role, "content": _cut(one.content)}
            for one in turn.messages
            if one.role != "tool" or one.tool_call_id not in answered
        ],
        "text": _cut(turn.text),
        "tools": [
            {
                "name": tool.name,
                "arguments": _cut(tool.arguments),
                "output": None if tool.output is None else _cut(tool.output),
            }
            for tool in turn.tools
        ],
        "span": None if turn.span is None else asdict(turn.span),
        **{name: turn.record.get(name) for name in kept},
    }


def tokens(view: TrialView, number: int, texts: Tokenizer | None) -> dict[str, Any]:
    """One sample, token by token; ``texts`` maps each id to its text where the policy's tokenizer is there."""
    sample = view.samples[number] if 0 <= number < len(view.samples) else None
    if sample is None:
        return {"samples": len(view.samples), "prompt_ids": [], "response_ids": []}
    ids = {*sample.prompt_ids, *sample.response_ids}
    return {
        "samples": len(view.samples),
        "prompt_ids": sample.prompt_ids,
        "response_ids": sample.response_ids,
        "mask": sample.response_mask,
        "logprobs": sample.response_logprobs,
        "trained": sample.trainer_logprobs,
        "versions": sample.weight_versions,
        "texts": {} if texts is None else texts.of(sorted(ids)),
    }


class Tokenizer:
    """The texts of a policy's tokens."""

    def __init__(self, file: Path) -> None:
        from tokenizers import Tokenizer as Real

        self._real = Real.from_file(str(file))

    @classmethod
    def of_run(cls, policy: Path) -> Tokenizer | None:
        file = policy / "tokenizer.json"
        try:
            return cls(file) if file.is_file() else None
        except Exception:  # tokenizers raises this very class for a file that it cannot read
            return None

    def of(self, ids: Sequence[int]) -> dict[str, str]:
        return {
            str(one): self._real.decode([one], skip_special_tokens=False)
            for one in ids
            if isinstance(one, int) and one >= 0
        }


def _cut(text: str) -> str:
    if len(text) <= _LONG:
        return text
    half = _LONG // 2
    note = f"… {len(text) - 2 * half} characters left out here; the trial's folder has them …"
    return f"{text[:half]}\n{note}\n{text[-half:]}"


def _whole(text: str | None) -> int | None:
    try:
        value = int(text or "")
    except ValueError:
        return None
    return value if abs(value) < 1 << 62 else None


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
