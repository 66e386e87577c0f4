"""Bug-repair pairs without a test run: a function with a slip in it, shown as by a first look, then the edit.

What the failing test is called and says is made up; the form, the code and the edit are real. Runs nothing.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from runtime.config import ShellScaffold
from runtime.demonstrations.conversation import Conversation, Speaker
from runtime.demonstrations.edits import edit_between, shown_in
from runtime.demonstrations.held_out import HeldOut
from runtime.demonstrations.slips import Slip, is_python, slips_of
from runtime.demonstrations.sources import Module, functions_in
from runtime.demonstrations.types import Demonstration, Edit
from runtime.demonstrations.vain import number_of, other_change, refused, words_of
from runtime.scaffolds.shell.free_tools import DONE, UNDONE
from runtime.scaffolds.shell.own_tests import ALL_PASS, failing, told
from runtime.tasks.generate.functions import Function, lines_of
from runtime.tasks.generate.package_tasks import instruction

PLACES = (0.49, 0.14, 0.10, 0.05, 0.04, 0.03, 0.02, 0.02)
"""How often the broken function is the one executed last, the one before, an earlier one, of those that are shown; of
168 real tasks it was the last in 49 %, one of three in 73 %, one of eight in 89 % (docs/scaffolds.md)."""
ELSEWHERE = 0.35
"""How often a function that is shown is of another file: measured on 102 training tasks. Of the refused calls of a
policy that had seen pairs of one file each, 38 % named the wrong one."""
LONGEST = 120
SHORTEST = 3
"""Lines of a function."""
LONGEST_TEXT = 12_000
"""Characters of a function: lines of tables and of what a program wrote have no end."""
PER_MODULE = 60
"""Functions taken of one module, at random: results are taken in order, so everybody waits for the slowest chunk."""
_Error = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """How pairs look: the agent's settings, and how often something fails first (``MadeDemonstrations``)."""

    scaffold: ShellScaffold
    max_tokens: int
    per_function: int
    second_try: float
    miscopied: float


@dataclass(frozen=True)
class _Seen:
    """A function that can be on the screen, of a file with this ``text``."""

    path: str
    text: str
    function: Function

    def shown(self) -> tuple[str, int, list[str]]:
        lines = self.text.split("\n")
        return self.path, self.function.start, lines[self.function.start - 1 : self.function.end]


def pairs_of(
    module: Module,
    near: Sequence[Module],
    held_out: HeldOut,
    speaker: Speaker,
    form: Form,
    used: Counter[str],
    rng: random.Random,
) -> Iterator[Demonstration]:
    """Pairs of one module's functions; ``near``: modules of which functions can be on the screen too. ``used``: how
    often each kind was taken, so that the rare ones come first."""
    text, functions = functions_in(module, held_out)
    functions = [one for one in functions if _fits(one)]
    around = [
        _Seen(other.path, there, one)
        for other in near
        for there, found in [functions_in(other, held_out)]
        for one in found
        if _fits(one)
    ]
    lines = lines_of(text)
    rng.shuffle(functions)
    for function in functions[:PER_MODULE]:
        segment = "".join(lines[function.start - 1 : function.end])
        if len(segment) > LONGEST_TEXT:
            continue
        slips = slips_of(segment)
        for slip in _chosen(slips, form.per_function, used, rng):
            broken_segment = slip.apply(segment)
            if not is_python(broken_segment):
                continue
            made = _pair(module, text, function, functions, around, segment, slip, speaker, form, rng)
            if made is not None:
                used[slip.kind] += 1
                yield made


def _fits(function: Function) -> bool:
    return SHORTEST <= function.end - function.start + 1 <= LONGEST


def _chosen(slips: Sequence[Slip], number: int, used: Counter[str], rng: random.Random) -> list[Slip]:
    """Of different kinds, those used least; at random within a kind."""
    kinds: dict[str, list[Slip]] = {}
    for slip in slips:
        kinds.setdefault(slip.kind, []).append(slip)
    names = sorted(kinds, key=lambda kind: (used[kind], rng.random()))
    return [rng.choice(kinds[name]) for name in names[:number]]


def _pair(
    module: Module,
    text: str,
    function: Function,
    functions: Sequence[Function],
    around: Sequence[_Seen],
    segment: str,
    slip: Slip,
    speaker: Speaker,
    form: Form,
    rng: random.Random,
) -> Demonstration | None:
    broken = _with(text, function, slip.apply(segment))
    line = function.start + segment[: slip.start].count("\n")
    test, error = _failure(module, function, broken, line, rng)
    look = form.scaffold.first_look
    seen, screen = "", [_Seen(module.path, broken, function)]
    if look is not None:
        screen = _looked_at(screen[0], functions, around, look.functions, rng)
        found = [one.shown() for one in screen]
        seen = told(test, error, found, functions=look.functions, max_chars=look.max_chars)
    shown = shown_in(seen)
    edit = edit_between(module.path, broken, text, shown)
    if edit is None:
        return None
    asked = instruction(module.package, [test]).strip()
    talk = Conversation(speaker, f"{asked}\n\n{seen}")
    tried = {(edit.old, edit.new)}
    most = form.scaffold.max_edits - 1 if form.scaffold.undo_failed_edits else 0
    for _ in range(number_of(most, form.second_try, rng)):
        on = rng.choice(screen)
        wrong = other_change(
            on.path,
            on.text,
            [on.function],
            shown,
            lambda one, made: (one.old, one.new) in tried or made == text,
            rng,
        )
        if wrong is not None:
            tried.add((wrong.old, wrong.new))
            said = f"{DONE}{wrong.path}\n{failing(test, error)}\n{UNDONE}"
            if not _say(talk, speaker, wrong, said, trained=False):
                return None
    if rng.random() < form.miscopied:
        files = {one.path: one.text for one in screen}
        vain = refused(edit, files, words_of(seen), rng, closest=form.scaffold.edit_match == "closest")
        if vain is not None and not _say(talk, speaker, *vain, trained=False):
            return None
    if not _say(talk, speaker, edit, f"{DONE}{module.path}\n{ALL_PASS}", trained=True):
        return None
    talk.say(speaker.submit() or "", trained=True)
    if len(talk.input_ids) > form.max_tokens:
        return None
    place = f"{module.package}/{module.path}:{function.start}"
    return Demonstration(talk.input_ids, talk.loss_mask, module.package, slip.kind, place)


def _say(talk: Conversation, speaker: Speaker, edit: Edit, answer: str, *, trained: bool) -> bool:
    call = speaker.edit(edit)
    if call is None:
        return False
    talk.say(call, trained=trained)
    talk.hear("edit_file", answer)
    return True


def _with(text: str, function: Function, segment: str) -> str:
    lines = lines_of(text)
    return "".join([*lines[: function.start - 1], segment, *lines[function.end :]])


def _looked_at(
    broken: _Seen, functions: Sequence[Function], around: Sequence[_Seen], number: int, rng: random.Random
) -> list[_Seen]:
    """The broken function among neighbours of its module and functions of others, at the place that it has."""
    function = broken.function
    others = [one for one in functions if one.end < function.start or one.start > function.end]
    others.sort(key=lambda one: (abs(one.start - function.start), one.start))
    near = [_Seen(broken.path, broken.text, one) for one in others[: 2 * number]]
    places = PLACES[:number]
    at = rng.choices(range(len(places)), places)[0]
    wanted = rng.randint(at, max(at, number - 1))
    elsewhere = sum(rng.random() < ELSEWHERE for _ in range(wanted)) if around else 0
    shown = rng.sample(around, min(elsewhere, len(around)))
    shown += rng.sample(near, min(len(near), wanted - len(shown)))
    rng.shuffle(shown)
    shown.insert(min(at, len(shown)), broken)
    return shown


_MESSAGES = (
    "{call} gave {one}, want {two}",
    "{call} gave {one}, want a true value",
    "{call} gave {two}, want a false value",
    "result gave {one}, want {two}",
)
_VALUES = ("None", "True", "False", "0", "1", "2", "[]", "''", "[1, 2]", "'a'", "{}", "(1, 2)", "3", "-1")
_RAISED = (
    ("TypeError", "unsupported operand type(s) for +: 'int' and 'str'"),
    ("TypeError", "'NoneType' object is not iterable"),
    ("TypeError", "'int' object is not subscriptable"),
    ("AttributeError", "'NoneType' object has no attribute 'value'"),
    ("AttributeError", "'str' object has no attribute 'name'"),
    ("KeyError", "'name'"),
    ("IndexError", "list index out of range"),
    ("IndexError", "string index out of range"),
    ("ValueError", "not enough values to unpack (expected 2, got 1)"),
)
RAISED = 0.25
"""Share of failures that come out of the broken function itself; its line is told then."""
_AT_THE_SLIP = 0.7
"""How often that line is the broken one, and no later one."""


def _failure(module: Module, function: Function, broken: str, line: int, rng: random.Random) -> tuple[str, _Error]:
    """(A test's id, an error as the testkit describes it); ``line``: of the slip."""
    stem = PurePosixPath(module.path).stem.strip("_") or "module"
    name = re.sub(r"\W", "", function.name.strip("_")) or "call"
    test = f"test_{name}{rng.choice(('', '', '_basic', '_values', '_edge_cases', '_default'))}"
    file = rng.choice((f"tests/test_{stem}.py", f"test/test_{stem}.py", f"{module.package}/tests/test_{stem}.py"))
    call = f"{function.name}({rng.choice(('', 'x', 'value', 'data', 'a, b', '[1, 2, 3]'))})"
    one, two = rng.sample(_VALUES, 2)
    kind, message = "AssertionError", rng.choice(_MESSAGES).format(call=call, one=one, two=two)
    frames = [[file, rng.randint(8, 400), test, f"assert {call} == {two}"]]
    lines = broken.split("\n")
    if rng.random() < RAISED and line >= function.body_start:
        kind, message = rng.choice(_RAISED)
        later = [n for n in range(line, min(line + 5, function.end + 1)) if n <= len(lines) and lines[n - 1].strip()]
        at = line if rng.random() < _AT_THE_SLIP or not later else rng.choice(later)
        frames.append([module.path, at, function.name, lines[at - 1].strip()])
    return f"{file}::{test}", {"type": kind, "message": message, "frames": frames}
