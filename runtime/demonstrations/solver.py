"""A policy that knows the solution of every task: an ``Engine`` for real trials, whose tokens become demonstrations.

It edits only what it has been shown; now and then it tries something else first, which is not to be imitated. Speaks
the model's own chat format, so proxy, codec and agent do their real work.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from runtime.demonstrations.conversation import Speaker
from runtime.demonstrations.edits import edit_between, shown_in
from runtime.demonstrations.types import Edit, Shown
from runtime.demonstrations.vain import other_change
from runtime.rollouter.engine import Generation, SamplingParams
from runtime.scaffolds.shell.own_tests import ALL_PASS
from runtime.task import Task
from runtime.tasks.generate.functions import functions_of

_ANSWER = 100
"""Characters at the end of a prompt in which the last tool's answer ends."""


@dataclass
class Script:
    """What is said in one trial. ``wrong``: how many edits are tried before the right one; ``trained``: for each reply
    whether it is to be imitated; ``why_not``: why nothing can be demonstrated here."""

    path: str
    broken: str
    repaired: str
    wrong: int
    rng: random.Random
    trained: list[bool] = field(default_factory=list)
    why_not: str | None = None
    _tried: set[tuple[str, str]] = field(default_factory=set)
    _shown: list[Shown] | None = None
    _right: Edit | None = None

    def next(self, prompt: str, speaker: Speaker) -> str | None:
        """The reply to a conversation so far, or None where there is none that could be justified."""
        if self._shown is None:
            self._shown = shown_in(prompt)
            self._right = edit_between(self.path, self.broken, self.repaired, self._shown)
        if self._tried and ALL_PASS in prompt[-_ANSWER:]:
            return self._say(speaker.submit(), trained=True)
        if self._right is None:
            self.why_not = "what is to be changed is not on the screen, or the change is too long"
            return None
        right = (self._right.old, self._right.new)
        if len(self._tried) < self.wrong and (other := self._other()) is not None:
            self._tried.add((other.old, other.new))
            return self._say(speaker.edit(other), trained=False)
        if right in self._tried:
            self.why_not = "its own solution is not taken for one"
            return None
        self._tried.add(right)
        return self._say(speaker.edit(self._right), trained=True)

    def _say(self, text: str | None, *, trained: bool) -> str | None:
        if text is None:
            self.why_not = "the model's format cannot carry the edit"
        else:
            self.trained.append(trained)
        return text

    def _other(self) -> Edit | None:
        """A change of a function on the screen that is not the right one."""
        assert self._shown is not None
        functions = [
            one
            for one in functions_of(self.path, self.broken)
            if any(part.path == self.path and part.first <= one.start and one.end <= part.last for part in self._shown)
        ]
        return other_change(
            self.path,
            self.broken,
            functions,
            self._shown,
            lambda edit, made: made == self.repaired or (edit.old, edit.new) in self._tried,
            self.rng,
        )


def script_of(task: Task, *, wrong: int, rng: random.Random) -> Script | str:
    """For a task with one repaired file, or why there is none."""
    files = task.path / "solution" / "files"
    repaired = [path for path in sorted(files.rglob("*")) if path.is_file()] if files.is_dir() else []
    if len(repaired) != 1:
        return "its solution is not one file"
    path = repaired[0].relative_to(files).as_posix()
    try:
        broken = (task.repository / path).read_bytes().decode("utf-8")
        right = repaired[0].read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"{path}: {error}"
    if "\r" in broken:
        return "its lines end as those of Windows do"
    return Script(path, broken, right, wrong, rng)


class Solver:
    """Implements ``Engine``: every session has its script."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self.scripts: dict[str, Script] = {}

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        script = self.scripts[session]
        text = script.next(self._speaker.codec.tokens.decode(list(prompt_ids)), self._speaker)
        if text is None:  # the trial ends unsolved, and nothing of it is kept
            text = self._speaker.submit() or ""
            script.trained.append(False)
        ids = self._speaker.reply(text)
        cut = ids[: params.max_tokens]
        if len(cut) < len(ids):
            script.why_not = "a reply is longer than rollout.max_tokens_per_turn"
        reason = "stop" if len(cut) == len(ids) else "length"
        return Generation(cut, [0.0] * len(cut), [0] * len(cut), reason)  # type: ignore[arg-type]

    async def close(self) -> None:
        """Nothing is open."""
