"""512 replicas and 10,000 sessions through the real balancer, in virtual time: spread, movement, and CPU per call.

    python benchmarks/balancer.py [--json]

16 of the replicas are lost on the way and come back, and weights are synced once. See
``tests/runtime/rollouter/balancer_simulation.py``, which the tests use too.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.runtime.rollouter.balancer_simulation import simulate


def figures(routing: str) -> dict[str, Any]:
    outcome = simulate(routing=routing)
    return {
        "sessions_finished": outcome.finished,
        "calls": outcome.calls,
        "spread_at_start": outcome.spread_at_start,
        "worst_load_over_mean": round(outcome.worst_load, 2),
        "sessions_that_had_to_move": len(outcome.homeless),
        "sessions_moved_beyond_those": len(outcome.moved_by_loss - outcome.homeless),
        "calls_to_lost_replicas": outcome.calls_to_lost,
        "cpu_us_per_call": round(outcome.cpu_us_per_call, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()
    found = {routing: figures(routing) for routing in ("least_in_flight", "rendezvous")}
    table = Table(title="Balancer: 512 replicas, 10,000 sessions", title_justify="left")
    table.add_column("figure")
    for routing in found:
        table.add_column(routing, justify="right")
    for name in found["rendezvous"]:
        table.add_row(name, *(str(values[name]) for values in found.values()))
    Console().print(table)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
