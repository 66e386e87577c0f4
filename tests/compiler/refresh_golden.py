"""Rewrites ``golden/`` from the specs: ``python -m tests.compiler.refresh_golden``. Prints what changed, by meaning."""

from __future__ import annotations

import sys

from compiler import SpecError, compile_in_memory
from compiler.bundle import read_lock, write_bundle
from compiler.diff import compare, open_side, render
from tests.compiler.golden_cases import CASES, golden_folder, spec_path


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
    return 0


if __name__ == "__main__":
    sys.exit(main())
