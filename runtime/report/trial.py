"""One trial, read back from its folder for people and programs: turns, tool calls with what they printed, tokens, the
work as a patch, the verdict, and what is missing.

A folder may be damaged, or of a run that kept less: everything that can be read is there, and ``missing`` names the
rest. What an agent wrote is text of a stranger: nothing here interprets it. Knows nothing of how it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from runtime.proxy.dialects import anthropic, openai, responses
from runtime.proxy.messages import Message, ToolCall
from runtime.proxy.refusal import Refusal
from runtime.telemetry.trained_file import trained_logprobs

_NORMALISE = {
    openai.OpenAIChat.name: openai.normalise,
    anthropic.AnthropicMessages.name: anthropic.normalise,
    responses.OpenAIResponses.name: responses.normalise,
}
_LOGPROBS = "response_logprobs"
_LISTS = ("prompt_ids", "response_ids", "response_mask", _LOGPROBS, "weight_versions")
_LONGEST_LOG = 4 << 20
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("task", "task_set", "group", "verdict", "termination", "isolation", "scaffold"), str),
    **dict.fromkeys(("timings", "weight_versions", "outcomes", "accounting", "metrics", "sampling"), dict),
    "defences": list,
    **dict.fromkeys(("reward", "started"), (int, float)),
    **dict.fromkeys(("index", "attempt", "model_calls", "prompt_tokens", "completion_tokens"), int),
}
"""Of the fields of ``trial.json`` that are counted with, set in a table, or looked into."""


@dataclass(frozen=True)
class ToolUse:
    """One call of a tool. ``arguments`` as the model wrote them; ``output`` is None where no answer came."""

    id: str
    name: str
    arguments: str
    output: str | None = None


@dataclass(frozen=True)
class Span:
    """Where a turn's own tokens lie in ``response_ids`` of a sample."""

    sample: int
    start: int
    end: int


@dataclass(frozen=True)
class TurnView:
    """One reply of the model. ``messages`` are what the agent said before it and since the turn that it follows;
    ``children`` are the turns that go on from it; ``record`` is the turn as it was kept."""

    seq: int
    parent: int | None
    children: tuple[int, ...]
    messages: tuple[Message, ...]
    text: str
    tools: tuple[ToolUse, ...]
    span: Span | None
    record: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.record.get("kind", "policy"))

    @property
    def offered(self) -> Sequence[Mapping[str, Any]]:
        """Of a first turn: the tools that the model was shown, in OpenAI's form."""
        tools = self.record.get("tools")
        return [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []

    def number(self, name: str) -> float:
        """A number of its record (``prompt_tokens``, ``generate_sec`` ...); 0 where there is none."""
        value = self.record.get(name)
        return value if isinstance(value, int | float) else 0


@dataclass(frozen=True)
class SampleView:
    """One training sample: lists of equal length but for the prompt. Mask 1 marks a token that the policy wrote."""

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    response_mask: Sequence[int]
    response_logprobs: Sequence[float]
    weight_versions: Sequence[int]
    trainer_logprobs: Sequence[float] | None = None
    """Of the policy before the step's update, as the trainer computes them; None where none were kept."""


@dataclass(frozen=True)
class TrialView:
    """Everything that a trial's folder holds. ``record`` is ``trial.json`` ({} where it cannot be read), ``logs`` the
    files of ``agent/`` by name, ``verifier`` its raw output, ``missing`` one line for each thing that is not there."""

    folder: Path
    record: Mapping[str, Any]
    turns: tuple[TurnView, ...]
    samples: tuple[SampleView, ...]
    verifier: str
    logs: Mapping[str, str]
    missing: tuple[str, ...]

    @property
    def step(self) -> int:
        return int(self.folder.parent.name) if self.folder.parent.name.isdecimal() else 0

    @property
    def trial_id(self) -> str:
        return self.folder.name

    @cached_property
    def by_seq(self) -> Mapping[int, TurnView]:
        return {turn.seq: turn for turn in self.turns}

    def path_to(self, seq: int) -> tuple[TurnView, ...]:
        """The conversation that ends in a turn, from its first one on."""
        found: list[TurnView] = []
        turn = self.by_seq.get(seq)
        while turn is not None and turn not in found:
            found.append(turn)
            turn = None if turn.parent is None else self.by_seq.get(turn.parent)
        return tuple(reversed(found))

    @property
    def conversations(self) -> tuple[tuple[TurnView, ...], ...]:
        """Every path of the session's branch tree from a first turn to a last one, the oldest first."""
        return tuple(self.path_to(turn.seq) for turn in self.turns if not turn.children)


def read_trial(folder: Path) -> TrialView:
    """Read one trial's folder; never raises for what is in it. A folder that is not there is all missing."""
    missing: list[str] = []
    record = _json(folder / "trial.json", missing)
    record = _sound(record, missing)
    trajectory = _json(folder / "trajectory.json", missing)
    samples = _samples(trajectory.get("samples"), missing) if trajectory else ()
    if any(1 in sample.response_mask for sample in samples):
        trained = trained_logprobs(folder.parent, folder.name)
        samples = tuple(
            replace(sample, trainer_logprobs=found)
            if len(found := trained.get(number, ())) == len(sample.response_ids)
            else sample
            for number, sample in enumerate(samples)
        )
    turns = _turns(trajectory.get("turns"), samples, missing) if trajectory else ()
    output = folder / "verifier" / "output"
    verifier = _text(output) if output.is_file() else ""
    if not verifier and record.get("reward") is not None and not record.get("reused_verdict"):
        missing.append("verifier/output: not kept")
    agent = folder / "agent"
    logs = {path.name: _text(path) for path in sorted(agent.glob("*")) if path.is_file()} if agent.is_dir() else {}
    return TrialView(folder, record, turns, samples, verifier, logs, tuple(missing))


def _json(path: Path, missing: list[str]) -> dict[str, Any]:
    try:
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        missing.append(f"{path.name}: {error.strerror or 'cannot be read'}")
        return {}
    except ValueError as error:
        missing.append(f"{path.name}: damaged ({error})")
        return {}
    if not isinstance(content, dict):
        missing.append(f"{path.name}: not an object")
        return {}
    return content


def _sound(record: dict[str, Any], missing: list[str]) -> dict[str, Any]:
    """The record without fields that hold something else than a trial has there: whoever shows it relies on these."""
    found = {}
    for name, value in record.items():
        kind = _KINDS.get(name)
        if kind is None or value is None or isinstance(value, kind):
            found[name] = value
        else:
            missing.append(f"trial.json: {name}: not what a trial has there")
    return found


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(_LONGEST_LOG)
            cut = bool(stream.read(1))
    except OSError as error:
        return f"({path.name} cannot be read: {error.strerror})"
    return content.decode(errors="replace") + (f"\n(cut after {_LONGEST_LOG >> 20} MiB)" if cut else "")


def _samples(found: Any, missing: list[str]) -> tuple[SampleView, ...]:
    samples = []
    for number, one in enumerate(found if isinstance(found, list) else ()):
        lists: list[Any] = [one.get(name) if isinstance(one, dict) else None for name in _LISTS]
        if not all(isinstance(values, list) for values in lists) or len({len(values) for values in lists[1:]}) != 1:
            missing.append(f"sample {number}: its lists are not there or of unequal length")
            continue
        # JSON has no word for what is no number: log-probabilities may hold null.
        if any(
            set(map(type, values)) - ({int, float, type(None)} if name == _LOGPROBS else {int})
            for name, values in zip(_LISTS, lists, strict=True)
        ):
            missing.append(f"sample {number}: its lists hold what is no number")
            continue
        samples.append(SampleView(*lists))
    return tuple(samples)


def _turns(found: Any, samples: Sequence[SampleView], missing: list[str]) -> tuple[TurnView, ...]:
    records: dict[int, Mapping[str, Any]] = {}
    for number, one in enumerate(found if isinstance(found, list) else ()):
        seq = one.get("seq") if isinstance(one, dict) else None
        if not isinstance(seq, int) or seq in records:
            missing.append(f"turn {number}: cannot be read")
            continue
        records[seq] = one
    parents = {seq: parent if (parent := one.get("parent")) in records else None for seq, one in records.items()}
    children: dict[int, list[int]] = {seq: [] for seq in records}
    for seq, parent in parents.items():
        if parent is not None:
            children[parent].append(seq)
    messages = {seq: _messages(one) for seq, one in records.items()}
    spans = _spans(records, parents, children, samples)
    views = []
    for seq, one in records.items():
        answers = {
            message.tool_call_id: message.content
            for child in children[seq]
            for message in messages[child]
            if message.role == "tool" and message.tool_call_id is not None
        }
        views.append(
            TurnView(
                seq,
                parents[seq],
                tuple(children[seq]),
                messages[seq],
                one["text"] if isinstance(one.get("text"), str) else "",
                tuple(_tools(one.get("tool_calls"), answers)),
                spans.get(seq),
                one,
            )
        )
    return tuple(views)


def _messages(turn: Mapping[str, Any]) -> tuple[Message, ...]:
    sent = turn.get("messages")
    normalise = _NORMALISE.get(str(turn.get("dialect")), openai.normalise)
    system = turn.get("system")
    found = [Message("system", system)] if isinstance(system, str) and system else []
    for one in sent if isinstance(sent, list) else ():
        try:
            found += normalise(one)
        except (Refusal, TypeError, ValueError, KeyError, AttributeError):
            found.append(Message("user", orjson.dumps(one).decode()))
    return tuple(found)


def _tools(calls: Any, answers: Mapping[str, str]) -> list[ToolUse]:
    found = []
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            one = ToolCall(*(str(call.get(name, "")) for name in ("id", "name", "arguments")))
            found.append(ToolUse(one.id, one.name, one.arguments, answers.get(one.id)))
    return found


def _spans(
    records: Mapping[int, Mapping[str, Any]],
    parents: Mapping[int, int | None],
    children: Mapping[int, Sequence[int]],
    samples: Sequence[SampleView],
) -> dict[int, Span]:
    """Which tokens of which sample each turn wrote: a sample is a path whose length is that of its last turn, and has
    its mask nowhere else than on turns of the path."""
    places = {seq: place for seq, one in records.items() if (place := _place(one)) is not None}
    spans: dict[int, Span] = {}
    ends = sorted(places, key=lambda seq: bool(children[seq]))  # mostly they are turns that nothing goes on from
    for number, sample in enumerate(samples):
        before, total = len(sample.prompt_ids), len(sample.prompt_ids) + len(sample.response_ids)
        written = sum(map(bool, sample.response_mask))
        for end in ends:
            if places[end][1] != total:
                continue
            own = {
                seq: Span(number, start - before, stop - before)
                for seq in _path(end, parents)
                if seq not in spans and seq in places
                for start, stop in [places[seq]]
                if before <= start < stop and all(sample.response_mask[start - before : stop - before])
            }
            if sum(span.end - span.start for span in own.values()) == written:
                spans |= own
                break
    return spans


def _place(turn: Mapping[str, Any]) -> tuple[int, int] | None:
    """Where its tokens begin and end, counted from the beginning of its conversation."""
    start, count = turn.get("prompt_tokens"), turn.get("completion_tokens")
    return (start, start + count) if isinstance(start, int) and isinstance(count, int) else None


def _path(seq: int, parents: Mapping[int, int | None]) -> list[int]:
    found: dict[int, None] = {}
    current: int | None = seq
    while current is not None and current not in found:
        found[current] = None
        current = parents[current]
    return list(found)
