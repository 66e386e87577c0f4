"""What fails before the right edit in a demonstration: changes of code that was right, and texts that are nowhere.

None of it is imitated; what is learnt is to do something else next. Runs nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence

from runtime.demonstrations.edits import edit_between
from runtime.demonstrations.slips import is_python, slips_of
from runtime.demonstrations.types import Edit, Shown
from runtime.scaffolds.shell.free_tools import SAME
from runtime.scaffolds.shell.replace import NoPlace, elsewhere, place
from runtime.tasks.generate.functions import Function, lines_of

_TRIES = 8
_WORD = re.compile(r"\w+")


def number_of(most: int, share: float, rng: random.Random) -> int:
    """How many edits fail first: each with a chance of ``share``, ``most`` of them at most."""
    number = 0
    while number < most and rng.random() < share:
        number += 1
    return number


def other_change(
    path: str,
    text: str,
    functions: Sequence[Function],
    shown: Sequence[Shown],
    refused: Callable[[Edit, str], bool],
    rng: random.Random,
) -> Edit | None:
    """A change of one of these functions, all on the screen, that could have been tried. ``refused`` is asked about the
    edit and the text that it makes."""
    lines = lines_of(text)
    for _ in range(_TRIES if functions else 0):
        function = rng.choice(functions)
        segment = "".join(lines[function.start - 1 : function.end])
        slips = slips_of(segment)
        changed = rng.choice(slips).apply(segment) if slips else segment
        if changed == segment or not is_python(changed):
            continue
        made = "".join([*lines[: function.start - 1], changed, *lines[function.end :]])
        edit = edit_between(path, text, made, shown)
        if edit is not None and not refused(edit, made):
            return edit
    return None


def refused(
    edit: Edit, files: Mapping[str, str], screen: Collection[str], rng: random.Random, *, closest: bool = False
) -> tuple[Edit, str] | None:
    """The edit as it could have been written wrongly, and what ``edit_file`` says of it: in another one of ``files``
    (path -> text), with a word of ``screen`` in its old text, or with that text as the new one. ``closest``: the tool
    does the first two (``ShellScaffold.edit_match``)."""
    kinds = [_unchanged] if closest else [_elsewhere, _miscopied, _unchanged]
    rng.shuffle(kinds)
    return next((found for kind in kinds if (found := kind(edit, files, screen, rng)) is not None), None)


def _elsewhere(
    edit: Edit, files: Mapping[str, str], screen: Collection[str], rng: random.Random
) -> tuple[Edit, str] | None:
    others = sorted(path for path in files if path != edit.path and edit.old not in files[path])
    if not others:
        return None
    return _answered(Edit(rng.choice(others), edit.line, edit.old, edit.new), files)


def _miscopied(
    edit: Edit, files: Mapping[str, str], screen: Collection[str], rng: random.Random
) -> tuple[Edit, str] | None:
    words, others = list(_WORD.finditer(edit.old)), sorted(screen)
    for _ in range(_TRIES if words and others else 0):
        word = rng.choice(words)
        old = edit.old[: word.start()] + rng.choice(others) + edit.old[word.end() :]
        if old != edit.new and (found := _answered(Edit(edit.path, edit.line, old, edit.new), files)) is not None:
            return found
    return None


def _unchanged(
    edit: Edit, files: Mapping[str, str], screen: Collection[str], rng: random.Random
) -> tuple[Edit, str] | None:
    return Edit(edit.path, edit.line, edit.old, edit.old), SAME


def _answered(edit: Edit, files: Mapping[str, str]) -> tuple[Edit, str] | None:
    """None where it would be done."""
    try:
        place(files[edit.path], edit.old, edit.line)
    except NoPlace as why:
        hint = elsewhere(edit.old, ((path, text) for path, text in files.items() if path != edit.path))
        return edit, f"error: {edit.path}: {why}{hint if why.nowhere else ''}"
    return None


def words_of(text: str) -> set[str]:
    """The names in it, in no order."""
    return {word for word in _WORD.findall(text) if word[0].isalpha() or word[0] == "_"}
