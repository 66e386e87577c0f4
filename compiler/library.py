"""The specs and the Jsonnet library that come with this program: where they lie, and specs by their name.

Knows names and folders; nothing of what a spec says.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

SUFFIX, LOCK = ".jsonnet", "liverl.lock"


@cache
def specs_folder() -> Path:
    """The folder of the specs that come with this program; specs import them by file name from anywhere."""
    found = importlib.util.find_spec("specs")
    assert found is not None and found.submodule_search_locations, "the package specs is part of this program"
    return Path(next(iter(found.submodule_search_locations)))


def library_folder() -> Path:
    """The folder that ``import 'liverl.libsonnet'`` falls back to."""
    return specs_folder() / "lib"


def names() -> list[str]:
    """The specs that come with this program, by name."""
    return sorted(path.stem for path in specs_folder().glob(f"*{SUFFIX}"))


def find_spec(named: Path) -> Path:
    """The file or bundle that ``named`` means: itself where it is one, else the spec of that name that comes with this
    program."""
    if len(named.parts) == 1 and not named.suffix and not named.is_file() and not (named / LOCK).is_file():
        path = specs_folder() / f"{named}{SUFFIX}"
        if path.is_file():
            return path
    return named


def name_in_library(spec: Path) -> str | None:
    """The name by which ``find_spec`` finds this very file; None for any other."""
    real = spec.resolve()
    return real.stem if real.parent == specs_folder().resolve() and real.suffix == SUFFIX else None
