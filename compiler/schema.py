"""JSON Schema of the spec with every field's docstring, and single descriptions for ``liverl explain``.

The docstrings are read from the models' source when somebody asks, so that compiling never pays for them.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from functools import cache
from typing import Any

from pydantic import BaseModel

from compiler.errors import Path
from compiler.spec.experiment import ExperimentSpec
from compiler.validate import SCHEMA_KEY, models_of


def spec_schema() -> dict[str, Any]:
    schema = ExperimentSpec.model_json_schema()
    by_name = {model.__name__: model for model in reachable(ExperimentSpec)}
    for name, definition in {**schema.get("$defs", {}), ExperimentSpec.__name__: schema}.items():
        model = by_name.get(name)
        if model is None:
            continue
        for field, description in field_docs(model).items():
            definition["properties"][field]["description"] = description
    schema["patternProperties"] = {f"^{re.escape(SCHEMA_KEY)}$": {"type": "string"}}  # accepted, and no field
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "LiveRL experiment", **schema}


@cache
def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the docstring that follows it, base classes included."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls.__module__.startswith("pydantic"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                found[statement.target.id] = inspect.cleandoc(following.value.value)
    return {name: text for name, text in found.items() if name in model.model_fields}


def field_description(spec: BaseModel, path: Path) -> str:
    """Docstring of the field that ``path`` leads to, "" where it has none."""
    node: Any = spec
    description = ""
    for part in path:
        if isinstance(node, BaseModel) and isinstance(part, str):
            description = field_docs(type(node)).get(part, "")
            node = getattr(node, part, None)
        elif isinstance(node, tuple | list) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            return description
    return description


def reachable(model: type[BaseModel]) -> set[type[BaseModel]]:
    """``model`` and every model below it."""
    found: set[type[BaseModel]] = set()
    waiting = [model]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += [inner for field in current.model_fields.values() for inner in models_of(field.annotation)]
    return found
