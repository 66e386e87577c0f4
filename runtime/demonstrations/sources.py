"""Source code to make pairs of: the standard library, installed packages, folders, and what of it is held out.

Reads text; imports and runs nothing of it.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.config.tasks import canonical
from runtime.demonstrations.held_out import HeldOut
from runtime.errors import UserError
from runtime.tasks.generate.functions import Function, functions_of, lines_of
from runtime.tasks.generate.sources import is_test

STDLIB, INSTALLED = "stdlib", "installed"
MAX_BYTES = 200_000
"""Larger modules are tables, or made by a program."""
_NOT_TAUGHT = {
    *("idlelib", "turtledemo", "lib2to3", "encodings", "pydoc_data", "ensurepip", "site-packages", "__pycache__"),
    *("_vendor", "vendor", "_vendored", "vendored", "node_modules", "docs", "doc", "examples", "benchmarks"),
}


@dataclass(frozen=True)
class Module:
    """One file of source code. ``path``: as the agent would name it."""

    package: str
    path: str
    file: Path


def modules(sources: Sequence[str], held_out: HeldOut) -> list[Module]:
    """Of each source, in order of path: ``stdlib``, ``installed``, or a folder, whose own folders are one package each.
    Raises ``UserError`` for folders that are not there."""
    missing = [name for name in sources if name not in (STDLIB, INSTALLED) and not Path(name).expanduser().is_dir()]
    if missing:
        allowed = f"{STDLIB}, {INSTALLED}, or a folder of packages"
        raise UserError(*(f"pairs: {name}: no such folder; allowed: {allowed}" for name in missing))
    found: list[Module] = []
    for name in dict.fromkeys(sources):
        if name == STDLIB:
            found += _below(Path(sysconfig.get_path("stdlib")), held_out, package=STDLIB)
            continue
        roots = _installed() if name == INSTALLED else [Path(name).expanduser()]
        for entry in (entry for root in roots for entry in sorted(root.iterdir())):
            if entry.is_dir() and not entry.name.endswith((".dist-info", ".egg-info", ".data")):
                found += _below(entry, held_out, package=_name_of(entry), prefix=f"{entry.name}/" * (name == INSTALLED))
    return found


def _installed() -> list[Path]:
    """Folders of installed packages that this Python imports from, wherever they lie."""
    folders = {Path(entry).resolve() for entry in sys.path if entry}
    return sorted(folder for folder in folders if folder.is_dir() and any(folder.glob("*.dist-info")))


def _name_of(folder: Path) -> str:
    """Of a package's folder: that of an unpacked source distribution says its name."""
    try:
        said = re.search(r"^Name: *(\S+)", (folder / "PKG-INFO").read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        said = None
    return canonical(said[1]) if said else canonical(folder.name)


def _below(root: Path, held_out: HeldOut, *, package: str, prefix: str = "") -> Iterator[Module]:
    if canonical(package) in held_out.names or root.name in _NOT_TAUGHT or root.name.startswith("."):
        return
    for file in sorted(root.rglob("*.py")):
        path = prefix + file.relative_to(root).as_posix()
        parts = path.split("/")
        if _NOT_TAUGHT.intersection(parts) or is_test(path) or held_out.has_path(path):
            continue
        if any(part.startswith(("config-", ".")) for part in parts) or parts[-1] in ("setup.py", "conftest.py"):
            continue
        if file.is_file() and file.stat().st_size <= MAX_BYTES:
            yield Module(package, path, file)


def functions_in(module: Module, held_out: HeldOut) -> tuple[str, list[Function]]:
    """(Text, functions) of a module; nothing where it cannot be read."""
    try:
        text = module.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return "", []
    if "\r" in text or "\f" in text:
        return "", []
    lines = lines_of(text)
    return text, [
        function
        for function in functions_of(module.path, text)
        if not held_out.has_function("".join(lines[function.start - 1 : function.end]))
    ]
