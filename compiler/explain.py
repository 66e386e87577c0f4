"""Where a value comes from, both ways: a spec field to the line that set it and the artifacts that follow, an
artifact's line to the spec."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compiler import bundle, emit, sourcemap
from compiler.assemble import assemble, lower, resolve
from compiler.errors import refuse
from compiler.facts import Facts
from compiler.load import evaluate
from compiler.plan import make_plan
from compiler.registry import find_target
from compiler.summary import row_name

_MISSING = object()


def explain_field(
    spec: Path,
    path_text: str,
    *,
    tlas: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    point: str | None = None,
    target: str = "local",
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
    found = find_target(target)
    lowered = lower(make_plan(resolved_spec), found)
    gives = []
    shared = {"verl.yaml": lowered.verl, "vllm.yaml": lowered.vllm, "runtime.json": lowered.runtime}
    for name, facts in (shared if lowered.sft is None else {**shared, "sft.yaml": lowered.sft}).items():
        gives += [f"{name}: {line}" for line in _consequences(facts, path_text)]
    if target != "local":
        gives += _manifests(assemble(evaluated, target=found).files, path_text)
    lines += [f"  gives    {line}" for line in gives]
    if not gives:
        lines.append(f"  gives    nothing on the target {target}; --target shows what it gives on another")
    return "\n".join(lines)


def explain_line(place: str) -> str:
    """``BUNDLE/FILE:LINE`` -> the artifact's path there, its value's spec fields and their lines."""
    file_text, _, line_text = place.rpartition(":")
    file = Path(file_text)
    if not file_text or not line_text.isdecimal():
        raise refuse(
            f"{place}: no place in a bundle",
            allowed="SPEC PATH, or BUNDLE/FILE:LINE",
            fix="for example build/quickstart/local/verl.yaml:12",
        )
    folder = next((parent for parent in file.parents if (parent / bundle.MAP).is_file()), None)
    if folder is None:
        raise refuse(f"{file_text}: in no bundle", fix="compile the spec first")
    name, line = file.relative_to(folder).as_posix(), int(line_text)
    try:
        entries = json.loads((folder / bundle.MAP).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise refuse(f"{folder / bundle.MAP}: {error}", fix="compile the spec again") from None
    if not file.is_file():
        names = sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())
        raise refuse(f"{file_text}: no such file", allowed=", ".join(names))
    text = file.read_text(encoding="utf-8", errors="replace")
    if not 0 < line <= text.count("\n") + 1:
        raise refuse(f"{place}: no such line", allowed=f"1 to {text.count(chr(10))}")
    if record := _RECORDS.get(bundle.LOCK if name.endswith(bundle.LOCK) else name):
        return f"{name}:{line}  {record}"
    return "\n".join(
        [
            f"{name}:{line}  {first}" if number == 0 else first
            for number, first in enumerate(_explained(name, text, line, entries))
        ]
    )


_RECORDS = {
    bundle.LOCK: "written by the compiler: its version, and digests of the spec, its imports and every file here",
    bundle.MAP: "written by the compiler: for values of the files here, the fields and lines of the spec they follow "
    "from",
}


def _explained(name: str, text: str, line: int, entries: Mapping[str, Any]) -> list[str]:
    """What stands on a line of a file, and why."""
    path, inner = _path_on(name, text, line)
    if path is None:
        return ["no value on this line"]
    if name == "resolved.json":
        places = [
            position
            for file in entries.values()
            for entry in file.values()
            for origin, position in zip(entry.get("from", ()), entry.get("at", ()), strict=True)
            if origin == path
        ]
        where = _place(places[0]) if places else f"`explain SPEC {path}` says where it was set"
        return [f"the spec's own field {path}", f"  {where}"]
    held = entries.get(name, {})
    if inner is not None and f"{path}[line {inner}]" in held:
        path = f"{path}[line {inner}]"
    found = sourcemap.lookup(held, path)
    if found is None:
        if origins := sourcemap.below(held, path):
            return [path, f"  decided by the compiler; values below it follow from {_several(origins)}"]
        if name in _CONFIGURATION:
            return [path, "  decided by the compiler: nothing of the spec is below it"]
        return [path, "  decided by the compiler: the same in every bundle of this target"]
    where, entry = found
    lines_out = [path + (f"  (part of {where})" if where != path else "")]
    if "why" in entry:
        lines_out.append(f"  decided by the compiler: {entry['why']}")
    for origin, position in zip(entry.get("from", ()), entry.get("at", ()), strict=True):
        lines_out.append(f"  from {origin}, {_place(position)}")
    return lines_out


_CONFIGURATION = ("verl.yaml", "vllm.yaml", "runtime.json", "sft.yaml")


def _place(position: str) -> str:
    return "a default" if position == sourcemap.DEFAULT else f"set at {position}"


def _several(origins: Sequence[str]) -> str:
    return ", ".join(origins[:8]) + (f" and {len(origins) - 8} more" if len(origins) > 8 else "")


def _path_on(name: str, text: str, line: int) -> tuple[str | None, int | None]:
    """What the line of a file is called in the source map; with it, where it belongs to a text of several lines, its
    number in that text."""
    content = text.split("\n")[line - 1].strip()
    if name.endswith(".md"):
        return (row_name(content.strip("| ").split(" | ")[0]), None) if content.startswith("| ") else (None, None)
    if name.endswith((".yaml", ".json")):
        block = emit.block_at_line(text, line)
        return block[:2] if block is not None else (emit.path_at_line(text, line), None)
    return (f"line {line}", None) if content and not content.startswith("#") else (None, None)


def _manifests(files: Mapping[str, str], path: str) -> list[str]:
    """Values of a target's own files that follow from a field."""
    found = []
    for name, held in json.loads(files[bundle.MAP])["files"].items():
        if name in (*_CONFIGURATION, "SUMMARY.md"):
            continue
        documents = emit.all_documents(files[name]) if name.endswith((".yaml", ".json")) else []
        whole = documents[0] if len(documents) == 1 else documents
        for where, entry in held.items():
            if any(related(origin, path) for origin in entry.get("from", ())):
                value = _at(whole, sourcemap.parse_path(where)) if documents else _MISSING
                line = re.fullmatch(r"line (\d+)", where)
                if line:
                    value = files[name].split("\n")[int(line[1]) - 1].strip()
                found.append(f"{name}: {where}" + (f" = {_show(value)}" if value is not _MISSING else ""))
    return found


def related(origin: str, path: str) -> bool:
    """Whether one of two spec fields is the other, or holds it."""
    return (
        origin == path or path.startswith((f"{origin}.", f"{origin}[")) or origin.startswith((f"{path}.", f"{path}["))
    )


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
        if any(related(origin, path) for origin in fact.origins):
            inside = path.removeprefix(fact.copied) if fact.copied and path.startswith(fact.copied) else ""
            value = _at(fact.value, sourcemap.parse_path(inside))
            found.append(f"{name}{inside} = {_show(value)}" if value is not _MISSING else f"{name} (in part)")
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
