"""Plain values to the bytes of files: YAML and JSON that are the same on every machine, and back from a line to a
path."""

from __future__ import annotations

import json
from typing import Any

import yaml

_Dumper: type[Any] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def to_yaml(value: Any, *, header: str = "") -> str:
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True, default_flow_style=False)
    return "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines()) + text


def to_json(value: Any) -> str:
    """The bytes of ``json.dumps(value, indent=2, ensure_ascii=False)``, which leaves its C encoder when it indents:
    here the C encoder writes the leaves, three times as fast. Keys are strings."""
    out: list[str] = []
    _indented(value, "\n", out)
    return "".join(out) + "\n"


_leaf = json.JSONEncoder(ensure_ascii=False).encode


def _indented(value: Any, newline: str, out: list[str]) -> None:
    inner = newline + "  "
    if isinstance(value, dict) and value:
        mark = "{"
        for name, child in value.items():
            out += (mark, inner, _leaf(name), ": ")
            _indented(child, inner, out)
            mark = ","
        out += (newline, "}")
    elif isinstance(value, list | tuple) and value:
        mark = "["
        for child in value:
            out += (mark, inner)
            _indented(child, inner, out)
            mark = ","
        out += (newline, "]")
    else:
        out.append(_leaf(value))


def from_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def path_at_line(text: str, line: int) -> str | None:
    """Dotted path of the innermost key or element that starts on or last before ``line`` (1-based) of a YAML or JSON
    text."""
    best: tuple[int, str] | None = None

    def visit(node: Any, path: str) -> None:
        nonlocal best
        children: list[tuple[int, str, Any]] = []
        if isinstance(node, yaml.MappingNode):
            for key, child in node.value:
                children.append((key.start_mark.line + 1, f"{path}.{key.value}" if path else str(key.value), child))
        elif isinstance(node, yaml.SequenceNode):
            for index, child in enumerate(node.value):
                children.append((child.start_mark.line + 1, f"{path}[{index}]", child))
        for start, name, child in children:
            if start <= line and (best is None or start >= best[0]):
                best = (start, name)
            visit(child, name)

    try:
        documents = [document for document in yaml.compose_all(text, Loader=_Loader) if document is not None]
    except yaml.YAMLError:
        return None
    for index, document in enumerate(documents):
        visit(document, f"[{index}]" if len(documents) > 1 else "")
    return best[1] if best else None


def all_documents(text: str) -> list[Any]:
    """Every document of a YAML (or JSON) text."""
    return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
