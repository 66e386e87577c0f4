"""Other people's parts that a spec names as ``package.module:Class``: a scaffold, a provider of sandboxes, an engine.

Finds the class and makes an instance; does not know what any of them does.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from runtime.errors import UserError


def imported(path: str, *, field: str) -> Any:
    """The class at ``path``, which ``field`` of the spec names. Raises ``UserError`` when there is none."""
    module_name, _, class_name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise refused(path, error, field=field) from error
    if not callable(found):
        raise refused(path, TypeError("not a class"), field=field)
    return found


def make(path: str, *arguments: Any, field: str, kwargs: Mapping[str, Any], **given: Any) -> Any:
    """An instance of it: ``given`` comes from LiveRL, ``kwargs`` from the spec. Raises ``UserError``."""
    found = imported(path, field=field)
    try:
        return found(*arguments, **given, **kwargs)
    except (TypeError, ValueError) as error:
        raise refused(path, error, field=field) from error


def refused(path: str, error: Exception, *, field: str) -> UserError:
    return UserError(f"{field}: {path!r}: {error}; use 'package.module:Class' of an installed package")
