"""Unified diffs without context, written and applied: what a target changes in the files that all targets share.

Without context, because a number that changes beside a hunk would change the diff too. Instead a hunk's heading names
the line that it stands below. Knows text; knows nothing of bundles.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@")


def difference(old: Mapping[str, str], new: Mapping[str, str], *, folder: str) -> str:
    """What makes ``new`` of ``old``, file by file; empty where nothing differs. ``folder`` stands before the new names.
    Every text ends in a newline."""
    return "".join(_file_difference(old[name], new[name], name, f"{folder}/{name}") for name in sorted(new))


def applied(old: Mapping[str, str], diff: str) -> dict[str, str]:
    """``old`` with a difference applied. Raises ``ValueError`` where it was not made from ``old``."""
    found = dict(old)
    lines = _lines(diff)
    at = 0
    while at < len(lines):
        name = lines[at].removeprefix("--- ").rstrip("\n")
        if not lines[at].startswith("--- ") or name not in old:
            raise ValueError(f"line {at + 1} of the difference names no file of these: {', '.join(old)}")
        at += 2
        text, taken = [], 0
        before = _lines(old[name])
        while at < len(lines) and (hunk := _HUNK.match(lines[at])):
            start, removed, added = (int(number) if number is not None else 1 for number in hunk.groups())
            start -= 1 if removed else 0  # a hunk that removes nothing names the line that it follows
            body = lines[at + 1 : at + 1 + removed + added]
            expected = [f"-{line}" for line in before[start : start + removed]]
            if body[:removed] != expected or len(body) != removed + added:
                raise ValueError(f"line {at + 1} of the difference was not made from this {name}")
            text += [*before[taken:start], *(line[1:] for line in body[removed:])]
            taken = start + removed
            at += 1 + len(body)
        found[name] = "".join([*text, *before[taken:]])
    return found


def _file_difference(old: str, new: str, name: str, new_name: str) -> str:
    before, after = _lines(old), _lines(new)
    found = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    out = []
    for kind, start, end, new_start, new_end in found:
        if kind == "equal":
            continue
        removed, added = before[start:end], after[new_start:new_end]
        heading = _heading(before[:start], (removed or added)[0])
        out.append(f"@@ -{_range(start, end)} +{_range(new_start, new_end)} @@{heading}\n")
        out += [*(f"-{line}" for line in removed), *(f"+{line}" for line in added)]
    return "".join([f"--- {name}\n", f"+++ {new_name}\n", *out] if out else [])


def _range(start: int, end: int) -> str:
    """As ``diff`` writes it: from 1; of nothing the line before; a length unless it is 1."""
    if start == end:
        return f"{start},0"
    return f"{start + 1},{end - start}" if end - start > 1 else f"{start + 1}"


def _heading(above: Sequence[str], line: str) -> str:
    """The nearest line above that is indented less: in YAML and JSON, what ``line`` belongs to."""
    depth = _depth(line)
    around = (one for one in reversed(above) if one.strip() and _depth(one) < depth)
    return f" {found.strip()}" if (found := next(around, "")) else ""


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _lines(text: str) -> list[str]:
    if text and not text.endswith("\n"):
        raise ValueError("a text without a newline at its end")
    return [f"{line}\n" for line in text.split("\n")[:-1]]
