"""Where an edit was meant whose text is not exactly in the file that it names.

A small model writes the right line with a slip, or the path of the file beside it. Strict tools refuse that, and it is
most often repeated. Standard library only: runs inside sandboxes.
"""

from __future__ import annotations

import ast

if __package__:
    from .replace import places
else:
    from replace import places  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NEAR = 2
"""Lines around the one that was named."""
_THERE, _BESIDE, _ANYWHERE = 0.6, 0.75, 0.85
"""How alike texts must be in the line that was named, near it or in that line of another file, and elsewhere."""
_SEARCHED = 4000


def meant(
    path: str, text: str | None, old: str, new: str, line: int | None, others: Iterable[tuple[str, str]]
) -> tuple[str, str, int] | None:
    """(path, exact text, line from 1) of what ``old`` in ``path`` most probably means; None: nobody can tell. ``text``
    is what ``path`` holds, None: there is no such file; ``others``: (path, text) of the files beside it."""
    starts = _starts(text, old) if text is not None else []
    if starts:
        if len(starts) > 1 and line is None:
            return None
        return path, old, min(starts, key=lambda start: abs(start - (line or start)))
    others = list(others)
    held = [(other, start) for other, there in others for start in _starts(there, old)]
    if len(held) > 1:  # none in that line: a slip, maybe
        held = [(other, start) for other, start in held if start == line]
    if held:
        return (held[0][0], old, held[0][1]) if len(held) == 1 else None
    wanted = [part.strip() for part in old.strip().split("\n")]
    if not any(wanted):
        return None
    named = [(path, text)] if text is not None else []
    for files, starts_at, least in (
        (named, [line] if line else [], _THERE),
        (named, [line + step for step in range(-_NEAR, _NEAR + 1)] if line else [], _BESIDE),
        (others, [line] if line else [], _BESIDE),
        (named, None, _ANYWHERE),
    ):
        found = max(_alike(files, wanted, starts_at), default=None)
        if found is not None and found[0] >= least:
            _, _, other, start = found
            whole = dict([*others, *named])[other]
            return other, _exact(other, whole, start, len(wanted), old, new), start
    return None


def _starts(text: str, old: str) -> list[int]:
    """The lines in which ``old`` begins."""
    return [line for _, line in places(text, old)] if old else []


def _alike(
    files: Iterable[tuple[str, str]], wanted: list[str], starts: list[int] | None
) -> Iterator[tuple[float, int, str, int]]:
    """(How alike, minus the place in the order, path, line) of as many lines as were ``wanted``."""
    import difflib

    asked = _bare(wanted)
    for path, text in files:
        lines = text.split("\n")[:_SEARCHED]
        if starts is None:
            close = difflib.get_close_matches(wanted[0], {part.strip() for part in lines}, n=3, cutoff=_ANYWHERE)
            tried = [number for number, part in enumerate(lines, 1) if part.strip() in close]
        else:
            tried = [number for number in starts if 1 <= number <= len(lines)]
        for order, number in enumerate(tried):
            here = _bare(lines[number - 1 : number - 1 + len(wanted)])
            if here:
                yield difflib.SequenceMatcher(None, asked, here, autojunk=False).ratio(), -order, path, number


def _bare(lines: list[str]) -> str:
    return "\n".join("".join(line.split()) for line in lines)


def _exact(path: str, text: str, start: int, number: int, old: str, new: str) -> str:
    """What stands in these lines: all of it, or the part that is like ``old`` where only so the file can be read."""
    import difflib

    lines = text.split("\n")
    whole = "\n".join(lines[start - 1 : start - 1 + number]).strip()
    blocks = difflib.SequenceMatcher(None, old.strip(), whole, autojunk=False).get_matching_blocks()[:-1]
    part = whole[blocks[0].b : blocks[-1].b + blocks[-1].size] if blocks else whole
    if part == whole or not path.endswith(".py"):
        return whole
    before = sum(len(line) + 1 for line in lines[: start - 1])

    def readable(piece: str) -> bool:
        at = text.index(piece, before)
        try:
            ast.parse(text[:at] + new.strip() + text[at + len(piece) :])
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
        return True

    return part if part and not readable(whole) and readable(part) else whole
