"""Where a value comes from, both ways: a spec field to the line that set it and the artifacts that follow, an
artifact's line to the spec."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compiler import bundle, emit, sourcemap
from compiler.assemble import lower, resolve
from compiler.errors import refuse
from compiler.facts import Facts
from compiler.load import evaluate
from compiler.plan import make_plan
from compiler.registry import find_target

_MISSING = object()


def explain_field(
    spec: Path,
    path_text: str,
    *,
    tlas: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    point: str | None = None,
) -> str:
    """``path = value``, the line that set it, what the field means, and which values of the bundle follow from it."""
    import difflib

    evaluated = evaluate(spec, tlas=tlas, sets=sets, point=point)
    resolved_spec = resolve(evaluated)
    resolved = resolved_spec.model_dump(mode="json")
    path = sourcemap.parse_path(path_text)
    value = _at(resolved, path)
    if value is _MISSING:
        known = [name for name, _ in flatten(resolved)]
        close = difflib.get_close_matches(path_text, known, n=3)
        raise refuse(f"{spec}: no field {path_text}", fix=f"did you mean {', '.join(close)}?" if close else "")
    lines = [f"{path_text} = {_show(value)}"]
    if not evaluated.positions.written(path):
        lines.append("  set by   the default of its model (no spec file names it)")
    else:
        exact = evaluated.positions.exact.get(path)
        place = evaluated.positions.display(path)
        lines.append(
            f"  set at   {place or spec}"
            + ("" if exact or not place else "  (the value around it; this one is computed)")
        )
    from compiler.schema import field_description

    if described := field_description(resolved_spec, path):
        lines.append(f"  meaning  {described}")
    lowered = lower(make_plan(resolved_spec), find_target("local"))
    for name, facts in (("verl.yaml", lowered.verl), ("vllm.yaml", lowered.vllm), ("runtime.json", lowered.runtime)):
        lines += [f"  gives    {name}: {line}" for line in _consequences(facts, path_text)]
    return "\n".join(lines)


def explain_line(place: str) -> str:
    """``BUNDLE/FILE:LINE`` -> the artifact's path there, its value's spec fields and their lines."""
    file_text, _, line_text = place.rpartition(":")
    file = Path(file_text)
    if not file_text or not line_text.isdigit():
        raise refuse(
            f"{place}: no place in a bundle",
            allowed="SPEC PATH, or BUNDLE/FILE:LINE",
            fix="for example build/quickstart/local/verl.yaml:12",
        )
    folder = next((parent for parent in file.parents if (parent / bundle.MAP).is_file()), None)
    if folder is None:
        raise refuse(f"{file_text}: in no bundle", fix="compile the spec first")
    name = file.relative_to(folder).as_posix()
    try:
        entries = json.loads((folder / bundle.MAP).read_text(encoding="utf-8"))["files"]
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError, KeyError) as error:
        raise refuse(f"{place}: {error}", fix="compile the spec again") from None
    if name not in entries and name != "resolved.json":
        raise refuse(f"{name} has no source map", allowed=", ".join([*sorted(entries), "resolved.json"]))
    path = emit.path_at_line(text, int(line_text))
    if path is None:
        return f"{name}:{line_text}  no value on this line"
    if name == "resolved.json":
        return f"{name}:{line_text}  the spec's own field {path}; liverl explain SPEC {path} says where it was set"
    found = sourcemap.lookup(entries[name], path)
    if found is None:
        return f"{name}:{line_text}  {path}\n  decided by the compiler"
    where, entry = found
    lines = [f"{name}:{line_text}  {path}" + (f"  (part of {where})" if where != path else "")]
    if "why" in entry:
        lines.append(f"  decided by the compiler: {entry['why']}")
    for origin, position in zip(entry.get("from", ()), entry.get("at", ()), strict=False):
        lines.append(f"  from {origin}, {'a default' if position == sourcemap.DEFAULT else f'set at {position}'}")
    return "\n".join(lines)


def flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every leaf of a plain value with its dotted path."""
    if isinstance(value, dict) and value:
        return [
            leaf for name, child in value.items() for leaf in flatten(child, f"{path}.{name}" if path else str(name))
        ]
    if isinstance(value, list) and value:
        return [leaf for index, child in enumerate(value) for leaf in flatten(child, f"{path}[{index}]")]
    return [(path, value)]


def _consequences(facts: Facts, path: str) -> list[str]:
    found = []
    for name, fact in facts.items():
        for origin in fact.origins:
            if (
                origin == path
                or path.startswith((f"{origin}.", f"{origin}["))
                or origin.startswith((f"{path}.", f"{path}["))
            ):
                inside = (
                    path.removeprefix(origin) if path.startswith(origin) and isinstance(fact.value, dict | list) else ""
                )
                value = _at(fact.value, sourcemap.parse_path(inside)) if inside else fact.value
                found.append(f"{name}{inside} = {_show(value)}" if value is not _MISSING else f"{name} (in part)")
                break
    return found


def _at(value: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return _MISSING
    return value


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."
