"""How many groups a step begins that leaves out groups without signal, and how many come too late for it.

    python benchmarks/refills.py [--batch 32] [--json]

The sampler is the real one; trials are simulated in virtual time, ``--batch`` groups of 16 a step, 512 trials at once.
Compared are verl's own way in ``sync`` (two for each one that is left out, as many batches at once as fit into the
trials), ours there (as many as the step probably takes, and more than fit), and ``colocate_async`` with a batch ahead
and one version of staleness, by which the next step takes what came too late. See
``tests/runtime/trainer/refill_simulation.py``, which a test uses too.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runtime import processes
from tests.runtime.trainer import refill_simulation
from tests.runtime.trainer.refill_simulation import IN_FLIGHT, SIZE, simulate, two_for_one

SHARES = (0.25, 0.4, 0.6, 0.85)
STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--batch", type=int, default=16, help="groups of a step")
    arguments = parser.parse_args()
    refill_simulation.BATCH = arguments.batch
    fitting = IN_FLIGHT // (arguments.batch * SIZE)
    warnings.filterwarnings("ignore")  # verl warns about its own imports
    logging.disable(logging.WARNING)
    ways: dict[str, dict[str, Any]] = {
        "sync, two for one": {"kind": two_for_one(), "batches_at_once": max(1, fitting)},
        "sync": {"batches_at_once": fitting + 2},
        "colocate_async, 1 ahead, 1 behind": {"staleness": 2, "ahead": 1},
    }
    table = Table(title="Steps that leave out groups without signal, simulated", title_justify="left")
    for column in (
        "share with a difference",
        "way",
        "begun a step",
        "too late a step",
        "of those with a difference",
        "s",
    ):
        table.add_column(column, justify="right")
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ[processes.MARK] = folder
        for share in SHARES:
            for name, settings in ways.items():
                one = simulate(mixed=share, steps=STEPS, **settings)
                late = one.surplus + one.stale
                figures = {
                    "begun": one.begun / STEPS,
                    "late": late / STEPS,
                    "wasted": late / (late + one.trained),
                    "seconds": one.seconds / STEPS,
                }
                found.setdefault(name, {})[str(share)] = figures
                table.add_row(
                    f"{share:.2f}",
                    name,
                    *(f"{figures[key]:.1f}" for key in ("begun", "late")),
                    f"{figures['wasted']:.0%}",
                    f"{figures['seconds']:.0f}",
                )
    Console().print(table)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
