"""How many tasks packages give that nobody chose for it, how long one takes, and why there are not more.

    python benchmarks/generate.py PACKAGES.txt [-n TASKS] [--json]

PACKAGES.txt: one a line, a source distribution as ``NAME==VERSION SHA256`` or a repository's folder and ``-``, then
what its tests need beside it, as ``NAME==VERSION``. Each package is asked for as many tasks; the table says the share
that it gave, seconds per task, and in words what stopped the search and what was left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from runtime.config import Bubblewrap, PackagePin
from runtime.errors import MachineError, TrialError, UserError
from runtime.tasks.generate.package_tasks import generate_package, image_with
from runtime.tasks.generate.sources import Package, fetch, open_repository
from runtime.tasks.graders import graders


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("packages", type=Path, nargs="?")
    parser.add_argument("-n", dest="count", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.packages is None:
        print("skipped: name the file of packages")
        return
    lines = [line.split() for line in options.packages.read_text().splitlines() if line.strip()]
    rows = [measure(line, options.count) for line in lines]
    if options.json:
        print(json.dumps(rows))


_COUNTS = ("tasks", "tests", "usable", "functions", "mutants", "tried", "unproven")


def measure(line: list[str], count: int) -> dict[str, object]:
    said: list[str] = []
    began = time.monotonic()
    row: dict[str, object] = {"package": Path(line[0]).name, "asked": count, **dict.fromkeys(_COUNTS, 0)}
    with tempfile.TemporaryDirectory(prefix="liverl-generate-") as folder:
        try:
            row |= asyncio.run(_generate(line, count, Path(folder), said))
        except (UserError, MachineError, TrialError) as error:
            row["why"] = str(error)
    row["seconds"] = round(time.monotonic() - began, 1)
    why = [text.partition(": ")[2] for text in said if " tasks: " in text] or [str(row.get("why", ""))]
    lost = Counter(text.rpartition(": ")[2] for text in said if "left out: " in text)
    row["why"] = "; ".join([*filter(None, why), *(f"{number} left out: {reason}" for reason, number in lost.items())])
    print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)
    return row


def _package(line: list[str], *, cache: Path) -> Package:
    name, pinned, version = line[0].partition("==")
    if not pinned:
        return open_repository(Path(line[0]))
    return fetch(PackagePin(name=name, version=version, sha256=line[1]), cache=cache)


async def _generate(line: list[str], count: int, folder: Path, said: list[str]) -> dict[str, object]:
    async with graders(Bubblewrap(verifier_timeout_sec=600), state=folder / "state") as (provider, verifier):
        injection = await generate_package(
            _package(line, cache=folder),
            out=folder / "tasks",
            name="measured",
            split=None,
            limit=count,
            per_kind_fraction=0.25,
            seed=0,
            split_seed=0,
            provider=provider,
            verifier=verifier,
            image=image_with(line[2:]),
            cache=folder,
            workers=os.cpu_count() or 1,
            on_progress=said.append,
        )
    found = injection.survey
    return {
        "tasks": len(injection.bugs),
        "tests": found.tests,
        "usable": len(found.calls),
        "functions": injection.functions,
        "mutants": injection.mutants,
        "tried": injection.tried,
        "unproven": injection.unproven,
    }


if __name__ == "__main__":
    main()
