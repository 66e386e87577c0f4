"""What is sound of a spec that is wrong in places, so that rules across fields can speak in the same go as the models.

A field whose value is wrong is left out; asking for it raises ``Absent``, and the rule that asked has nothing more to
say. So no rule ever judges a guess. Knows the models only through their annotations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from compiler.errors import Path, Problem
from compiler.plan import Plan
from compiler.spec.experiment import ExperimentSpec
from compiler.validate import element_of, models_at, tags
from runtime.config.base import Absent

_MISSING = object()


def sound_parts(value: Any, problems: Iterable[Problem]) -> ExperimentSpec | None:
    """The spec without what ``problems`` name; None where nothing is left. ``value``: as evaluated."""
    wrong = {problem.path for problem in problems}
    made = _model(ExperimentSpec, value, wrong) if isinstance(value, dict) and () not in wrong else None
    assert made is None or isinstance(made, ExperimentSpec)
    return made


def heard(rules: Iterable[Callable[[Plan], Iterable[Problem]]], plan: Plan) -> Iterator[Problem]:
    """What the rules say about the sound parts of a spec."""
    for rule in rules:
        try:
            yield from rule(plan)
        except Absent:
            continue


def _model(model: type[BaseModel], value: dict[str, Any], wrong: set[Path]) -> BaseModel:
    found: dict[str, Any] = {}
    absent: list[str] = []
    for name, field in model.model_fields.items():
        below = {path[1:] for path in wrong if path[:1] == (name,)}
        made = _MISSING if () in below or (name not in value and field.is_required()) else None
        if made is None and name in value:
            made = _value(field.annotation, value[name], below)
            found[name] = made
        if made is _MISSING:
            absent.append(name)
    made_model = model.model_construct(**found)
    for name in absent:
        made_model.__dict__.pop(name, None)
    return made_model


def _value(annotation: Any, value: Any, wrong: set[Path]) -> Any:
    if get_origin(annotation) is Annotated:
        return _value(get_args(annotation)[0], value, wrong)
    models = models_at(annotation)
    if models and isinstance(value, dict):
        if len(models) > 1:
            models = [model for model in models if value.get("type") in tags(model)]
        return _model(models[0], value, wrong) if len(models) == 1 else _MISSING
    if models:
        return None if value is None and not wrong else _MISSING
    if isinstance(value, list) and (element := element_of(annotation)) is not None:
        made = [
            _value(element, one, {path[1:] for path in wrong if path[:1] == (index,)})
            for index, one in enumerate(value)
        ]
        broken = any(path[:1] == (index,) and len(path) == 1 for path in wrong for index in range(len(value)))
        return _MISSING if broken or any(one is _MISSING for one in made) else tuple(made)
    if wrong:
        return _MISSING
    # As the models make it, or a rule would say 25 here and 25.0 of the same spec once it is right.
    return float(value) if type(value) is int and _is_number(annotation) else value


def _is_number(annotation: Any) -> bool:
    """Whether a whole number becomes a ``float`` here."""
    if get_origin(annotation) is Annotated:
        return _is_number(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return any(map(_is_number, get_args(annotation))) and int not in get_args(annotation)
    return annotation is float
