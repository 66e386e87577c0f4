"""What differs between two compiled experiments, by meaning: spec fields, the numbers that follow and what moves them,
the artifact values that move and why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compiler import bundle, emit, sourcemap
from compiler.causes import causes
from compiler.explain import flatten, related
from compiler.plan import make_plan
from compiler.sides import Amount, Side, amounts, derived, open_side
from compiler.validate import validate

__all__ = ["Change", "Difference", "compare", "open_side", "render"]

_MISSING = "(none)"
_UNCOMPARED = (bundle.MAP, "SUMMARY.md", "resolved.json")
_SHOWN = 80


@dataclass(frozen=True)
class Change:
    """``because``: the changed spec fields that it follows from."""

    path: str
    old: str
    new: str
    because: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """``facts``: spec fields; ``follows``: derived numbers; ``amounts``: memory and cost; ``artifacts``: file -> values
    in it (empty: only other text changed)."""

    a: str
    b: str
    facts: tuple[Change, ...]
    follows: tuple[Change, ...]
    amounts: tuple[Change, ...]
    artifacts: Mapping[str, tuple[Change, ...]]


def compare(a: Side, b: Side, *, catalogue: Path | None = None) -> Difference:
    """``catalogue``: the prices that both were opened with."""
    facts = tuple(_changes(a.resolved, b.resolved))
    follows = tuple(_changes(a.derived, b.derived))
    quantities = tuple(_amount_changes(a.amounts, b.amounts))
    if follows or quantities:
        why = _causes(a, b, catalogue if any(change.path.startswith("cost") for change in quantities) else None)
        follows = tuple(replace(change, because=why.get(change.path, ())) for change in follows)
        quantities = tuple(replace(change, because=why.get(change.path, ())) for change in quantities)
    artifacts = {}
    for name in sorted(set(a.files) | set(b.files)):
        old, new = a.files.get(name, ""), b.files.get(name, "")
        if name not in _UNCOMPARED and not name.endswith(bundle.LOCK) and old != new:
            structured = name.endswith((".yaml", ".json"))
            changes = _changes(_parsed(old), _parsed(new)) if structured else _lines(old, new)
            paths = [change.path for change in facts]
            artifacts[name] = tuple(_reasoned(change, name, (a, b), paths) for change in changes)
    return Difference(a=a.name, b=b.name, facts=facts, follows=follows, amounts=quantities, artifacts=artifacts)


def _causes(a: Side, b: Side, catalogue: Path | None) -> dict[str, tuple[str, ...]]:
    def observe(resolved: Mapping[str, Any]) -> dict[str, Any]:
        plan = make_plan(validate(resolved))
        return {**dict(flatten(derived(plan))), **amounts(plan, catalogue)}

    return causes(a.resolved, b.resolved, observe)


def _reasoned(change: Change, name: str, sides: Sequence[Side], facts: Iterable[str]) -> Change:
    """The change of an artifact with the changed fields that its source map names."""
    origins: list[str] = []
    for side in sides:
        entries = json.loads(side.files.get(bundle.MAP, "{}")).get("files", {}).get(name, {})
        found = sourcemap.lookup(entries, change.path)
        origins += found[1].get("from", ()) if found is not None else ()
    because = [fact for fact in facts if any(related(origin, fact) for origin in origins)]
    return replace(change, because=tuple(because))


def render(difference: Difference, *, markdown: bool) -> str:
    """For a terminal, or as a pull request comment."""
    if not difference.facts and not difference.artifacts:
        return f"{difference.a} and {difference.b} compile to the same artifacts.\n"
    title = f"{difference.a} -> {difference.b}"
    sections: list[tuple[str, tuple[Change, ...]]] = [
        ("Spec", difference.facts),
        ("What follows", difference.follows),
        ("Memory and cost", difference.amounts),
    ]
    sections += [(f"Artifact {name}", changes) for name, changes in difference.artifacts.items()]
    out = [f"### {_code(title)}" if markdown else title]
    for heading, changes in sections:
        if not changes and heading in ("What follows", "Memory and cost"):
            continue
        out += ["", f"**{heading}**" if markdown else f"{heading}:"]
        if changes and markdown:
            reasons = heading != "Spec"
            out += ["", "| | before | after |" + (" because of |" if reasons else "")]
            out.append("|---|---|---|" + ("---|" if reasons else ""))
            for change in changes:
                cells = [change.path, change.old, change.new]
                why = f" {', '.join(map(_code, _few(change.because)))} |" if reasons else ""
                out.append("| " + " | ".join(map(_code, cells)) + " |" + why)
        elif changes:
            for change in changes:
                why = f"  ({', '.join(_few(change.because))})" if change.because else ""
                out.append(f"  {change.path}: {change.old} -> {change.new}{why}")
        else:
            nothing = "no field changed" if heading == "Spec" else "only comments or formatting"
            out += ["", nothing] if markdown else [f"  {nothing}"]
    return "\n".join(out) + "\n"


def _few(because: tuple[str, ...]) -> list[str]:
    return [*because[:6], *([f"{len(because) - 6} more"] if len(because) > 6 else [])]


def _changes(old: Any, new: Any) -> list[Change]:
    before, after = dict(flatten(old)), dict(flatten(new))
    changes = []
    for path in {**before, **after}:
        if path not in after:
            changes.append(Change(path, _short(_text(before[path])), _MISSING))
        elif path not in before:
            changes.append(Change(path, _MISSING, _short(_text(after[path]))))
        elif before[path] != after[path] or type(before[path]) is not type(after[path]):
            changes.append(Change(path, *_pair(before[path], after[path])))
    return changes


def _pair(old: Any, new: Any) -> tuple[str, str]:
    """Two values that differ, in few words that differ too."""
    if isinstance(old, str) and isinstance(new, str) and "\n" in old + new:
        was, now = old.splitlines(), new.splitlines()
        other = len([line for line in now if line not in was])
        return f"{len(was)} lines", f"{len(now)} lines, {other} of them new"
    before, after = _text(old), _text(new)
    if len(before) <= _SHOWN and len(after) <= _SHOWN:
        return before, after
    same = next((at for at, (x, y) in enumerate(zip(before, after, strict=False)) if x != y), 0)
    start = max(0, same - 20)
    return _short(before[start:], start), _short(after[start:], start)


def _lines(old: str, new: str) -> Iterator[Change]:
    """Lines that one of two texts (a script, a Dockerfile) has and the other has not."""
    before, after = old.splitlines(), new.splitlines()
    for number, line in enumerate(before, 1):
        if line not in after:
            yield Change(f"line {number}", _short(line), _MISSING)
    for number, line in enumerate(after, 1):
        if line not in before:
            yield Change(f"line {number}", _MISSING, _short(line))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _short(text: str, start: int = 0) -> str:
    shown = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return f"...{shown}" if start else shown


def _amount_changes(old: Mapping[str, Amount], new: Mapping[str, Amount]) -> Iterator[Change]:
    none = Amount(None, _MISSING)
    for name in {**old, **new}:
        was, now = old.get(name, none), new.get(name, none)
        if was == now:
            continue
        share = f" ({now.value / was.value - 1:+.0%})" if was.value and now.value is not None else ""
        yield Change(name, was.text, now.text + share)


def _code(text: str) -> str:
    """As code in a cell of a Markdown table."""
    return "`" + text.replace("|", "\\|").replace("`", "'").replace("\n", " ") + "`"


def _parsed(text: str) -> Any:
    documents = emit.all_documents(text)
    return documents[0] if len(documents) == 1 else documents
