"""Tokens that a trainer sends through the model against those that differ, of a run's trials.

    python benchmarks/prefixes.py RUN... [--tokens N] [--json]

``RUN``: a run's directory, or any folder with trials below it. A row is a training sample, as verl gets it; tokens are
the same where everything before them is the same. ``step``: of all rows of a step at once; with ``--tokens``, in
micro-batches of so many (``trainer.max_tokens_per_rank``), cut by what the trainer itself cuts by.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runtime.trainer.prefix_tree import Row, cut, unique_tokens


@dataclass(frozen=True)
class Trial:
    step: int
    group: str
    session: str
    rows: list[Row]
    sampled: int


def read(folder: Path) -> list[Trial]:
    found = []
    for path in sorted(folder.rglob("trajectory.json")):
        record = orjson.loads((path.parent / "trial.json").read_bytes())
        if record["validation"] or record["reward"] is None:
            continue
        samples = orjson.loads(path.read_bytes())["samples"]
        rows = [np.array([*one["prompt_ids"], *one["response_ids"]], dtype=np.int64) for one in samples]
        sampled = sum(sum(one["response_mask"]) for one in samples)
        found.append(Trial(record["step"], record["group"], str(path.parent), rows, sampled))
    return found


def unique(trials: Sequence[Trial], *, by: str, tokens: int | None = None) -> int:
    """Tokens that differ among the rows that have the attributes ``by`` in common."""
    groups: dict[Hashable, list[Row]] = defaultdict(list)
    for trial in trials:
        groups[tuple(getattr(trial, name) for name in by.split())] += trial.rows
    if tokens is None:
        return sum(map(unique_tokens, groups.values()))
    parts = ([rows[at] for at in part] for rows in groups.values() for part in cut(rows, tokens=tokens))
    return sum(map(unique_tokens, parts))


def figures(trials: Sequence[Trial], tokens: int | None) -> dict[str, float]:
    forwarded = sum(len(row) for trial in trials for row in trial.rows)
    found: dict[str, float] = {
        "trials": len(trials),
        "rows": sum(len(trial.rows) for trial in trials),
        "tokens_forwarded": forwarded,
        "tokens_sampled": sum(trial.sampled for trial in trials),
    }
    for name, by in {"session": "step session", "group": "step group", "step": "step"}.items():
        differ = unique(trials, by=by)
        found |= {f"unique_{name}": differ, f"ratio_{name}": forwarded / differ}
    if tokens is not None:
        differ = unique(trials, by="step", tokens=tokens)
        found |= {"shared_forwarded": differ, "ratio_shared": forwarded / differ}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders with trials")
    parser.add_argument("--tokens", type=int, help="tokens of a micro-batch")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()
    trials = [trial for folder in arguments.runs for trial in read(folder)]
    if not trials:
        parser.error("no training trial with a grade there")
    found = figures(trials, arguments.tokens)
    table = Table(title="Tokens forwarded against tokens that differ", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in found.items():
        table.add_row(name, f"{value:,.2f}" if name.startswith("ratio") else f"{value:,}")
    Console().print(table)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
