"""A plain value to an ``ExperimentSpec``, or to every problem at once in words for people.

Translates pydantic's findings: where, what, what is allowed, what to do. Knows the models only through their
annotations.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from compiler.errors import Path, Problem, SpecError
from compiler.redact import HIDDEN, KEY, SECRET
from compiler.spec.experiment import ExperimentSpec
from compiler.spec.policy import APART, ONE_ADAPTER
from runtime.config.base import PATTERNS
from runtime.config.scaffold import SIMILAR

MAX_PROBLEMS = 500
"""Whoever has more has one cause for most of them."""
MAX_DEPTH = 100
"""pydantic's reader of JSON ends at about twice this."""


SCHEMA_KEY = "$schema"
"""Where JSON names its schema for editors; nothing of the experiment."""


def validate(value: Any) -> ExperimentSpec:
    """Raises ``SpecError`` with all problems, in the order of the spec's fields, without positions."""
    if isinstance(value, dict) and isinstance(value.get(SCHEMA_KEY), str):
        value = {name: child for name, child in value.items() if name != SCHEMA_KEY}
    try:
        return ExperimentSpec.model_validate_json(json.dumps(value))
    except ValidationError as error:
        if (deep := _too_deep(value)) is not None:
            what = f"nested more than {MAX_DEPTH} levels deep"
            raise SpecError([Problem(deep, what, f"{MAX_DEPTH} levels")]) from None
        found = [dict(finding) for finding in error.errors(include_url=False)]
        problems = [_problem(finding, value) for finding in found[:MAX_PROBLEMS] if not _echo(finding, value)]
        if len(found) > MAX_PROBLEMS:
            problems.append(Problem((), f"{len(found) - MAX_PROBLEMS:,} more problems, not shown"))
    except (ValueError, RecursionError) as error:
        problems = [Problem((), f"the spec's value is no JSON that can be read: {error}")]
    raise SpecError(dict.fromkeys(problems))


def _too_deep(value: Any) -> Path | None:
    """The beginning of a path that no field of a spec is as deep as; None where there is none."""
    level: list[tuple[Path, Any]] = [((), value)]
    for _ in range(MAX_DEPTH):
        level = [
            ((*path, name), child)
            for path, node in level
            for name, child in (
                node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
            )
        ]
    return level[0][0][:4] if level else None


def _echo(finding: dict[str, Any], value: Any) -> bool:
    """A list counted as too short only because some of its elements are wrong."""
    found = _at(_walk(finding["loc"], value)[0], value)
    return finding["type"] == "too_short" and isinstance(found, list) and len(found) >= finding["ctx"]["min_length"]


def _problem(finding: dict[str, Any], value: Any) -> Problem:
    location, kind, context = finding["loc"], finding["type"], finding.get("ctx") or {}
    path, model = _walk(location, value)
    if location and location[-1] == "[key]":  # pydantic's word for the name of a field that people choose
        path = path[:-1]
    found = _at(path, value) if not location or location[-1] != "[key]" else path[-1]
    last = str(path[-1]) if path else ""
    shown = HIDDEN if _is_secret(path, found) else _show(found)
    if kind == "extra_forbidden" and _names_adapters(path, found):
        return Problem(path, f"several adapters, but {ONE_ADAPTER}", "policy.lora, one object, or null", APART)
    if kind == "extra_forbidden":
        allowed = list(model.model_fields) if model else []
        given = _at(path[:-1], value)
        missing = [name for name in allowed if not isinstance(given, dict) or name not in given]
        # An override with a slip in its name stands beside what it was to override.
        names = difflib.get_close_matches(last, allowed, n=1, cutoff=_A_SLIP) or missing
        advice = _meant(last, names) or _meant(last, allowed) or _elsewhere(path, given) or "remove it"
        return Problem(path, "unknown field", ", ".join(allowed), advice)
    if kind == "missing":
        return Problem(path, "missing", _allowed_for(model, last), f"add {last}")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        allowed = (
            [tag.strip().strip("'") for tag in str(context.get("expected_tags", "")).split(",")]
            if context.get("expected_tags")
            else []
        )
        if kind == "union_tag_not_found":
            fields = _allowed_for(model, last)
            if not isinstance(found, dict):
                return Problem(path, f"{shown} is no object", fields, "use a preset of liverl.libsonnet")
            return Problem((*path, "type"), "missing", fields, "add type, or use a preset of liverl.libsonnet")
        tag = str(context.get("tag"))
        if last == "algorithm" and (why := _unserved(tag)):
            return Problem((*path, "type"), f"{_show(context.get('tag'))} cannot run: {why}", ", ".join(allowed))
        advice = (SIMILAR.get(tag) if last == "scaffold" else None) or _meant(tag, allowed)
        return Problem((*path, "type"), f"{_show(context.get('tag'))} is unknown", ", ".join(allowed), advice)
    if last == "lora" and isinstance(found, list):
        return Problem(path, f"a list of adapters, but {ONE_ADAPTER}", "one object, or null", APART)
    if kind in ("literal_error", "enum"):
        options = _literals(str(context.get("expected", "")))
        return Problem(path, f"{shown} is not possible", ", ".join(options), _meant(str(found), options))
    return Problem(path, f"{shown}: {_words(kind, str(finding['msg']), context)}", _range(kind, context))


def _names_adapters(path: Path, value: Any) -> bool:
    """Whether a field that does not exist asks for adapters by their names."""
    if path[:1] != ("policy",):
        return False
    return path[-1] in ("adapters", "loras") or (path[1:2] == ("lora",) and isinstance(value, dict))


def _is_secret(path: Path, value: Any) -> bool:
    """Whether the place says that what was written there may be a secret."""
    if path[:1] == ("secrets",) and isinstance(value, str | list | dict):
        return not isinstance(value, str) or "=" in value or (len(path) < 3 and not re.fullmatch("[A-Z_]+", value))
    return bool(path) and KEY.search(str(path[-1])) is not None and isinstance(value, str | list | dict)


def _elsewhere(path: Path, given: Any) -> str:
    """Which other variants of the same axis have a field of this name."""
    annotation: Any = ExperimentSpec
    for part in path[:-1]:
        if isinstance(part, int):
            annotation = element_of(annotation)
            continue
        models = models_at(annotation)
        field = models[0].model_fields.get(part) if len(models) == 1 else None
        if field is None:
            return ""
        annotation = field.annotation
    kind = given.get("type") if isinstance(given, dict) else None
    others = [str(tag) for one in models_at(annotation) if path[-1] in one.model_fields for tag in tags(one)]
    if not others or kind in others:
        return ""
    return f"it belongs to type {', '.join(others)}, this is {kind}: remove it, or change type"


def _unserved(estimator: str) -> str:
    """Why an estimator that verl has cannot be used; empty for every other word."""
    from compiler.lower_algorithm import UNSERVED_ESTIMATORS

    return UNSERVED_ESTIMATORS.get(estimator, "")


_KINDS = {
    "int_type": "not a whole number",
    "int_from_float": "not a whole number",
    "float_type": "not a number",
    "string_type": "not a string",
    "bool_type": "neither true nor false",
    "model_type": "not an object",
    "model_attributes_type": "not an object",
    "dict_type": "not an object",
    "tuple_type": "not a list",
    "too_short": "too few elements",
    "string_too_short": "empty",
    "string_too_long": "too long",
    "greater_than": "too small",
    "greater_than_equal": "too small",
    "less_than": "too large",
    "less_than_equal": "too large",
    "finite_number": "not a finite number",
}


def _words(kind: str, message: str, context: dict[str, Any]) -> str:
    if kind == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], f"does not match {context['pattern']}")
    return _KINDS.get(kind, message[0].lower() + message[1:])


def _range(kind: str, context: dict[str, Any]) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "length >=", "max_length": "length <="}
    bounds = [f"{sign} {context[key]}" for key, sign in signs.items() if key in context]
    if bounds:
        return " and ".join(bounds)
    return {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "bool_type": "true, false",
    }.get(kind, "")


def _literals(expected: str) -> list[str]:
    return [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(",")]


_A_SLIP = 0.85
"""Names that are so alike (``difflib``) are one name, mistyped."""


def _meant(given: str, allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, allowed, n=1)
    return f"did you mean {close[0]}?" if close else ""


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    if SECRET.search(text):
        return HIDDEN
    return text if len(text) <= 60 else text[:57] + "..."


def _at(path: Path, value: Any) -> Any:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _walk(location: Sequence[str | int], value: Any) -> tuple[Path, type[BaseModel] | None]:
    """pydantic's location without its union tags, and the model that holds the last field of it."""
    path: list[str | int] = []
    annotation: Any = ExperimentSpec
    holder: type[BaseModel] | None = ExperimentSpec
    for part in location:
        models = models_at(annotation)
        tagged = next((model for model in models if isinstance(part, str) and part in tags(model)), None)
        if (tagged is not None and len(models) > 1) or (
            tagged is not None and not (isinstance(value, dict) and part in value)
        ):
            annotation = tagged
            holder = tagged
            continue
        path.append(part)
        value = _at((part,), value)
        if isinstance(part, int):
            annotation = element_of(annotation)
        elif len(models) == 1:
            holder = models[0]
            info = holder.model_fields.get(part)
            annotation = info.annotation if info is not None else None
        else:
            annotation = None
    return tuple(path), holder


def models_at(annotation: Any) -> list[type[BaseModel]]:
    """Models that a value of this annotation may be."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return models_at(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [model for option in get_args(annotation) for model in models_at(option)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """Every model that an annotation mentions, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for option in get_args(annotation) for model in models_of(option)]


def element_of(annotation: Any) -> Any:
    origin = get_origin(annotation)
    if origin is Annotated:
        return element_of(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return next((element_of(option) for option in get_args(annotation) if get_origin(option) is tuple), None)
    return get_args(annotation)[0] if origin is tuple else None


def tags(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("type")
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()


def _allowed_for(model: type[BaseModel] | None, name: str) -> str:
    """What could stand at field ``name`` of ``model``, in a few words."""
    field = model.model_fields.get(name) if model else None
    if field is None:
        return ""
    if options := models_at(field.annotation):
        kinds = [str(tag) for option in options for tag in tags(option)]
        return f"an object with type {', '.join(kinds)}" if kinds else "an object"
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return ", ".join(str(option) for option in get_args(annotation))
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true, false"}
    if annotation in names:
        return names[annotation]
    return "a list" if get_origin(annotation) is tuple else ""
