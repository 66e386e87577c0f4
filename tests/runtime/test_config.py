"""The contract: every field of ``runtime.json`` has a reader, and each kind of part takes its own settings alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from runtime.config import Environment, Model, RuntimeConfig, load_runtime_config
from runtime.errors import UserError

RUNTIME = Path(__file__).parents[2] / "runtime"
CHOOSES = {"type", "schema_version"}
"""Fields that pydantic itself reads: which model of several, and of which form."""


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from _models(field.annotation)
    for argument in get_args(annotation):
        yield from _models(argument)


def _read() -> set[str]:
    """Names that the runtime's programs take from something: attributes, and keys of dumped models."""
    found: set[str] = set()
    for path in RUNTIME.rglob("*.py"):
        if path.is_relative_to(RUNTIME / "config"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                found.add(str(node.slice.value))
    return found


def test_every_field_of_the_contract_has_a_reader() -> None:
    read = _read() | CHOOSES
    unread = {f"{model.__name__}.{name}" for model in _models(RuntimeConfig) for name in model.model_fields} - {
        f"{model.__name__}.{name}" for model in _models(RuntimeConfig) for name in model.model_fields if name in read
    }
    assert not unread, f"nobody reads {', '.join(sorted(unread))}: take the field out, or give it its reader"


def test_a_backend_takes_its_own_settings_alone() -> None:
    """A box of bubblewrap with the block of a cluster would be read as either."""
    pods = {"kubernetes": {"image": "box:1"}}
    adapter: TypeAdapter[Any] = TypeAdapter(Environment)
    assert adapter.validate_python({"type": "kubernetes", **pods}).kubernetes.image == "box:1"
    with pytest.raises(ValidationError, match="kubernetes"):
        adapter.validate_python({"type": "bubblewrap", **pods})


def test_every_model_is_declared_once() -> None:
    """The spec's models extend the contract's where they say more; none repeats a field under the same docstring."""
    import compiler.spec.experiment  # noqa: F401 - its models are found below Model

    def below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
        for one in model.__subclasses__():
            yield one
            yield from below(one)

    own = {model for model in below(Model) if model.__module__.startswith("compiler.spec")}
    shared = {model.__name__: model for model in below(Model) if model.__module__.startswith("runtime.config")}
    copies = [
        model.__name__ for model in own if model.__name__ in shared and shared[model.__name__] not in model.__mro__
    ]
    assert not copies, f"declared by the spec and by the contract: {copies}"


@pytest.mark.parametrize("content", [None, b"", b"{", b"null", b"[]", b"\xff\xfe", b"{}", b'{"seed": "x"}'])
def test_a_damaged_contract_is_told_by_its_file(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "runtime.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(file))) as caught:
        load_runtime_config(file)
    assert "\n" not in str(caught.value)
