"""Asynchronous against synchronous training on a long-tailed mix of trials, and against what the busier side allows.

    python benchmarks/asynchrony.py [--json]

The groups of trials and the data buffer are the real ones; engine, tools and optimizer are simulated in virtual time,
on two units of hardware either way. See ``tests/runtime/agent_loop/asynchrony_simulation.py``, which a test uses too.
The keys ``async_over_sync`` and ``share_of_bound`` are those of two batches ahead and four versions of staleness.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.runtime.agent_loop.asynchrony_simulation import compare
from tests.runtime.agent_loop.conftest import make_task

SETTINGS = {"1 ahead, 2 behind": (1, 2), "2 ahead, 4 behind": (2, 4), "3 ahead, 8 behind": (3, 8)}
REPORTED = "2 ahead, 4 behind"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for name, (ahead, limit) in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = compare(make_task(Path(folder)), Path(folder), ahead=ahead, limit=limit)
    table = Table(title="Asynchronous training, simulated: batches ahead, versions behind", title_justify="left")
    table.add_column("figure")
    for name in found:
        table.add_column(name, justify="right")
    for figure in found[REPORTED]:
        table.add_row(figure, *(f"{values[figure]:.3f}" for values in found.values()))
    Console().print(table)
    if arguments.json:
        print(json.dumps({**found[REPORTED], "settings": found}))


if __name__ == "__main__":
    main()
