"""Where the tool ``edit_file`` puts a text, and what it says when there is no such place.

What it says is written for a model that has to try again. Standard library only: runs inside sandboxes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NAMED = 8
"""Places that are named at most."""
_SEARCHED = 4000
"""Lines that are compared with a text that is nowhere."""
_SHOWN = 6
_ALIKE = 0.6


class NoPlace(Exception):
    """The text cannot be replaced; the message says why, and what to do. ``nowhere``: it is not in the file at all."""

    def __init__(self, message: str, *, nowhere: bool = False) -> None:
        super().__init__(message)
        self.nowhere = nowhere


def place(text: str, old: str, line: int | None = None) -> int:
    """Offset of ``old``: where it occurs once, else where it begins in ``line`` (from 1). Raises ``NoPlace``."""
    first = text.find(old) if old else -1
    if first < 0:
        raise NoPlace("the old text occurs 0 times; it must occur exactly once" + _most_alike(text, old), nowhere=True)
    if text.find(old, first + 1) < 0:
        return first
    lines: dict[int, int] = {}
    there = []
    for at, start in places(text, old):
        if start == line:
            there.append(at)
        elif len(lines) > _NAMED and (line is None or start > line):
            break
        lines[start] = at
    if len(there) == 1:
        return there[0]
    if there:
        raise NoPlace(f"the old text occurs {len(there)} times in line {line}; take more of that line")
    named = ", ".join(map(str, sorted(lines)[:_NAMED])) + (" and others" if len(lines) > _NAMED else "")
    wrong = "" if line is None else f", not in line {line}"
    raise NoPlace(f"the old text occurs more than once: it begins in lines {named}{wrong}; say which one by line")


def elsewhere(old: str, files: Iterable[tuple[str, str]]) -> str:
    """What to add where ``old`` is not in the file that was named: the first of ``files`` (path, text) that holds it;
    '' where none does."""
    for path, text in files:
        at = text.find(old) if old else -1
        if at >= 0:
            return f"\nIt is in {path}, line {text.count(chr(10), 0, at) + 1}."
    return ""


def places(text: str, old: str) -> Iterator[tuple[int, int]]:
    """(Offset, line from 1) of each occurrence."""
    at, line, counted = text.find(old), 1, 0
    while at >= 0:
        line += text.count("\n", counted, at)
        counted = at
        yield at, line
        at = text.find(old, at + 1)


def _most_alike(text: str, old: str) -> str:
    """The lines that were perhaps meant; '' where none are like it."""
    import difflib

    wanted = [line.strip() for line in old.split("\n")]
    first = next((number for number, line in enumerate(wanted) if line), None)
    if first is None:
        return ""
    lines = text.split("\n")[:_SEARCHED]
    stripped = [line.strip() for line in lines]
    match = difflib.get_close_matches(wanted[first], dict.fromkeys(stripped), n=1, cutoff=_ALIKE)
    if not match:
        return ""
    begin = max(0, stripped.index(match[0]) - first)
    shown = lines[begin : begin + min(len(wanted), _SHOWN)]
    numbered = [f"{at:5d}  {line}" for at, line in enumerate(shown, begin + 1)]
    return "\nMost like it:\n" + "\n".join(numbered)
