"""From what the user named (a spec or a bundle folder) to a bundle's files. Knows the compiler's front, not the
runtime."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

from runtime import suggest
from runtime.errors import UserError

SANDBOXES = ("bubblewrap", "process")
_NEEDED = ("runtime.json", "verl.yaml")


def bundle_files(
    named: Path,
    *,
    target: str,
    sandbox: str | None = None,
    tla: list[str] | None = None,
    settings: list[str] | None = None,
) -> Mapping[str, str]:
    """The bundle as text by file name: compiled now from a spec, or read from a folder that ``liverl compile`` wrote.

    ``sandbox`` replaces the spec's ``environment.type``. Raises ``SpecError`` for a bad spec and ``UserError`` for a
    folder that is no bundle, or for options that a bundle cannot take any more. Warnings go to stderr."""
    if sandbox is not None and sandbox not in SANDBOXES:
        raise UserError(f"--sandbox {sandbox}: unknown; allowed: {', '.join(SANDBOXES)}")
    from compiler.library import find_spec

    named = find_spec(named)
    if named.is_dir():
        if tla or settings or sandbox:
            raise UserError(f"{named}: is compiled already; give --set, --tla and --sandbox together with the spec")
        return _read(named)
    from compiler import compile_in_memory
    from compiler.overrides import parse_tlas

    sets = [*(settings or []), *([f'environment.type="{sandbox}"'] if sandbox else [])]
    bundle = compile_in_memory(named, target=target, tlas=parse_tlas(tla or []), sets=sets)
    for problem in bundle.warnings:
        print(problem, file=sys.stderr)
    return bundle.files


def lasting_name(named: Path) -> str:
    """What names the spec or bundle from any folder and at any later time: a name of the library, or an absolute
    path."""
    from compiler.library import find_spec, name_in_library

    found = find_spec(named)
    return name_in_library(found) or str(found.absolute())


def spec_options(*, tla: list[str] | None, settings: list[str] | None, sandbox: str | None) -> tuple[str, ...]:
    """The options that a spec was compiled with, as words of a command."""
    given = [("--tla", text) for text in tla or ()] + [("--set", text) for text in settings or ()]
    return tuple(word for pair in [*given, *([("--sandbox", sandbox)] if sandbox else [])] for word in pair)


def _read(folder: Path) -> dict[str, str]:
    from compiler.bundle import read_lock, read_sweep_lock

    if (sweep := read_sweep_lock(folder)) is not None:
        points = sweep.get("points")
        example = next(iter(points), "POINT") if isinstance(points, dict) else "POINT"
        raise UserError(f"{folder}: a sweep of several bundles; name one of them, for example {folder / example}")
    lock = read_lock(folder)
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if lock is None or missing:
        what = f"no {missing[0]}" if missing else "no liverl.lock"
        raise UserError(f"{folder}: not a bundle ({what}); make one with `{suggest.liverl('compile', 'quickstart')}`")
    files = {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*"))
        # Kubernetes keeps the files of a mounted ConfigMap twice: below "..DATE", and as links to there.
        if path.is_file() and not path.relative_to(folder).parts[0].startswith("..")
    }
    listed = lock.get("files")
    for name, digest in listed.items() if isinstance(listed, dict) else ():
        if hashlib.sha256(files.get(name, "").encode()).hexdigest() != digest:
            print(f"{folder / name}: edited since it was compiled; running it as it stands", file=sys.stderr)
    return files
