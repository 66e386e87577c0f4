"""The edit that turns one text into another, made of lines that the agent has on its screen.

Knows no tokens and no agents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from runtime.demonstrations.types import Edit, Shown
from runtime.scaffolds.shell.replace import NoPlace, place
from runtime.tasks.generate.functions import lines_of

MAX_LINES = 6
"""Of one edit, without the lines that give it a place: longer ones would be rewritten rather than repaired."""
_MAX_CONTEXT = 8
_TITLE = re.compile(r"^(\S.*), lines (\d+) to (\d+):$", re.MULTILINE)


def shown_in(text: str) -> list[Shown]:
    """The functions that a first look shows (``runtime/scaffolds/shell/own_tests.py``)."""
    return [Shown(found[1], int(found[2]), int(found[3])) for found in _TITLE.finditer(text)]


def edit_between(path: str, before: str, after: str, shown: Iterable[Shown]) -> Edit | None:
    """The smallest edit by whole lines that ``edit_file`` does; None where it is too long, or where it would be about
    lines that are not ``shown``. The first line's indentation is left out where both texts begin with it."""
    one, two = lines_of(before), lines_of(after)
    if one == two:
        return None
    # What lies between the lines that both begin with and those that both end with; a comparison of all lines with all
    # others takes seconds for a module of some thousand.
    shorter = min(len(one), len(two))
    first = next((at for at in range(shorter) if one[at] != two[at]), shorter)
    same = next((at for at in range(shorter - first) if one[-1 - at] != two[-1 - at]), shorter - first)
    begin, last, end = first, len(one) - same, len(two) - same
    if last - first > MAX_LINES or end - begin > MAX_LINES:
        return None
    # What is put in needs a place, and what is taken out leaves one.
    up, down = (1, 0) if first == last or begin == end else (0, 0)
    for _ in range(_MAX_CONTEXT):
        top, bottom = max(0, first - up), min(len(one), last + down)
        old = "".join(one[top:bottom])
        new = "".join(two[begin - (first - top) : end + (bottom - last)])
        edit = _edit(path, old, new, before, top)
        if edit is not None:
            seen = any(part.path == path and part.first <= top + 1 and bottom <= part.last for part in shown)
            return edit if seen else None
        up, down = (up + 1, down) if up <= down else (up, down + 1)
    return None


def _edit(path: str, old: str, new: str, before: str, top: int) -> Edit | None:
    """``old``, which begins behind ``top`` lines, becomes ``new``."""
    if old.endswith("\n") and new.endswith("\n"):
        old, new = old[:-1], new[:-1]
    begin = sum(map(len, lines_of(before)[:top]))
    indent = len(old) - len(old.lstrip(" "))
    candidates = [(0, old, new)]
    if indent and new[:indent] == old[:indent] and new[indent : indent + 1] not in ("", " "):
        candidates.insert(0, (indent, old[indent:], new[indent:]))
    for left_out, short, put in candidates:
        # A value's own line ends at its edges would be taken for those around it.
        kept = put.strip("\n") == put and short.strip("\n") == short
        if short.strip() and kept and _found(before, short, top + 1) == begin + left_out:
            return Edit(path, top + 1, short, put)
    return None


def _found(text: str, old: str, line: int) -> int | None:
    try:
        return place(text, old, line)
    except NoPlace:
        return None
