"""Prints every key of ``task.toml`` that Harbor's own model reads, one a line; or, given tasks on standard input (a
list of texts), which of them it takes. Run by a Python that has Harbor."""

import json
import sys
import tomllib
import typing
from collections.abc import Iterator

from harbor.models.task.config import TaskConfig  # type: ignore[import-not-found]
from pydantic import BaseModel


def models(annotation: object) -> Iterator[tuple[type[BaseModel], str]]:
    """The models in a field's type, with [] for items of lists."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ""
    for inner in typing.get_args(annotation):
        for model, mark in models(inner):
            yield model, "[]" if typing.get_origin(annotation) is list else mark


def keys(model: type[BaseModel], prefix: str, above: tuple[type[BaseModel], ...]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner, mark in models(field.annotation):
            if inner not in above:
                yield from keys(inner, f"{prefix}{name}{mark}.", (*above, inner))


def taken(text: str) -> bool:
    try:
        TaskConfig.model_validate(tomllib.loads(text))
    except ValueError:
        return False
    return True


if __name__ == "__main__" and sys.argv[1:] == ["taken"]:
    print(json.dumps([taken(text) for text in json.load(sys.stdin)]))
elif __name__ == "__main__":
    print("\n".join(sorted(set(keys(TaskConfig, "", ())))))
