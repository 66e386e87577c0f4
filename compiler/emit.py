"""Plain values to the bytes of files: YAML and JSON that are the same on every machine, and back from a line to a
path."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import orjson

_NUMBER = re.compile(r"[0-9],?\n")
"""The end of a line with a number; several files have none."""
_FLOAT = re.compile(r"(?<= )-?[0-9]+(?:\.[0-9]+(?:e[-+]?[0-9]+)?|e[-+]?[0-9]+)(?=,?$)", re.M)
"""A number with a fraction or an exponent. In indented JSON every value ends its line, and strings end in a quote."""
_PLAIN = re.compile(r"[A-Za-z_/$](?:[A-Za-z0-9_./${}@+-]|:(?=\S)| (?=[A-Za-z0-9])){0,127}")
"""Strings that YAML takes as they are, wherever they stand. Only some of them: the rest is PyYAML's to judge."""
_ELSEWHERE_FLOAT = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$")
_ELSEWHERE_INT = re.compile(r"[-+]?0(?:[oO][0-7]+|[xX][0-9a-fA-F]+|[bB][01]+)$")
_ELSEWHERE_BOOL = re.compile(r"[yYnN]$")
_LETTERS = ("y", "Y", "n", "N")
_WORDS = frozenset(["null", "true", "false", "yes", "no", "on", "off", "y", "n"])


def to_yaml(value: Any, *, header: str = "") -> str:
    """The bytes of PyYAML for the same value. Plain structures are written here, a tenth of its time and without
    loading it; whatever is unusual is left to it."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    lines: list[str] = []
    try:
        if not isinstance(value, dict) or not value:
            raise _Unusual
        _node(value, lines, "", "", set())
    except _Unusual:
        return comment + _by_library(value)
    return comment + "\n".join(lines) + "\n"


class _WithoutUnderscores:
    """A pattern as go-yaml 2 asks it of a number: underscores are left out first, wherever they stand."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern

    def match(self, text: str) -> re.Match[str] | None:
        return self._pattern.match(text.replace("_", ""))


class _Unusual(Exception):
    """A value that PyYAML must write."""


def _by_library(value: Any) -> str:
    import yaml

    text: str = yaml.dump(
        value, Dumper=_dumper(), sort_keys=False, width=1000, allow_unicode=True, default_flow_style=False
    )
    return text


@cache
def _dumper() -> type[Any]:
    """PyYAML's, which quotes what PyYAML would read as another kind of value, and also what other readers do: OmegaConf
    (``1e5``), those of YAML 1.2 (``0o17``), and kubectl's and Compose's (``0X1F``, ``09``, ``y``)."""
    import yaml

    base: type[Any] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    dumper = type("Dumper", (base,), {})
    for kind, pattern, first in (
        ("float", _WithoutUnderscores(_ELSEWHERE_FLOAT), "-+.0123456789"),
        ("int", _WithoutUnderscores(_ELSEWHERE_INT), "-+0123456789"),
        ("bool", _ELSEWHERE_BOOL, "yYnN"),
    ):
        dumper.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", pattern, list(first))  # type: ignore[attr-defined]
    return dumper


def _node(value: Any, lines: list[str], lead: str, pad: str, seen: set[int]) -> None:
    """A mapping or list with something in it. ``lead`` begins its first line, ``pad`` the others."""
    if id(value) in seen:
        raise _Unusual  # PyYAML gives it an anchor
    seen.add(id(value))
    if isinstance(value, dict):
        for name, child in value.items():
            if type(name) is not str or not _PLAIN.fullmatch(name) or name.lower() in _WORDS:
                if name not in _LETTERS:
                    raise _Unusual
                name = f"'{name}'"
            if isinstance(child, dict | list | tuple) and child:
                lines.append(f"{lead}{name}:")
                inner = f"{pad}  " if isinstance(child, dict) else pad
                _node(child, lines, inner, inner, seen)
            else:
                lines.append(f"{lead}{name}: {_scalar(child, seen)}")
            lead = pad
    else:
        for child in value:
            if isinstance(child, dict | list | tuple) and child:
                _node(child, lines, f"{lead}- ", f"{pad}  ", seen)
            else:
                lines.append(f"{lead}- {_scalar(child, seen)}")
            lead = pad


def _scalar(value: Any, seen: set[int]) -> str:
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
            return value
        return _quoted(value)
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if type(value) is int:
        return str(value)
    if type(value) is float and value - value == 0:
        text = repr(value)
        return text if "." in text else text.replace("e", ".0e")
    if isinstance(value, dict | list) and id(value) not in seen:
        seen.add(id(value))
        return "{}" if isinstance(value, dict) else "[]"
    raise _Unusual


@cache
def _quoted(text: str) -> str:
    """Any other string as PyYAML writes it, if it fits on a line: the same ones come again in every bundle."""
    if type(text) is not str or len(text) > 128:
        raise _Unusual
    first, *more = _by_library({"k": text}).removeprefix("k: ").splitlines()
    if more:
        raise _Unusual
    return first


def to_json(value: Any) -> str:
    """The bytes of ``json.dumps(value, indent=2, ensure_ascii=False)``, which leaves its C encoder when it indents.
    Keys are strings."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    except TypeError:  # integers beyond 64 bits, lone surrogates
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    if _NUMBER.search(text):
        # Python's shortest form of a float differs from others in where the exponent starts.
        text = _FLOAT.sub(lambda found: repr(float(found[0])), text)
    return text + "\n"


@cache
def _loader() -> type[Any]:
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@lru_cache(maxsize=2)  # asked line by line
def nodes(text: str) -> tuple[Any, ...]:
    """The documents of a YAML or JSON text as PyYAML's nodes, which know where they stand; none where it does not
    parse."""
    import yaml

    try:
        return tuple(document for document in yaml.compose_all(text, Loader=_loader()) if document is not None)
    except yaml.YAMLError:
        return ()


def path_at_line(text: str, line: int) -> str | None:
    """Dotted path of the innermost key or element that starts on or last before ``line`` (1-based) of a YAML or JSON
    text."""
    starts = paths_by_line(nodes(text))
    return starts[max(before)] if (before := [start for start in starts if start <= line]) else None


def paths_by_line(documents: Sequence[Any]) -> dict[int, str]:
    """Line -> dotted path of the innermost key or element that starts on it. ``documents``: nodes."""
    found: dict[int, str] = {}

    def visit(node: Any, path: str) -> None:
        if isinstance(node.value, str):
            return
        for index, child in enumerate(node.value):
            key, value = child if isinstance(child, tuple) else (child, child)
            step = f"[{index}]" if key is value else (f".{key.value}" if path else str(key.value))
            found[key.start_mark.line + 1] = path + step
            visit(value, path + step)

    for index, document in enumerate(documents):
        visit(document, f"[{index}]" if len(documents) > 1 else "")
    return found


def block_at_line(text: str, line: int) -> tuple[str, int, str] | None:
    """The text of several lines (a block of YAML) that a line belongs to: its path, the line's number in it, and the
    text. None on every other line."""
    import yaml

    def search(node: Any, path: str) -> tuple[str, int, str] | None:
        if isinstance(node, yaml.ScalarNode):
            first = node.start_mark.line + 1  # the line with the "|"
            inside = node.style == "|" and first < line <= first + node.value.count("\n")
            return (path, line - first, str(node.value)) if inside else None
        children = (
            [(f"{path}.{key.value}" if path else str(key.value), child) for key, child in node.value]
            if isinstance(node, yaml.MappingNode)
            else [(f"{path}[{index}]", child) for index, child in enumerate(node.value)]
        )
        for name, child in children:
            if child.start_mark.line < line <= child.end_mark.line + 1 and (found := search(child, name)) is not None:
                return found
        return None

    documents = nodes(text)
    for index, document in enumerate(documents):
        if (found := search(document, f"[{index}]" if len(documents) > 1 else "")) is not None:
            return found
    return None


def all_documents(text: str) -> list[Any]:
    """Every document of a YAML (or JSON) text."""
    import yaml

    return [document for document in yaml.load_all(text, Loader=_loader()) if document is not None]
