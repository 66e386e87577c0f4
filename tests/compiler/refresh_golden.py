"""Rewrites ``golden/`` from the specs: ``python -m tests.compiler.refresh_golden``. Prints what changed, by meaning."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from compiler import SpecError, Sweep, compile_all, compile_in_memory
from compiler.bundle import read_lock, write_bundle
from compiler.diff import compare, open_side, render
from tests.compiler.golden_cases import CASES, PINNED_OF_SWEEPS, SWEEPS, golden_folder, spec_path


def main() -> int:
    for name, target in CASES:
        folder = golden_folder(name, target)
        bundle = compile_in_memory(spec_path(name), target=target)
        if read_lock(folder) is not None:
            try:
                difference = compare(
                    open_side(str(folder), target=target), open_side(str(spec_path(name)), target=target)
                )
            except (SpecError, KeyError):
                print(f"{name} {target}: the old golden files no longer validate")
            else:
                if difference.facts or difference.artifacts:
                    print(render(difference, markdown=False))
        write_bundle(folder, bundle.files)
        print(f"{name} {target}: {len(bundle.files)} files")
    for name, target in SWEEPS:
        refresh_sweep(name, target)
    return 0


def refresh_sweep(name: str, target: str) -> None:
    """Writes what is pinned of a sweep, and says so when a byte of any of its points has moved."""
    folder = golden_folder(name, target)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        compiled = compile_all(spec_path(name), target=target, out=Path(scratch) / "sweep")
        assert isinstance(compiled, Sweep) and compiled.folder is not None
        changed = []
        for file in PINNED_OF_SWEEPS:
            new, old = (compiled.folder / file).read_text(), folder / file
            if not old.is_file() or old.read_text() != new:
                changed.append(file)
                old.write_text(new)
    print(f"{name} {target}: {len(compiled.points)} points; changed: {', '.join(changed) or 'nothing'}")


if __name__ == "__main__":
    sys.exit(main())
