"""Arguments of tool calls: JSON as models write it, and plain text read by the type that the tool's schema declares.

Knows no wire format.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import orjson

from runtime.proxy.parsers.base import ToolSchemas

Schema = Mapping[str, Any]

_DEPTH = 16
"""Nested references and alternatives that are followed; a schema may refer to itself."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)  # it would be null for whoever reads it next


_DECODER = json.JSONDecoder(strict=False, parse_float=_finite, parse_constant=_no_number)
"""Reads line breaks inside of strings too, which models write and which mean nothing else."""


def json_at(text: str, position: int) -> tuple[Any, int] | None:
    """The JSON value that begins at ``position`` and where it ends; None when there is none."""
    try:
        value, end = _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError):
        return None
    return value, end


def json_text(value: Any) -> str:
    """JSON text that every client reads; half a surrogate pair, which is no character, becomes U+FFFD."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # whole numbers of more than 64 bits, or surrogates
        return _SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False))


def call_arguments(value: object) -> str | None:
    """The JSON text of arguments given as JSON: an object, or one in a string; None where it is neither."""
    if value is None:
        return "{}"
    if isinstance(value, str):
        inner = json_at(value, len(value) - len(value.lstrip()))
        if inner is None or value[inner[1] :].strip():
            return None
        value = inner[0]
    return json_text(value) if isinstance(value, dict) else None


class Parameters:
    """The declared parameters of one tool; an unknown tool has none."""

    def __init__(self, tools: ToolSchemas, name: str) -> None:
        self._root: Schema = tools.get(name, {})

    def read(self, name: str, text: str) -> object:
        """The argument that a format without JSON syntax gives as ``text``.

        Text wherever the schema allows text, so that the text of a JSON file stays one; ``null`` is the exception where
        the schema lists null as well, and so is a list where it lists lists. Elsewhere the JSON value of a declared
        type, and the text itself where it is none of them, for the tool to complain about.
        """
        schemas = [*self._alternatives(self._schema_of(name))]
        kinds = {kind for schema in schemas for kind in _kinds(schema)}
        if not kinds or "string" in kinds:
            if text == "null" and "null" in kinds:
                return None
            if "array" in kinds and text.lstrip().startswith("["):
                return _as_one_of(text, frozenset({"array"}))
            return text
        return _as_one_of(text, frozenset(kinds))

    def _schema_of(self, name: str) -> object:
        for schema in self._alternatives(self._root):
            properties = schema.get("properties")
            if isinstance(properties, Mapping) and name in properties:
                return properties[name]
        return self._root.get("additionalProperties")

    def _alternatives(self, schema: object, depth: int = 0) -> Iterator[Schema]:
        """``schema`` and what it refers to or is composed of."""
        if not isinstance(schema, Mapping) or depth > _DEPTH:
            return
        yield schema
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/"):
            yield from self._alternatives(self._referred(reference), depth + 1)
        for key in ("anyOf", "oneOf", "allOf"):
            parts = schema.get(key)
            for part in parts if isinstance(parts, list) else ():
                yield from self._alternatives(part, depth + 1)

    def _referred(self, reference: str) -> object:
        found: object = self._root
        for step in reference.removeprefix("#/").split("/"):
            if not isinstance(found, Mapping):
                return None
            found = found.get(step.replace("~1", "/").replace("~0", "~"))
        return found


def _kinds(schema: Schema) -> Iterator[str]:
    """The types that one schema names itself, by ``type``, ``enum``, ``const`` or OpenAPI's ``nullable``."""
    declared = schema.get("type")
    if isinstance(declared, str):
        yield declared
    elif isinstance(declared, list):
        yield from (kind for kind in declared if isinstance(kind, str))
    if schema.get("nullable") is True:
        yield "null"
    if declared is None:
        values = schema.get("enum")
        for value in [*(values if isinstance(values, list) else ()), *([schema["const"]] if "const" in schema else ())]:
            yield _kind_of(value)
        if "properties" in schema:
            yield "object"
        if "items" in schema:
            yield "array"


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


_WORDS = {"True": True, "False": False, "None": None}
"""Jinja writes these for JSON's words, and so do models whose templates let it."""


def _as_one_of(text: str, kinds: frozenset[str]) -> object:
    stripped = text.strip()
    if stripped in _WORDS:
        value: object = _WORDS[stripped]
    else:
        found = json_at(stripped, 0)
        if found is None or found[1] != len(stripped):
            return text
        value = found[0]
    kind = _kind_of(value)
    if kind == "number" and "number" not in kinds and "integer" in kinds and float(str(value)).is_integer():
        return int(float(str(value)))
    if kind in kinds or (kind == "integer" and "number" in kinds):
        return value
    return text
