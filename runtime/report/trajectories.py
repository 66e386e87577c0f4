"""A run's trajectories in forms that others read: OpenAI messages, ShareGPT, Harbor's ATIF, tokens in Parquet.

A session may branch: every conversation that the policy trained on is one of its own. Replies that the agent threw away
and side calls (titles, probes) are left out. Forms: https://platform.openai.com/docs/guides/fine-tuning (messages,
tools), https://github.com/laude-institute/harbor (ATIF 1.6), ShareGPT as LLaMA-Factory reads it. Knows trials as
``read_trial`` gives them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import orjson

from runtime.errors import UserError
from runtime.files import write_whole
from runtime.proxy.messages import Message, ToolCall
from runtime.report.trial import ToolUse, TrialView, TurnView, read_trial
from runtime.report.trials import TrialFilter, TrialIndex

Format = Literal["messages", "atif", "tokens", "sharegpt"]
FORMATS: tuple[str, ...] = get_args(Format)
_ATIF = "ATIF-v1.6"
_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}
_BATCH = 500


@dataclass(frozen=True)
class Exported:
    """What was written, and what was left out: trials by what is missing of them."""

    trials: int
    rows: int
    path: Path
    left_out: tuple[str, ...]


def export_trajectories(run: Path, out: Path, *, form: Format, wanted: TrialFilter | None = None) -> Exported:
    """Write the wanted trials of ``run``. ``out`` is a file (messages, sharegpt: JSON lines; tokens: Parquet), or for
    atif a folder with one document for each conversation. Raises ``UserError`` where the other of them is there."""
    if out.exists() and out.is_dir() != (form == "atif"):
        what = "a folder; name a file" if out.is_dir() else "a file; name a folder"
        raise UserError(f"{out}: is {what} with -o, which {form} is written to")
    left_out: list[str] = []
    trials = 0

    def views() -> Iterator[TrialView]:
        nonlocal trials
        with TrialIndex(run) as index:
            folders = [index.folder(row) for row in index.rows(wanted, sort="step")]
        for folder in folders:
            view = read_trial(folder)
            if not view.turns:
                left_out.append(f"{view.step}/{view.trial_id}: {'; '.join(view.missing) or 'no turn'}")
                continue
            if any(_cut(path) for path in view.conversations):
                left_out.append(f"{view.step}/{view.trial_id}: a conversation whose beginning cannot be read")
            trials += 1
            yield view

    if form == "tokens":
        rows = _parquet(views(), out)
    elif form == "atif":
        rows = _documents(views(), out)
    else:
        rows = _lines(views(), out, _messages_row if form == "messages" else _sharegpt_row)
    return Exported(trials, rows, out, tuple(left_out))


def conversations(view: TrialView) -> list[tuple[TurnView, ...]]:
    """Those that the policy led and that were not thrown away, the oldest first. A last reply that the agent may never
    have had is no part of one."""
    found: list[tuple[TurnView, ...]] = []
    for path in view.conversations:
        if not _led(path[-1]) or _cut(path):
            continue
        end = len(path)
        if path[-1].record.get("delivery") == "unknown":
            end -= 1
        while end and not _led(path[end - 1]):
            end -= 1
        if end and path[:end] not in found:
            found.append(path[:end])
    return [
        path
        for path in found
        if not any(len(other) > len(path) and other[: len(path)] == path for other in found)  # a branch holds it
    ]


def _led(turn: TurnView) -> bool:
    return turn.kind == "policy" and not turn.record.get("discarded")


def _cut(path: Sequence[TurnView]) -> bool:
    """Whether the turn that it goes on from cannot be read: its first turn's record names one."""
    return path[0].record.get("parent") is not None


def messages(path: Sequence[TurnView]) -> list[Message]:
    """A conversation as messages, its replies among them."""
    found: list[Message] = []
    for turn in path:
        calls = tuple(ToolCall(use.id, use.name, use.arguments) for use in turn.tools)
        found += [*turn.messages, Message("assistant", turn.text, calls)]
    return found


def _facts(view: TrialView, number: int) -> dict[str, Any]:
    record = view.record
    names = ("task", "task_set", "group", "index", "validation", "reward", "verdict", "termination", "outcomes")
    facts = {name: record.get(name) for name in names}
    return {"trial_id": view.trial_id, "step": view.step, "conversation": number, **facts}


def _messages_row(view: TrialView, path: Sequence[TurnView], number: int) -> dict[str, Any]:
    tools = path[0].offered
    return {
        "messages": [_openai(message) for message in messages(path)],
        **({"tools": tools} if tools else {}),
        "metadata": _facts(view, number),
    }


def _openai(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        found["content"] = message.content or None
        found["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.role == "tool":
        found["tool_call_id"] = message.tool_call_id or ""
    return found


def _sharegpt_row(view: TrialView, path: Sequence[TurnView], number: int) -> dict[str, Any]:
    said = []
    for message in messages(path):
        value = message.content
        for call in message.tool_calls:
            words = json.dumps({"name": call.name, "arguments": call.parsed()}, ensure_ascii=False)
            value += f"{chr(10) if value else ''}<tool_call>\n{words}\n</tool_call>"
        said.append({"from": _SHAREGPT[message.role], "value": value})
    tools = path[0].offered
    shown = {"tools": json.dumps(list(tools), ensure_ascii=False)} if tools else {}
    return {"id": f"{view.step}/{view.trial_id}/{number}", "conversations": said, **shown, **_facts(view, number)}


def _lines(views: Iterator[TrialView], out: Path, row: Any) -> int:
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    count = 0
    with partial.open("wb") as stream:
        for view in views:
            for number, path in enumerate(conversations(view)):
                stream.write(orjson.dumps(row(view, path, number), option=orjson.OPT_APPEND_NEWLINE))
                count += 1
    partial.replace(out)
    return count


def _documents(views: Iterator[TrialView], out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for view in views:
        copied: set[int] = set()
        for number, path in enumerate(conversations(view)):
            name = f"{view.step}.{view.trial_id}" + (f".{number}" if number else "")
            content = orjson.dumps(atif(view, path, number, copied=copied), option=orjson.OPT_INDENT_2)
            write_whole(out / f"{name}.json", content)
            copied |= {turn.seq for turn in path}
            count += 1
    return count


def atif(view: TrialView, path: Sequence[TurnView], number: int, *, copied: set[int]) -> dict[str, Any]:
    """One conversation as an ATIF document. ``copied``: turns that an earlier document of the session holds, so that
    none is trained on twice."""
    steps: list[dict[str, Any]] = []

    def step(source: str, text: str, **more: Any) -> None:
        steps.append({"step_id": len(steps) + 1, "source": source, "message": text, **more})

    for turn in path:
        known = {} if turn.parent is None else {use.id: use for use in view.by_seq[turn.parent].tools}
        mark = {"is_copied_context": True} if turn.seq in copied else {}
        for message in turn.messages:
            if message.role == "tool" and message.tool_call_id in known:
                continue  # it stands with its call
            source = "system" if message.role == "system" else "agent" if message.role == "assistant" else "user"
            step(source, message.content, **mark)
        when: dict[str, Any] = {}
        started, at = view.record.get("started"), turn.record.get("started_sec")
        if isinstance(started, int | float) and isinstance(at, int | float):
            when = {"timestamp": datetime.fromtimestamp(started + at, UTC).isoformat()}
        step("agent", turn.text, **_called(turn.tools), metrics=_metrics(view, turn), **when, **mark)
    counts = [(turn.number("prompt_tokens"), turn.number("completion_tokens")) for turn in path]
    scaffold = str(view.record.get("scaffold") or "liverl")
    return {
        "schema_version": _ATIF,
        "session_id": f"{view.step}/{view.trial_id}" + (f"/{number}" if number else ""),
        "agent": {"name": scaffold, "version": "1", "model_name": "policy"},
        "steps": steps,
        "final_metrics": {
            "total_prompt_tokens": int(sum(prompt for prompt, _ in counts)),
            "total_completion_tokens": int(sum(completion for _, completion in counts)),
            "total_steps": len(steps),
        },
        "extra": {**_facts(view, number), "tool_definitions": list(path[0].offered)},
    }


def _called(uses: Sequence[ToolUse]) -> dict[str, Any]:
    if not uses:
        return {}
    calls = []
    for use in uses:
        given = ToolCall(use.id, use.name, use.arguments).parsed()
        arguments = given if isinstance(given, dict) else {"unread": use.arguments}
        calls.append({"tool_call_id": use.id, "function_name": use.name, "arguments": arguments})
    results = [{"source_call_id": use.id, "content": use.output} for use in uses if use.output is not None]
    return {"tool_calls": calls, **({"observation": {"results": results}} if results else {})}


def _metrics(view: TrialView, turn: TurnView) -> dict[str, Any]:
    names = {
        "prompt_tokens": "prompt_tokens",
        "completion_tokens": "completion_tokens",
        "cached_tokens": "cached_tokens",
    }
    found: dict[str, Any] = {name: int(turn.number(field)) for name, field in names.items()}
    if turn.span is not None:
        sample, own = view.samples[turn.span.sample], slice(turn.span.start, turn.span.end)
        found["completion_token_ids"] = list(sample.response_ids[own])
        found["logprobs"] = list(sample.response_logprobs[own])
        found["extra"] = {"weight_versions": list(sample.weight_versions[own])}
    return found


def _parquet(views: Iterator[TrialView], out: Path) -> int:
    """One row for each training sample, exactly as the trainer had it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("trial_id", pa.string()),
            ("step", pa.int64()),
            ("sample", pa.int32()),
            ("task", pa.string()),
            ("task_set", pa.string()),
            ("group", pa.string()),
            ("index", pa.int32()),
            ("validation", pa.bool_()),
            ("reward", pa.float64()),
            ("verdict", pa.string()),
            ("termination", pa.string()),
            ("prompt_ids", pa.list_(pa.int32())),
            ("response_ids", pa.list_(pa.int32())),
            ("response_mask", pa.list_(pa.int8())),
            ("response_logprobs", pa.list_(pa.float64())),
            ("trainer_logprobs", pa.list_(pa.float64())),
            ("weight_versions", pa.list_(pa.int64())),
        ]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    rows: list[dict[str, Any]] = []
    count = 0
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            rows.clear()

        for view in views:
            for number, sample in enumerate(view.samples):
                facts = {**_facts(view, number), "sample": number}
                lists = {
                    "prompt_ids": sample.prompt_ids,
                    "response_ids": sample.response_ids,
                    "response_mask": sample.response_mask,
                    "response_logprobs": sample.response_logprobs,
                    "trainer_logprobs": sample.trainer_logprobs,
                    "weight_versions": sample.weight_versions,
                }
                rows.append({name: (facts | lists).get(name) for name in schema.names})
                count += 1
                if len(rows) >= _BATCH:
                    flush()
        flush()
    partial.replace(out)
    return count
