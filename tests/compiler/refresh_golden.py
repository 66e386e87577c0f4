"""Rewrites ``golden/`` from the specs: ``python -m tests.compiler.refresh_golden``. Prints what changed, by meaning.

Takes whatever lies there: nothing, another layout, a half-merged file. What the layout does not have is removed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from compiler import SpecError
from compiler.bundle import MAP
from compiler.diff import compare, render
from compiler.sides import side_of
from tests.compiler.golden_cases import GOLDEN, NAMES, case_files, folder_files, targets_of
from tests.compiler.golden_layout import DIGESTS, digests, digests_text, layout, restored


def main() -> int:
    for line in refresh(GOLDEN, NAMES):
        print(line)
    return 0


def refresh(folder: Path, names: Iterable[str]) -> list[str]:
    """Makes ``folder`` the golden files of these specs, and says what changed."""
    old = folder_files(folder) if folder.is_dir() else {}
    old_digests = _digests(old)
    new: dict[str, str] = {}
    new_digests: dict[str, str] = {}
    said = []
    for name in names:
        bundles = {target: case_files(name, target) for target in targets_of(name)}
        new |= layout(name, bundles)
        new_digests |= digests(name, bundles)
        told: dict[str, str] = {}
        for target, files in bundles.items():
            moved = _moved(old_digests, new_digests, f"{name}/{target}/")
            if moved and "resolved.json" in files and f"{name}/resolved.json" in old:
                text = _by_meaning(old, {**restored(new, name, target), MAP: files[MAP]}, name, target)
                body = text.partition("\n")[2]
                same = told.setdefault(body, target)
                said.append(text if not body or same == target else f"{name} {target}: as on {same}")
            said.append(f"{name} {target}: {len(files)} files; changed: {', '.join(moved) or 'nothing'}")
    _write(folder, old, {**new, DIGESTS: digests_text(new_digests)})
    return [line for line in said if line]


def _digests(golden: Mapping[str, str]) -> dict[str, str]:
    """The pinned digests; none where they cannot be read."""
    try:
        found = json.loads(golden[DIGESTS])
    except (KeyError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _moved(old: Mapping[str, str], new: Mapping[str, str], case: str) -> list[str]:
    """Files of a case of which a byte differs, or that one of the two lacks; points of a sweep as one."""
    paths = sorted(path for path in old.keys() | new.keys() if path.startswith(case) and old.get(path) != new.get(path))
    return list(dict.fromkeys(re.sub("/.*", "/", path.removeprefix(case)) for path in paths))


def _by_meaning(old: Mapping[str, str], after: Mapping[str, str], name: str, target: str) -> str:
    """What ``liverl diff`` says; empty where only maps, locks and pages differ."""
    try:
        before = restored(old, name, target)
        difference = compare(side_of(f"golden {name} on {target}", before), side_of(f"specs/{name}.jsonnet", after))
    except (SpecError, ValueError):
        return f"{name} {target}: the old golden files no longer validate"
    return render(difference, markdown=False) if difference.facts or difference.artifacts else ""


def _write(folder: Path, old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """From ``old`` to ``new``; a file that stays the same is left alone."""
    for path in old.keys() - new.keys():
        (folder / path).unlink()
        for above in Path(path).parents[:-1]:
            if not any((folder / above).iterdir()):
                (folder / above).rmdir()
    for path, text in new.items():
        if old.get(path) != text:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(text.encode())


if __name__ == "__main__":
    sys.exit(main())
